// What went wrong with one object, in the form every client of the service gets. `id` and
// `category` are stable: scripts match on them. Plain data; any thread.
#ifndef PARTITA_TOOLS_SHELL_ERROR_RECORD_H_
#define PARTITA_TOOLS_SHELL_ERROR_RECORD_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace partita::shell {

enum class ErrorCategory {
  kNotSpecified,
  kSyntax,
  kInvalidArgument,
  kNotFound,
  kPermissionDenied,
  kInvalidState,
  kTimeout,
  kExists,
  kBusy,
  kUnavailable,  // what a request needs is not there
  kLimits,
  kNotImplemented,
  kUnreachable,  // the service itself
  kCancelled,
};
// PowerShell's names, which the service uses too.
std::string_view CategoryName(ErrorCategory category);
ErrorCategory CategoryOf(std::string_view name);

// What a program that calls the shell sees.
enum class ExitStatus : int {
  kOk = 0,
  kSomeFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kDenied = 4,
  kWrongState = 5,
  kTimedOut = 6,
  kUnreachable = 7,
};
ExitStatus StatusOf(ErrorCategory category);
// The status of a run with several errors: theirs if it is one and the same, else kSomeFailed.
ExitStatus Worse(ExitStatus before, ExitStatus now);

struct ErrorRecord {
  std::string id = {};
  ErrorCategory category = ErrorCategory::kNotSpecified;
  std::string target = {};
  std::string message = {};
  std::vector<std::string> cause = {};  // from the nearest to the root
  std::string next_step = {};           // what the user can do; may be empty
  std::optional<size_t> position = {};  // in the source line, where the fault is there
};

// A T or the reason why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : data_(std::move(value)) {}            // NOLINT
  Result(ErrorRecord error) : data_(std::move(error)) {}  // NOLINT
  bool ok() const { return data_.index() == 0; }
  T& operator*() { return std::get<0>(data_); }
  T* operator->() { return &std::get<0>(data_); }
  ErrorRecord& error() { return std::get<1>(data_); }

 private:
  std::variant<T, ErrorRecord> data_;
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_ERROR_RECORD_H_
