#include "tools/shell/error_record.h"

#include <array>

namespace partita::shell {

namespace {

struct NamedCategory {
  ErrorCategory category;
  std::string_view name;
};
constexpr std::array<NamedCategory, 14> kCategories = {{
    {ErrorCategory::kNotSpecified, "NotSpecified"},
    {ErrorCategory::kSyntax, "ParserError"},
    {ErrorCategory::kInvalidArgument, "InvalidArgument"},
    {ErrorCategory::kNotFound, "ObjectNotFound"},
    {ErrorCategory::kPermissionDenied, "PermissionDenied"},
    {ErrorCategory::kInvalidState, "InvalidOperation"},
    {ErrorCategory::kTimeout, "OperationTimeout"},
    {ErrorCategory::kExists, "ResourceExists"},
    {ErrorCategory::kBusy, "ResourceBusy"},
    {ErrorCategory::kUnavailable, "ResourceUnavailable"},
    {ErrorCategory::kLimits, "LimitsExceeded"},
    {ErrorCategory::kNotImplemented, "NotImplemented"},
    {ErrorCategory::kUnreachable, "ConnectionError"},
    {ErrorCategory::kCancelled, "OperationStopped"},
}};

}  // namespace

std::string_view CategoryName(ErrorCategory category) {
  for (const NamedCategory& named : kCategories) {
    if (named.category == category) return named.name;
  }
  return "NotSpecified";
}

ErrorCategory CategoryOf(std::string_view name) {
  for (const NamedCategory& named : kCategories) {
    if (named.name == name) return named.category;
  }
  return ErrorCategory::kNotSpecified;
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
    case ErrorCategory::kUnreachable:
      return ExitStatus::kUnreachable;
    case ErrorCategory::kNotSpecified:
    case ErrorCategory::kExists:
    case ErrorCategory::kBusy:
    case ErrorCategory::kUnavailable:
    case ErrorCategory::kLimits:
    case ErrorCategory::kNotImplemented:
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
