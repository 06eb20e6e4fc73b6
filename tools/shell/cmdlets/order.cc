#include <algorithm>
#include <cmath>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/operators.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

// What an object is ordered or grouped by: properties, or itself.
Array Key(const Bound& bound, const Value& input) {
  Array key;
  for (const std::string& name : bound.Texts("Property")) key.push_back(Member(input, name));
  if (!bound.Has("Property")) key.push_back(input);
  return key;
}

int CompareKeys(const Array& a, const Array& b) {
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    if (const int order = SortOrder(a[i], b[i]); order != 0) return order;
  }
  return 0;
}

// Keeps what comes, up to a bound, until the end.
class Collecting : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    if (!bound.Has("InputObject")) return;
    const Value input = bound.Get("InputObject");
    items_.emplace_back(Key(bound, input), input);
    if (items_.size() > kMaxElements)
      context.Terminate(InvalidOperation("TooLarge", "more than a million objects are not kept"));
  }

 protected:
  std::vector<std::pair<Array, Value>> items_;
};

class SortObject : public Collecting {
 public:
  void End(const Bound& bound, Context& context) override {
    const bool down = bound.Switch("Descending");
    std::stable_sort(items_.begin(), items_.end(), [&](const auto& a, const auto& b) {
      return down ? CompareKeys(b.first, a.first) < 0 : CompareKeys(a.first, b.first) < 0;
    });
    for (size_t i = 0; i < items_.size(); ++i) {
      if (bound.Switch("Unique") && i > 0 && CompareKeys(items_[i - 1].first, items_[i].first) == 0)
        continue;
      if (!context.Write(items_[i].second)) return;
    }
  }
};

class GroupObject : public Collecting {
 public:
  void End(const Bound& /*bound*/, Context& context) override {
    std::stable_sort(items_.begin(), items_.end(), [](const auto& a, const auto& b) {
      return CompareKeys(a.first, b.first) < 0;
    });
    for (size_t begin = 0; begin < items_.size();) {
      Array members;
      size_t end = begin;
      while (end < items_.size() && CompareKeys(items_[begin].first, items_[end].first) == 0) {
        members.push_back(items_[end++].second);
      }
      std::vector<std::string> name;
      for (const Value& part : items_[begin].first) name.push_back(ToText(part));
      Object group("GroupInfo");
      group.Add("Count", static_cast<int64_t>(members.size()))
          .Add("Name", Join(name, ", "))
          .Add("Group", std::move(members));
      if (!context.Write(std::move(group))) return;
      begin = end;
    }
  }
};

class MeasureObject : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    if (!bound.Has("InputObject")) return;
    const Value input = bound.Get("InputObject");
    const Value value = bound.Has("Property") ? Member(input, bound.Text("Property")) : input;
    if (value.is_null()) return;  // has no such property: counts for nothing, as in PowerShell
    ++count_;
    if (bound.Switch("Minimum") && (minimum_.is_null() || SortOrder(value, minimum_) < 0))
      minimum_ = value;
    if (bound.Switch("Maximum") && (maximum_.is_null() || SortOrder(value, maximum_) > 0))
      maximum_ = value;
    if (!bound.Switch("Sum") && !bound.Switch("Average")) return;
    Result<Value> sum = Apply(
        Operator::kAdd,
        sum_.is_null() ? (value.If<Size>() != nullptr ? Value(Size{0}) : Value(0)) : sum_, value);
    if (!sum.ok()) return context.Error(std::move(sum.error()));
    sum_ = std::move(*sum);
    ++summed_;
  }
  void End(const Bound& bound, Context& context) override {
    Object out("MeasureInfo");
    out.Add("Count", count_);
    if (bound.Switch("Average"))
      out.Add("Average",
              summed_ == 0 ? Value() : Value(*ToDouble(sum_) / static_cast<double>(summed_)));
    if (bound.Switch("Sum")) out.Add("Sum", sum_.is_null() ? Value(0) : sum_);
    if (bound.Switch("Maximum")) out.Add("Maximum", maximum_);
    if (bound.Switch("Minimum")) out.Add("Minimum", minimum_);
    if (bound.Has("Property")) out.Add("Property", bound.Text("Property"));
    context.Write(std::move(out));
  }

 private:
  int64_t count_ = 0;
  int64_t summed_ = 0;
  Value sum_;
  Value minimum_;
  Value maximum_;
};

Parameter By(const char* help) {
  return {.name = "Property", .help = help, .position = 0, .array = true};
}
Parameter Flag(const char* name, const char* help) {
  return {.name = name, .type = ParameterType::kSwitch, .help = help};
}

}  // namespace

void AddOrderCmdlets(CmdletTable* table) {
  table->Add(
      {.verb = "Sort",
       .noun = "Object",
       .aliases = {"sort"},
       .synopsis = "Puts objects in order.",
       .description = "Objects that are equal keep their order; text has no case.",
       .output_type = "Object",
       .parameters = {By("What to order by, the most important first; without it, by the objects "
                         "themselves."),
                      Flag("Descending", "The largest first."),
                      Flag("Unique", "One of those that are equal."), InputParameter()},
       .examples = {{"10,9,100 | Sort-Object", "Numbers by their value.", "9\n10\n100\n"},
                    {"'b','C','a' | Sort-Object -Descending", "Text without case.", "C\nb\na\n"}},
       .make = MakeCmdlet<SortObject>});
  table->Add({.verb = "Group",
              .noun = "Object",
              .aliases = {"group"},
              .synopsis = "Puts objects with equal properties together.",
              .description = "Each group has Count, Name and the objects in Group.",
              .output_type = "GroupInfo",
              .parameters = {By("What to group by; without it, the objects themselves."),
                             InputParameter()},
              .examples =
                  {{"'a','b','a' | Group-Object", "How often each comes.",
                    "\nCount Name Group\n----- ---- -----\n    2 a    {a, a}\n    1 b    {b}\n\n"}},
              .make = MakeCmdlet<GroupObject>});
  table->Add(
      {.verb = "Measure",
       .noun = "Object",
       .aliases = {"measure"},
       .synopsis = "Counts objects, and adds up a property.",
       .description = "Without a switch it counts. Objects that lack the property do not count.",
       .output_type = "MeasureInfo",
       .parameters = {{.name = "Property",
                       .help = "What to measure; without it, the objects themselves.",
                       .position = 0},
                      Flag("Sum", "The sum."),
                      Flag("Average", "The mean."),
                      Flag("Minimum", "The smallest."),
                      Flag("Maximum", "The largest."),
                      InputParameter()},
       .examples = {{"1,2,6 | Measure-Object -Sum -Average -Maximum", "Several figures at once.",
                     "\nCount Average Sum Maximum\n----- ------- --- -------\n    3       3   9    "
                     "   6\n\n"}},
       .make = MakeCmdlet<MeasureObject>});
}

}  // namespace partita::shell
