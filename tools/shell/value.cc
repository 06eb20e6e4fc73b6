#include "tools/shell/value.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr int64_t kSecond = 1000;
constexpr int64_t kMinute = 60 * kSecond;
constexpr int64_t kHour = 60 * kMinute;
constexpr int64_t kDay = 24 * kHour;

std::string TwoDigits(int64_t value) { return (value < 10 ? "0" : "") + std::to_string(value); }
std::string Milliseconds(int64_t value) {
  if (value == 0) return "";
  return (value < 10 ? ".00" : value < 100 ? ".0" : ".") + std::to_string(value);
}

std::string SpanText(TimeSpan span) {
  const bool negative = span.milliseconds < 0;
  // The smallest number has no positive twin.
  const uint64_t all = negative ? 0 - static_cast<uint64_t>(span.milliseconds)
                                : static_cast<uint64_t>(span.milliseconds);
  const auto part = [&](uint64_t unit, uint64_t of) {
    return static_cast<int64_t>(of == 0 ? all / unit : all / unit % of);
  };
  const int64_t days = part(kDay, 0);
  return (negative ? "-" : "") + (days != 0 ? std::to_string(days) + "." : "") +
         TwoDigits(part(kHour, 24)) + ":" + TwoDigits(part(kMinute, 60)) + ":" +
         TwoDigits(part(kSecond, 60)) + Milliseconds(part(1, 1000));
}

// Days since 1970 to a civil date (proleptic Gregorian, eras of 400 years).
std::string DateText(DateTime date) {
  int64_t days = date.milliseconds / kDay;
  int64_t rest = date.milliseconds % kDay;
  if (rest < 0) rest += kDay, --days;
  days += 719468;
  const int64_t era = (days >= 0 ? days : days - 146096) / 146097;
  const int64_t day_of_era = days - era * 146097;
  const int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const int64_t day_of_year =
      day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t shifted = (5 * day_of_year + 2) / 153;
  const int64_t day = day_of_year - (153 * shifted + 2) / 5 + 1;
  const int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
  const int64_t year = year_of_era + era * 400 + (month <= 2 ? 1 : 0);
  std::string digits = std::to_string(year);
  if (year >= 0 && digits.size() < 4) digits.insert(0, 4 - digits.size(), '0');
  return digits + "-" + TwoDigits(month) + "-" + TwoDigits(day) + "T" + TwoDigits(rest / kHour) +
         ":" + TwoDigits(rest % kHour / kMinute) + ":" + TwoDigits(rest % kMinute / kSecond) +
         Milliseconds(rest % kSecond) + "Z";
}

std::string SizeText(Size size) {
  constexpr std::array<std::string_view, 6> kUnits = {" B", " KB", " MB", " GB", " TB", " PB"};
  double value = static_cast<double>(size.bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < kUnits.size()) value /= 1024, ++unit;
  const double tenths = std::round(value * 10);
  std::string text = DoubleText(std::trunc(tenths / 10));
  const int tenth = static_cast<int>(std::abs(std::fmod(tenths, 10.0)));
  if (tenth != 0) text += "." + std::to_string(tenth);
  return text.append(kUnits[unit]);
}

std::string ObjectText(const Object& object) {
  if (const Value* name = object.Find("Name"); name != nullptr && name->IfObject() == nullptr) {
    return ToText(*name);
  }
  std::string out = "@{";
  for (const Property& p : object.properties) {
    if (out.size() > 2) out += "; ";
    // One level: what lies deeper shows by its type, so that nothing grows without bound.
    out += p.name + "=" +
           (p.value.IfObject() != nullptr || p.value.IfArray() != nullptr ? TypeName(p.value)
                                                                          : ToText(p.value));
  }
  return out + "}";
}

// Text of an array inside an array is its type, so nesting costs nothing.
std::string ArrayText(const Array& array) {
  std::string out;
  for (const Value& element : array) {
    if (&element != array.data()) out += ' ';
    out += element.IfArray() != nullptr ? "Object[]" : ToText(element);
  }
  return out;
}

template <typename T>
int Order(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

std::optional<int64_t> IntFromDouble(double value) {
  // 2^63 is exact in a double; the largest int64 is not.
  if (!(value >= -9223372036854775808.0 && value < 9223372036854775808.0)) return std::nullopt;
  return static_cast<int64_t>(std::nearbyint(value));
}

std::string_view TakeUnit(std::string_view text, int* shift) {
  constexpr std::array<std::string_view, 5> kUnits = {"kb", "mb", "gb", "tb", "pb"};
  *shift = 0;
  for (size_t i = 0; i < kUnits.size() && text.size() > 2; ++i) {
    if (!EqualsFold(text.substr(text.size() - 2), kUnits[i])) continue;
    *shift = static_cast<int>(i + 1) * 10;
    return text.substr(0, text.size() - 2);
  }
  return text;
}

template <typename T, typename... Base>
bool ParseAll(std::string_view text, T* out, Base... base) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out, base...);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<int> CompareNumbers(const Value& left, const Value& right) {
  if (left.If<double>() == nullptr && right.If<double>() == nullptr) {
    const auto a = ToInt(left);
    const auto b = ToInt(right);
    if (a && b) return Order(*a, *b);
  }
  const auto a = ToDouble(left);
  const auto b = ToDouble(right);
  if (!a || !b) return std::nullopt;
  return Order(*a, *b);
}

}  // namespace

Object::Object(std::string type) : type_name(std::move(type)) {}

Object& Object::Add(std::string name, Value value, bool hidden) {
  properties.push_back({std::move(name), std::move(value), hidden});
  return *this;
}

const Value* Object::Find(std::string_view name) const {
  for (const Property& p : properties) {
    if (EqualsFold(p.name, name)) return &p.value;
  }
  return nullptr;
}

std::shared_ptr<const Block> Value::IfBlock() const {
  const auto* pointer = std::get_if<std::shared_ptr<const Block>>(&data_);
  return pointer == nullptr ? nullptr : *pointer;
}

std::string TypeName(const Value& value) {
  if (value.is_null()) return "Null";
  if (value.If<bool>() != nullptr) return "Boolean";
  if (value.If<int64_t>() != nullptr) return "Int64";
  if (value.If<double>() != nullptr) return "Double";
  if (value.If<std::string>() != nullptr) return "String";
  if (value.If<Size>() != nullptr) return "Size";
  if (value.If<DateTime>() != nullptr) return "DateTime";
  if (value.If<TimeSpan>() != nullptr) return "TimeSpan";
  if (value.If<EnumName>() != nullptr) return "Enum";
  if (value.IfArray() != nullptr) return "Object[]";
  if (const Object* object = value.IfObject()) {
    return object->type_name.empty() ? "Object" : object->type_name;
  }
  return "ScriptBlock";
}

std::string DoubleText(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  return std::string(buffer.data(), end);
}

std::string ToText(const Value& value) {
  if (value.is_null()) return "";
  if (const auto* v = value.If<bool>()) return *v ? "True" : "False";
  if (const auto* v = value.If<int64_t>()) return std::to_string(*v);
  if (const auto* v = value.If<double>()) return DoubleText(*v);
  if (const auto* v = value.If<std::string>()) return *v;
  if (const auto* v = value.If<Size>()) return std::to_string(v->bytes);
  if (const auto* v = value.If<DateTime>()) return DateText(*v);
  if (const auto* v = value.If<TimeSpan>()) return SpanText(*v);
  if (const auto* v = value.If<EnumName>()) return v->name;
  if (const Array* array = value.IfArray()) return ArrayText(*array);
  if (const Object* object = value.IfObject()) return ObjectText(*object);
  return "ScriptBlock";
}

std::string ToDisplay(const Value& value) {
  if (const auto* size = value.If<Size>()) return SizeText(*size);
  const Array* array = value.IfArray();
  if (array == nullptr) return ToText(value);
  std::string out = "{";
  for (const Value& element : *array) {
    if (&element != array->data()) out += ", ";
    out += element.IfArray() != nullptr ? "Object[]" : ToDisplay(element);
  }
  return out + "}";
}

bool ToBool(const Value& value) {
  if (value.is_null()) return false;
  if (const auto* v = value.If<bool>()) return *v;
  if (const auto* v = value.If<std::string>()) return !v->empty();
  if (value.is_number()) return *ToDouble(value) != 0;
  if (const Array* array = value.IfArray()) {
    // One level is enough: an array inside an array counts as something.
    if (array->empty()) return false;
    return array->size() > 1 || array->front().IfArray() != nullptr || ToBool(array->front());
  }
  return true;
}

std::optional<int64_t> ToInt(const Value& value) {
  if (value.is_null()) return 0;
  if (const auto* v = value.If<bool>()) return *v ? 1 : 0;
  if (const auto* v = value.If<int64_t>()) return *v;
  if (const auto* v = value.If<Size>()) return v->bytes;
  if (const auto* v = value.If<double>()) return IntFromDouble(*v);
  if (const auto* v = value.If<EnumName>()) return v->number;
  if (const auto* v = value.If<std::string>()) {
    const Value number = ParseNumber(*v);
    if (!number.is_null()) return ToInt(number);
  }
  return std::nullopt;
}

std::optional<double> ToDouble(const Value& value) {
  if (const auto* v = value.If<double>()) return *v;
  if (const auto* v = value.If<TimeSpan>()) return static_cast<double>(v->milliseconds) / kSecond;
  if (const auto* v = value.If<std::string>()) {
    const Value number = ParseNumber(*v);
    if (!number.is_null()) return ToDouble(number);
    return std::nullopt;
  }
  if (const auto whole = ToInt(value)) return static_cast<double>(*whole);
  return std::nullopt;
}

std::optional<TimeSpan> ToTimeSpan(const Value& value) {
  if (const auto* span = value.If<TimeSpan>()) return *span;
  if (const auto seconds = ToDouble(value)) {
    const auto milliseconds = IntFromDouble(*seconds * kSecond);
    if (milliseconds) return TimeSpan{*milliseconds};
    return std::nullopt;
  }
  const auto* text = value.If<std::string>();
  if (text == nullptr) return std::nullopt;
  // [d.]hh:mm[:ss]
  std::string_view rest = *text;
  int64_t days = 0;
  if (const size_t dot = rest.find('.'); dot != std::string_view::npos && dot < rest.find(':')) {
    if (!ParseAll(rest.substr(0, dot), &days) || days < 0 || days > 1'000'000) return std::nullopt;
    rest.remove_prefix(dot + 1);
  }
  std::array<int64_t, 3> parts{};
  size_t count = 0;
  while (count < parts.size()) {
    const size_t colon = rest.find(':');
    int64_t& part = parts[count++];
    if (!ParseAll(rest.substr(0, colon), &part) || part < 0 || part > 59) return std::nullopt;
    if (colon == std::string_view::npos) break;
    rest.remove_prefix(colon + 1);
    if (count == parts.size()) return std::nullopt;
  }
  if (count < 2 || parts[0] > 23) return std::nullopt;
  return TimeSpan{days * kDay + parts[0] * kHour + parts[1] * kMinute + parts[2] * kSecond};
}

Value ParseNumber(std::string_view text) {
  int shift = 0;
  text = TakeUnit(text, &shift);
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  if (text.empty() || !(IsDigit(text.back()) || StartsWithFold(text, "0x"))) return {};
  if (StartsWithFold(text, "0x")) {
    int64_t hex = 0;
    if (text[2 < text.size() ? 2 : 0] == '-' || !ParseAll(text.substr(2), &hex, 16)) return {};
    if (shift == 0) return hex;
    return (std::numeric_limits<int64_t>::max() >> shift) >= hex ? Value(hex << shift)
                                                                 : Value(std::ldexp(hex, shift));
  }
  const char first = text[0] == '-' && text.size() > 1 ? text[1] : text[0];
  if (!IsDigit(first) && first != '.') return {};
  int64_t whole = 0;
  if (ParseAll(text, &whole)) {
    int64_t product = 0;
    if (!__builtin_mul_overflow(whole, int64_t{1} << shift, &product)) return product;
  }
  double real = 0;
  if (!ParseAll(text, &real)) return {};
  real = std::ldexp(real, shift);
  if (shift != 0 && real == std::floor(real)) {
    if (const auto exact = IntFromDouble(real)) return *exact;
  }
  return real;
}

std::optional<int> Compare(const Value& left, const Value& right) {
  if (left.is_null() || right.is_null()) return Order(!left.is_null(), !right.is_null());
  if (const auto* a = left.If<std::string>()) return CompareFold(*a, ToText(right));
  if (left.If<bool>() != nullptr) return Order(ToBool(left), ToBool(right));
  if (left.is_number()) return CompareNumbers(left, right);
  if (const auto* a = left.If<EnumName>()) {
    if (const auto* b = right.If<EnumName>()) return Order(a->number, b->number);
    if (right.is_number()) return CompareNumbers(a->number, right);
    return CompareFold(a->name, ToText(right));
  }
  if (const auto* a = left.If<TimeSpan>()) {
    const auto b = ToTimeSpan(right);
    if (!b) return std::nullopt;
    return Order(a->milliseconds, b->milliseconds);
  }
  if (const auto* a = left.If<DateTime>()) {
    if (const auto* b = right.If<DateTime>()) return Order(a->milliseconds, b->milliseconds);
    // ISO 8601 in UTC orders as text.
    if (right.If<std::string>() != nullptr) return CompareFold(ToText(left), ToText(right));
  }
  return std::nullopt;
}

bool Equal(const Value& left, const Value& right) {
  if (left.is_null() || right.is_null()) return left.is_null() && right.is_null();
  if (const auto order = Compare(left, right)) return *order == 0;
  if (left.IfObject() != nullptr && right.IfObject() != nullptr) {
    const Object& a = *left.IfObject();
    const Object& b = *right.IfObject();
    return &a == &b || (a.type_name == b.type_name && a.Find("Name") != nullptr &&
                        b.Find("Name") != nullptr && ToText(left) == ToText(right));
  }
  if (left.IfObject() != nullptr) {
    return right.If<std::string>() != nullptr && EqualsFold(ToText(left), ToText(right));
  }
  return false;
}

int SortOrder(const Value& left, const Value& right) {
  if (const auto order = Compare(left, right)) return *order;
  return CompareFold(ToText(left), ToText(right));
}

Value Member(const Value& value, std::string_view name) {
  if (const Object* object = value.IfObject()) {
    if (const Value* found = object->Find(name)) return *found;
  }
  if (const Array* array = value.IfArray()) {
    if (EqualsFold(name, "Count") || EqualsFold(name, "Length")) {
      return static_cast<int64_t>(array->size());
    }
    Array found;
    for (const Value& element : *array) {
      if (element.IfArray() != nullptr) continue;
      Value one = Member(element, name);
      if (!one.is_null()) found.push_back(std::move(one));
    }
    if (found.empty()) return {};
    return found.size() == 1 ? found.front() : Value(std::move(found));
  }
  if (const auto* text = value.If<std::string>(); text != nullptr && EqualsFold(name, "Length")) {
    return static_cast<int64_t>(text->size());
  }
  if (const auto* span = value.If<TimeSpan>()) {
    const std::array<std::pair<std::string_view, int64_t>, 3> totals = {
        {{"TotalSeconds", kSecond}, {"TotalMinutes", kMinute}, {"TotalHours", kHour}}};
    for (const auto& [total, unit] : totals) {
      if (EqualsFold(name, total)) {
        return static_cast<double>(span->milliseconds) / static_cast<double>(unit);
      }
    }
    if (EqualsFold(name, "Days")) return span->milliseconds / kDay;
    if (EqualsFold(name, "Hours")) return span->milliseconds / kHour % 24;
    if (EqualsFold(name, "Minutes")) return span->milliseconds / kMinute % 60;
    if (EqualsFold(name, "Seconds")) return span->milliseconds / kSecond % 60;
  }
  if (EqualsFold(name, "Count")) return value.is_null() ? 0 : 1;
  return {};
}

}  // namespace partita::shell
