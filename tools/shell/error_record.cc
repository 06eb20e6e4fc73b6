#include "tools/shell/error_record.h"

namespace partita::shell {

std::string_view CategoryName(ErrorCategory category) {
  switch (category) {
    case ErrorCategory::kNotSpecified:
      return "NotSpecified";
    case ErrorCategory::kSyntax:
      return "ParserError";
    case ErrorCategory::kInvalidArgument:
      return "InvalidArgument";
    case ErrorCategory::kNotFound:
      return "ObjectNotFound";
    case ErrorCategory::kPermissionDenied:
      return "PermissionDenied";
    case ErrorCategory::kInvalidState:
      return "InvalidOperation";
    case ErrorCategory::kTimeout:
      return "OperationTimeout";
    case ErrorCategory::kUnavailable:
      return "ResourceUnavailable";
    case ErrorCategory::kCancelled:
      return "OperationStopped";
  }
  return "NotSpecified";
}

ExitStatus StatusOf(ErrorCategory category) {
  switch (category) {
    case ErrorCategory::kSyntax:
    case ErrorCategory::kInvalidArgument:
      return ExitStatus::kUsage;
    case ErrorCategory::kNotFound:
      return ExitStatus::kNotFound;
    case ErrorCategory::kPermissionDenied:
      return ExitStatus::kDenied;
    case ErrorCategory::kInvalidState:
      return ExitStatus::kWrongState;
    case ErrorCategory::kTimeout:
      return ExitStatus::kTimedOut;
    case ErrorCategory::kUnavailable:
      return ExitStatus::kUnreachable;
    case ErrorCategory::kNotSpecified:
    case ErrorCategory::kCancelled:
      break;
  }
  return ExitStatus::kSomeFailed;
}

ExitStatus Worse(ExitStatus before, ExitStatus now) {
  if (before == ExitStatus::kOk || before == now) return now;
  return now == ExitStatus::kOk ? before : ExitStatus::kSomeFailed;
}

}  // namespace partita::shell
