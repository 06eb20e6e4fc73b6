// The management service as cmdlets see it: requests with JSON answers, a stream of JSON lines, and
// a console. One thread. Answers come from a program of the same host but may carry a guest's text.
#ifndef PARTITA_TOOLS_SHELL_SERVICE_H_
#define PARTITA_TOOLS_SHELL_SERVICE_H_

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "tools/shell/error_record.h"

namespace partita::shell {

using Json = nlohmann::json;

class Service {
 public:
  virtual ~Service() = default;
  // `path` is behind the host, "/v1/vms"; no body if it is null. What the service refuses, and a
  // service that cannot be reached, is the error; Ctrl-C is one of kCancelled.
  virtual Result<Json> Call(std::string_view method, const std::string& path,
                            const Json& body = nullptr) = 0;
  // Each line as it comes, until `sink` returns false or the service ends the stream.
  virtual std::optional<ErrorRecord> Stream(const std::string& path,
                                            const std::function<bool(const Json&)>& sink) = 0;
  // A connection that carries the console's bytes both ways. `mode` is "read" or "write".
  virtual Result<UniqueFd> OpenConsole(const std::string& path, std::string_view mode) = 0;
};

// One part of a path: everything but letters, digits and "-._~" escaped.
std::string EscapePath(std::string_view part);
// The error an answer (or an operation) carries.
ErrorRecord ErrorFrom(const Json& body, int http_status);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_SERVICE_H_
