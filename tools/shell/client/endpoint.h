// Where the management service is, and how a per-user one is started when there is none.
#ifndef PARTITA_TOOLS_SHELL_CLIENT_ENDPOINT_H_
#define PARTITA_TOOLS_SHELL_CLIENT_ENDPOINT_H_

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "tools/shell/error_record.h"
#include "tools/shell/session.h"

namespace partita::shell {

struct Endpoint {
  std::string socket;
  bool per_user = false;  // may be started by the shell
};

// What the choice depends on; tests put in their own.
struct Surroundings {
  std::function<std::optional<std::string>(const char* name)> environment;
  std::function<bool(const std::string& path)> may_use;  // a socket that this user may write to
  uid_t uid = 0;
};
Surroundings ThisProcess();

// In this order: PARTITA_SOCKET, the system-wide service where there is one that this user may use,
// the user's own.
Endpoint FindEndpoint(const Surroundings& surroundings);

// True if something accepts connections at `socket`.
bool Answers(const std::string& socket);

// Starts `program` for this user, listening at `socket`, and waits until it answers. Nothing is
// returned when it does. The directory of the socket is made for this user alone; one that belongs
// to somebody else is refused. What the program says goes to `partitad.log` beside the socket.
std::optional<ErrorRecord> StartService(const std::string& program, const std::string& socket,
                                        const CancelToken& cancel);
// partitad beside this program or in its libexec folder; empty if there is none.
std::string ServiceProgram();

ErrorRecord Unreachable(const std::string& socket, std::string why, std::string next_step);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_CLIENT_ENDPOINT_H_
