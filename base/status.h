// Error values at component edges: absl::Status with factories that take std::string_view, and the
// two macros that pass errors up. Debian's Abseil has its own string_view type, so the conversion
// lives here and nowhere else.
#ifndef PARTITA_BASE_STATUS_H_
#define PARTITA_BASE_STATUS_H_

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace partita {

inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

[[nodiscard]] inline absl::Status InvalidArgument(std::string_view text) {
  return absl::InvalidArgumentError(AbslView(text));
}
[[nodiscard]] inline absl::Status FailedPrecondition(std::string_view text) {
  return absl::FailedPreconditionError(AbslView(text));
}
[[nodiscard]] inline absl::Status Unavailable(std::string_view text) {
  return absl::UnavailableError(AbslView(text));
}
[[nodiscard]] inline absl::Status ResourceExhausted(std::string_view text) {
  return absl::ResourceExhaustedError(AbslView(text));
}
[[nodiscard]] inline absl::Status Internal(std::string_view text) {
  return absl::InternalError(AbslView(text));
}
// `what` says what was being done and to what; the system's word for `error` follows.
[[nodiscard]] inline absl::Status SystemError(std::string_view what, int error = errno) {
  std::string text(what);
  text += ": ";
  text += std::generic_category().message(error);
  return absl::ErrnoToStatus(error, AbslView(what)).code() == absl::StatusCode::kOk
             ? Internal(text)
             : absl::Status(absl::ErrnoToStatusCode(error), AbslView(text));
}
inline std::string_view Message(const absl::Status& status) { return StdView(status.message()); }

}  // namespace partita

#define PARTITA_CONCAT_INNER(a, b) a##b
#define PARTITA_CONCAT(a, b) PARTITA_CONCAT_INNER(a, b)
#define RETURN_IF_ERROR(expression)                                         \
  do {                                                                      \
    if (absl::Status partita_status_ = (expression); !partita_status_.ok()) \
      return partita_status_;                                               \
  } while (false)
#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_INNER(PARTITA_CONCAT(partita_statusor_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_INNER(temporary, declaration, expression) \
  auto temporary = (expression);                                   \
  if (!temporary.ok()) return std::move(temporary).status();       \
  declaration = *std::move(temporary)

#endif  // PARTITA_BASE_STATUS_H_
