// What a request is answered with when it is not done: stable ids (docs/api.md lists them) and the
// categories that PowerShell has.
#ifndef PARTITA_TOOLS_SERVICE_API_ERROR_H_
#define PARTITA_TOOLS_SERVICE_API_ERROR_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace partita::service {

struct ApiError {
  int status = 500;  // of HTTP
  std::string id, category, target, message;
  std::vector<std::string> cause;
  std::string next_step;
};

namespace error {

inline ApiError NotFound(const std::string& what, const std::string& target) {
  return {404,
          what + ".not_found",
          "ObjectNotFound",
          target,
          "there is no " + what + " '" + target + "'",
          {},
          ""};
}
inline ApiError Invalid(std::string id, std::string target, std::string message) {
  return {400, std::move(id), "InvalidArgument", std::move(target), std::move(message), {}, ""};
}
inline ApiError Request(std::string message) {
  return Invalid("request.invalid", "", std::move(message));
}
inline ApiError Definition(const absl::Status& status, std::string target) {
  return Invalid("definition.invalid", std::move(target), std::string(Message(status)));
}
inline ApiError Host(std::string target, std::string message, std::string next_step = "") {
  return {500, "host.failure",      "ResourceUnavailable", std::move(target), std::move(message),
          {},  std::move(next_step)};
}
// "'NAME' is STATE" and what follows from that.
inline ApiError WrongState(const std::string& name, std::string_view state, std::string_view rest,
                           std::string next_step = "") {
  std::string message = "'" + name + "' is ";
  message.append(state).append(rest);
  return {409, "vm.wrong_state",    "InvalidOperation", name, std::move(message),
          {},  std::move(next_step)};
}
inline ApiError Guest(std::string target, std::string message) {
  return {409, "guest.refused", "InvalidOperation", std::move(target), std::move(message), {}, ""};
}
inline ApiError Denied(std::string message) {
  return {403, "access.denied", "PermissionDenied", "", std::move(message), {}, ""};
}

}  // namespace error

// What a started action ends with that was given up, or took too long.
inline ApiError TimedOut(std::string target, std::string message) {
  return {504, "operation.timeout", "OperationTimeout", std::move(target), std::move(message), {},
          ""};
}

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_API_ERROR_H_
