// The service over its Unix socket: HTTP by libcurl. The first request finds the service and, where
// it is the user's own and not there, starts it. One thread; waits end with Ctrl-C.
#ifndef PARTITA_TOOLS_SHELL_CLIENT_CLIENT_H_
#define PARTITA_TOOLS_SHELL_CLIENT_CLIENT_H_

#include <memory>
#include <string>

#include "tools/shell/client/endpoint.h"
#include "tools/shell/service.h"
#include "tools/shell/session.h"

namespace partita::shell {

class Client : public Service {
 public:
  // `cancel` outlives it.
  Client(Endpoint endpoint, const CancelToken* cancel);
  ~Client() override;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  Result<Json> Call(std::string_view method, const std::string& path,
                    const Json& body = nullptr) override;
  std::optional<ErrorRecord> Stream(const std::string& path,
                                    const std::function<bool(const Json&)>& sink) override;
  Result<UniqueFd> OpenConsole(const std::string& path, std::string_view mode) override;

 private:
  struct Request;
  struct Handles;
  std::optional<ErrorRecord> EnsureStarted();
  std::optional<ErrorRecord> Perform(Request* request);

  Endpoint endpoint_;
  const CancelToken* cancel_;
  std::unique_ptr<Handles> handles_;
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_CLIENT_CLIENT_H_
