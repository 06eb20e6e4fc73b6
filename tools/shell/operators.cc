#include "tools/shell/operators.h"

#include <re2/re2.h>

#include <cmath>
#include <limits>
#include <optional>

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

// Linear in the text whatever the pattern: the text may be a guest's.
Result<bool> Matches(const std::string& text, const std::string& pattern) {
  RE2::Options options;
  options.set_case_sensitive(false);
  options.set_log_errors(false);
  options.set_max_mem(1 << 20);
  const RE2 expression(pattern, options);
  if (!expression.ok()) {
    return InvalidOperation(
        "InvalidRegularExpression",
        "the pattern '" + pattern + "' is no regular expression: " + expression.error());
  }
  return RE2::PartialMatch(text, expression);
}

bool ContainsValue(const Value& array, const Value& value) {
  if (array.IfArray() == nullptr) return Equal(array, value);
  for (const Value& element : *array.IfArray()) {
    if (Equal(element, value)) return true;
  }
  return false;
}

Result<bool> Holds(Operator op, const Value& left, const Value& right) {
  const auto order = [&](auto test) -> Result<bool> {
    const std::optional<int> compared = Compare(left, right);
    if (compared) return test(*compared);
    return InvalidOperation("NotComparable", "'" + ToText(left) + "' (" + TypeName(left) +
                                                 ") and '" + ToText(right) + "' (" +
                                                 TypeName(right) + ") have no order");
  };
  switch (op) {
    case Operator::kEq:
      return Equal(left, right);
    case Operator::kNe:
      return !Equal(left, right);
    case Operator::kGt:
      return order([](int o) { return o > 0; });
    case Operator::kGe:
      return order([](int o) { return o >= 0; });
    case Operator::kLt:
      return order([](int o) { return o < 0; });
    case Operator::kLe:
      return order([](int o) { return o <= 0; });
    case Operator::kLike:
      return WildcardMatch(ToText(right), ToText(left));
    case Operator::kNotLike:
      return !WildcardMatch(ToText(right), ToText(left));
    case Operator::kMatch:
      return Matches(ToText(left), ToText(right));
    case Operator::kNotMatch: {
      Result<bool> matches = Matches(ToText(left), ToText(right));
      if (matches.ok()) *matches = !*matches;
      return matches;
    }
    default:
      return false;
  }
}

Result<Value> Compared(Operator op, const Value& left, const Value& right) {
  if (left.IfArray() == nullptr) {
    Result<bool> holds = Holds(op, left, right);
    if (!holds.ok()) return std::move(holds.error());
    return Value(*holds);
  }
  Array found;
  for (const Value& element : *left.IfArray()) {
    Result<bool> holds = Holds(op, element, right);
    if (!holds.ok()) return std::move(holds.error());
    if (*holds) found.push_back(element);
  }
  return Value(std::move(found));
}

Result<Value> Joined(const Value& left, const Value& right) {
  const Array* more = right.IfArray();
  if (left.IfArray()->size() + (more != nullptr ? more->size() : 1) > kMaxElements) {
    return InvalidOperation("TooLarge",
                            "an array of more than a million elements is not made here");
  }
  Array all = *left.IfArray();
  if (more != nullptr) {
    all.insert(all.end(), more->begin(), more->end());
  } else {
    all.push_back(right);
  }
  return Value(std::move(all));
}

std::optional<int64_t> Whole(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Operator::kAdd:
      return __builtin_add_overflow(a, b, &result) ? std::nullopt : std::optional(result);
    case Operator::kSubtract:
      return __builtin_sub_overflow(a, b, &result) ? std::nullopt : std::optional(result);
    case Operator::kMultiply:
      return __builtin_mul_overflow(a, b, &result) ? std::nullopt : std::optional(result);
    case Operator::kModulo:
      return b == -1 ? 0 : a % b;  // the smallest number by -1 would trap
    default:
      if (b == -1 && a == std::numeric_limits<int64_t>::min()) return std::nullopt;
      return a % b == 0 ? std::optional(a / b) : std::nullopt;
  }
}

Value Real(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return a + b;
    case Operator::kSubtract:
      return a - b;
    case Operator::kMultiply:
      return a * b;
    case Operator::kModulo:
      return std::fmod(a, b);
    default:
      return a / b;
  }
}

Result<Value> Arithmetic(Operator op, const Value& left, const Value& right) {
  if (op == Operator::kAdd && left.IfArray() != nullptr) return Joined(left, right);
  if (op == Operator::kAdd && left.If<std::string>() != nullptr) {
    std::string text = ToText(left) + ToText(right);
    if (text.size() > kMaxText)
      return InvalidOperation("TooLarge", "text of more than 16 MiB is not made here");
    return Value(std::move(text));
  }
  const auto a = ToDouble(left);
  const auto b = ToDouble(right);
  if (!a || !b) {
    return InvalidOperation("NotANumber", "'" + ToText(a ? right : left) + "' (" +
                                              TypeName(a ? right : left) + ") is no number");
  }
  const bool division = op == Operator::kDivide || op == Operator::kModulo;
  if (division && *b == 0) return InvalidOperation("DivideByZero", "a number was divided by zero");
  if (const TimeSpan* span = left.If<TimeSpan>(); span != nullptr && !division) {
    const auto sum = ToTimeSpan(Real(op, *a, *b));
    if (sum) return Value(*sum);
  }
  const auto whole = [](const Value& value) -> std::optional<int64_t> {
    if (value.If<double>() != nullptr || value.If<TimeSpan>() != nullptr) return std::nullopt;
    if (value.If<std::string>() != nullptr && ParseNumber(ToText(value)).If<double>() != nullptr)
      return std::nullopt;
    return ToInt(value);
  };
  const auto x = whole(left);
  const auto y = whole(right);
  if (x && y) {
    if (const auto result = Whole(op, *x, *y)) {
      return left.If<Size>() != nullptr && op != Operator::kDivide ? Value(Size{*result})
                                                                   : Value(*result);
    }
  }
  return Real(op, *a, *b);
}

}  // namespace

ErrorRecord InvalidOperation(std::string id, std::string message) {
  ErrorRecord error;
  error.id = std::move(id);
  error.category = ErrorCategory::kInvalidArgument;
  error.message = std::move(message);
  return error;
}

Result<Value> Apply(Operator op, const Value& left, const Value& right) {
  switch (op) {
    case Operator::kOr:
      return Value(ToBool(left) || ToBool(right));
    case Operator::kAnd:
      return Value(ToBool(left) && ToBool(right));
    case Operator::kIn:
      return Value(ContainsValue(right, left));
    case Operator::kNotIn:
      return Value(!ContainsValue(right, left));
    case Operator::kContains:
      return Value(ContainsValue(left, right));
    case Operator::kNotContains:
      return Value(!ContainsValue(left, right));
    case Operator::kAdd:
    case Operator::kSubtract:
    case Operator::kMultiply:
    case Operator::kDivide:
    case Operator::kModulo:
      return Arithmetic(op, left, right);
    default:
      return Compared(op, left, right);
  }
}

Result<Value> ApplyUnary(Operator op, const Value& value) {
  if (op == Operator::kNot) return Value(!ToBool(value));
  return Arithmetic(Operator::kSubtract, 0, value);
}

Result<Value> Index(const Value& value, const Value& index) {
  const auto wanted = ToInt(index);
  if (!wanted)
    return InvalidOperation("InvalidIndex",
                            "'" + ToText(index) + "' is no index; [0] is the first element");
  const Array one = value.is_null() ? Array{} : Array{value};
  const Array& array = value.IfArray() != nullptr ? *value.IfArray() : one;
  const auto size = static_cast<int64_t>(array.size());
  if (*wanted >= size || *wanted < -size) return Value();
  return array[static_cast<size_t>(*wanted < 0 ? *wanted + size : *wanted)];
}

}  // namespace partita::shell
