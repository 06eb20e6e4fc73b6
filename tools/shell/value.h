// What travels down a pipeline. A Value is immutable once built and cheap to copy (arrays and
// objects are shared); any thread. Comparisons and conversions follow PowerShell where a user would
// notice: the left side decides the type, text has no case, null equals null alone.
#ifndef PARTITA_TOOLS_SHELL_VALUE_H_
#define PARTITA_TOOLS_SHELL_VALUE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace partita::shell {

class Value;
struct Block;  // a script block, see ast.h
using Array = std::vector<Value>;

struct Size {
  int64_t bytes = 0;
};
struct DateTime {
  int64_t milliseconds = 0;  // since 1970, UTC
};
struct TimeSpan {
  int64_t milliseconds = 0;
};
// A word out of a fixed list: compares as its name with text, as its number with its like.
struct EnumName {
  std::string name;
  int64_t number = 0;
};

struct Property;
// Properties keep their order; names have no case. Hidden ones travel, and show with `*` only.
struct Object {
  std::string type_name;
  std::vector<Property> properties;

  // Where Property is whole: clang wants to know it for every member of the vector.
  explicit Object(std::string type = {});
  Object& Add(std::string name, Value value, bool hidden = false);
  const Value* Find(std::string_view name) const;
};

class Value {
 public:
  Value() = default;
  Value(bool value) : data_(value) {}                                               // NOLINT
  Value(int value) : data_(int64_t{value}) {}                                       // NOLINT
  Value(int64_t value) : data_(value) {}                                            // NOLINT
  Value(double value) : data_(value) {}                                             // NOLINT
  Value(std::string value) : data_(std::move(value)) {}                             // NOLINT
  Value(std::string_view value) : data_(std::string(value)) {}                      // NOLINT
  Value(const char* value) : data_(std::string(value)) {}                           // NOLINT
  Value(Size value) : data_(value) {}                                               // NOLINT
  Value(DateTime value) : data_(value) {}                                           // NOLINT
  Value(TimeSpan value) : data_(value) {}                                           // NOLINT
  Value(EnumName value) : data_(std::move(value)) {}                                // NOLINT
  Value(Array value) : data_(std::make_shared<const Array>(std::move(value))) {}    // NOLINT
  Value(Object value) : data_(std::make_shared<const Object>(std::move(value))) {}  // NOLINT
  Value(std::shared_ptr<const Block> block) : data_(std::move(block)) {}            // NOLINT

  bool is_null() const { return data_.index() == 0; }
  // The content if it is a T, else nullptr. Not for arrays, objects and blocks.
  template <typename T>
  const T* If() const {
    return std::get_if<T>(&data_);
  }
  const Array* IfArray() const { return Pointed<Array>(); }
  const Object* IfObject() const { return Pointed<Object>(); }
  std::shared_ptr<const Block> IfBlock() const;
  // A number of any kind (integer, size, double); text is none.
  bool is_number() const { return If<int64_t>() || If<double>() || If<Size>(); }

 private:
  template <typename T>
  const T* Pointed() const {
    const auto* pointer = std::get_if<std::shared_ptr<const T>>(&data_);
    return pointer == nullptr ? nullptr : pointer->get();
  }
  std::variant<std::monostate, bool, int64_t, double, std::string, Size, DateTime, TimeSpan,
               EnumName, std::shared_ptr<const Array>, std::shared_ptr<const Object>,
               std::shared_ptr<const Block>>
      data_;
};

struct Property {
  std::string name;
  Value value;
  bool hidden = false;
};

// What Get-Member calls it: "String", "Int64", an object's own type name ...
std::string TypeName(const Value& value);

// As text in a script: sizes as their number, dates as ISO 8601 in UTC, `d.hh:mm:ss`, an array's
// elements with a blank between, an object by its Name.
std::string ToText(const Value& value);
// As ToText, but for people: sizes as "512 MB".
std::string ToDisplay(const Value& value);
std::string DoubleText(double value);

bool ToBool(const Value& value);
std::optional<int64_t> ToInt(const Value& value);
std::optional<double> ToDouble(const Value& value);
std::optional<TimeSpan> ToTimeSpan(const Value& value);  // a number is seconds
// `12`, `-3`, `0x1F`, `1.5`, `2e3`, each with KB, MB, GB, TB or PB; null when text is none of
// these.
Value ParseNumber(std::string_view text);

// The right side is taken as the left side's type; below, at or above zero, nothing when they have
// no order.
std::optional<int> Compare(const Value& left, const Value& right);
bool Equal(const Value& left, const Value& right);
// An order over everything, for sorting: null first, then by Compare, then by text.
int SortOrder(const Value& left, const Value& right);

// A property, or what every value has (Count, Length; parts of a TimeSpan). An array answers with
// its elements' answers. Null when there is none.
Value Member(const Value& value, std::string_view name);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_VALUE_H_
