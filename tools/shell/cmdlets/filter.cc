#include <algorithm>
#include <array>
#include <deque>

#include "tools/shell/ast.h"
#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/operators.h"
#include "tools/shell/render.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

struct NamedComparison {
  const char* name;
  Operator op;
};
constexpr std::array<NamedComparison, 14> kComparisons = {
    {{"EQ", Operator::kEq},
     {"NE", Operator::kNe},
     {"GT", Operator::kGt},
     {"GE", Operator::kGe},
     {"LT", Operator::kLt},
     {"LE", Operator::kLe},
     {"Like", Operator::kLike},
     {"NotLike", Operator::kNotLike},
     {"Match", Operator::kMatch},
     {"NotMatch", Operator::kNotMatch},
     {"In", Operator::kIn},
     {"NotIn", Operator::kNotIn},
     {"Contains", Operator::kContains},
     {"NotContains", Operator::kNotContains}}};

class WhereObject : public Cmdlet {
 public:
  void Begin(const Bound& bound, Context& context) override {
    int given = 0;
    for (const NamedComparison& comparison : kComparisons) {
      if (bound.Switch(comparison.name)) op_ = comparison.op, ++given;
    }
    if (given > 1)
      context.Terminate(
          InvalidOperation("AmbiguousComparison",
                           "Where-Object takes one comparison; use { ... -and ... } for more"));
    if (given == 0 && bound.Has("Value"))
      context.Terminate(InvalidOperation(
          "MissingComparison",
          "Where-Object needs a comparison such as -eq between the property and the value"));
    if (given == 1 && !bound.Has("Value"))
      context.Terminate(
          InvalidOperation("MissingValue", "Where-Object needs a value behind the comparison"));
  }
  void Process(const Bound& bound, Context& context) override {
    const Value input = bound.Get("InputObject");
    if (const auto block = bound.Get("FilterScript").IfBlock()) {
      Array answers;
      if (!context.RunBlock(*block, input,
                            [&](Value value) {
                              answers.push_back(std::move(value));
                              return answers.size() < 2;  // two are already something
                            }) &&
          answers.size() < 2) {
        return;
      }
      if (ToBool(answers)) context.Write(input);
      return;
    }
    const Value value = Member(input, bound.Text("Property"));
    if (op_ == Operator::kNone) {
      if (ToBool(value)) context.Write(input);
      return;
    }
    Result<Value> holds = Apply(op_, value, bound.Get("Value"));
    if (!holds.ok()) return context.Error(std::move(holds.error()));
    if (ToBool(*holds)) context.Write(input);
  }

 private:
  Operator op_ = Operator::kNone;
};

class ForEachObject : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    const Value input = bound.Get("InputObject");
    const auto block = bound.Get("Process").IfBlock();
    if (block == nullptr) {
      const Value value = Member(input, bound.Text("MemberName"));
      if (value.IfArray() == nullptr) {
        if (!value.is_null()) context.Write(value);
        return;
      }
      for (const Value& element : *value.IfArray()) {
        if (!context.Write(element)) return;
      }
      return;
    }
    context.RunBlock(*block, input, [&](Value value) { return context.Write(std::move(value)); });
  }
};

class SelectObject : public Cmdlet {
 public:
  void Begin(const Bound& bound, Context& context) override {
    first_ = bound.Int("First", -1);
    last_ = bound.Int("Last", -1);
    skip_ = bound.Int("Skip", 0);
    for (const char* name : {"First", "Last", "Skip"}) {
      if (bound.Int(name, 0) < 0)
        context.Terminate(InvalidOperation(
            "NegativeCount", std::string("Select-Object: -") + name + " cannot be negative"));
    }
    if (first_ == 0) context.StopUpstream();
  }
  void Process(const Bound& bound, Context& context) override {
    if (!bound.Has("InputObject")) return;
    const Value input = bound.Get("InputObject");
    if (last_ >= 0) {
      kept_.push_back(input);
      if (static_cast<int64_t>(kept_.size()) > last_ + skip_) kept_.pop_front();
      return;
    }
    if (skipped_ < skip_) {
      ++skipped_;
      return;
    }
    Emit(bound, input, context);
    if (first_ >= 0 && passed_ >= first_) context.StopUpstream();
  }
  void End(const Bound& bound, Context& context) override {
    // -Skip with -Last leaves out the end.
    for (int64_t i = 0; i < static_cast<int64_t>(kept_.size()) - skip_; ++i) {
      Emit(bound, kept_[static_cast<size_t>(i)], context);
    }
  }

 private:
  void Emit(const Bound& bound, const Value& input, Context& context) {
    Array out{input};
    if (bound.Has("ExpandProperty")) {
      const std::string name = bound.Text("ExpandProperty");
      if (input.IfObject() != nullptr && input.IfObject()->Find(name) == nullptr) {
        ErrorRecord error = InvalidOperation("ExpandPropertyNotFound",
                                             "'" + ToText(input) + "' has no property " + name);
        error.target = ToText(input);
        return context.Error(std::move(error));
      }
      const Value value = Member(input, name);
      out = value.IfArray() != nullptr ? *value.IfArray() : Array{value};
    } else if (bound.Has("Property")) {
      Object object("Selected." + TypeName(input));
      for (const std::string& name : PropertyNames(
               input.IfObject() == nullptr ? Value(Object()) : input, bound.Texts("Property"))) {
        object.Add(name, Member(input, name));
      }
      out = Array{Value(std::move(object))};
    }
    for (Value& value : out) {
      if (bound.Switch("Unique") && Seen(value)) continue;
      ++passed_;
      if (!context.Write(std::move(value))) return;
    }
  }
  bool Seen(const Value& value) {
    std::string key = TypeName(value) + ":" +
                      (value.IfObject() != nullptr ? ToJson(value, false) : ToText(value));
    const auto at = std::lower_bound(seen_.begin(), seen_.end(), key);
    if (at != seen_.end() && *at == key) return true;
    seen_.insert(at, std::move(key));
    return false;
  }

  int64_t first_ = -1;
  int64_t last_ = -1;
  int64_t skip_ = 0;
  int64_t skipped_ = 0;
  int64_t passed_ = 0;
  std::deque<Value> kept_;
  std::vector<std::string> seen_;  // sorted
};

CmdletInfo Where() {
  CmdletInfo info{
      .verb = "Where",
      .noun = "Object",
      .aliases = {"?", "where"},
      .synopsis = "Lets through the objects for which a condition holds.",
      .description =
          "Either a property, a comparison and a value, or a script block with the object as $_.",
      .output_type = "Object",
      .sets = {"Compare", "Block"},
      .make = MakeCmdlet<WhereObject>};
  info.parameters = {{.name = "Property",
                      .help = "The property to look at.",
                      .position = 0,
                      .mandatory = true,
                      .sets = {"Compare"}},
                     {.name = "Value",
                      .type = ParameterType::kAny,
                      .help = "What it is compared with.",
                      .position = 1,
                      .sets = {"Compare"}},
                     {.name = "FilterScript",
                      .type = ParameterType::kBlock,
                      .help = "The condition, with the object as $_.",
                      .position = 0,
                      .mandatory = true,
                      .sets = {"Block"}},
                     InputParameter()};
  for (const NamedComparison& comparison : kComparisons) {
    info.parameters.push_back(
        {.name = comparison.name,
         .type = ParameterType::kSwitch,
         .help = std::string("Compares as -") + Lower(comparison.name) + " does.",
         .sets = {"Compare"}});
  }
  info.examples = {{"'web1','db','web2' | Where-Object Length -gt 2",
                    "The short form: property, comparison, value.", "web1\nweb2\n"},
                   {"1,2,3,4 | ? { $_ -gt 1 -and $_ -ne 3 }",
                    "The long form, for more than one condition.", "2\n4\n"}};
  return info;
}

CmdletInfo ForEach() {
  CmdletInfo info{
      .verb = "ForEach",
      .noun = "Object",
      .aliases = {"%", "foreach"},
      .synopsis = "Does something for each object.",
      .description = "Runs a script block with the object as $_, or takes one property of each.",
      .output_type = "Object",
      .sets = {"Member", "Block"},
      .make = MakeCmdlet<ForEachObject>};
  info.parameters = {{.name = "MemberName",
                      .help = "The property to take.",
                      .position = 0,
                      .mandatory = true,
                      .sets = {"Member"}},
                     {.name = "Process",
                      .type = ParameterType::kBlock,
                      .help = "What is done, with the object as $_.",
                      .position = 0,
                      .mandatory = true,
                      .sets = {"Block"}},
                     InputParameter()};
  info.examples = {{"1,2,3 | ForEach-Object { $_ * 2 }", "Computes with each object.", "2\n4\n6\n"},
                   {"'a','bcd' | % Length", "Takes a property of each object.", "1\n3\n"}};
  return info;
}

CmdletInfo Select() {
  CmdletInfo info{.verb = "Select",
                  .noun = "Object",
                  .aliases = {"select"},
                  .synopsis = "Takes some of the objects, or some properties of each.",
                  .description = "-First ends the commands before it as soon as it has enough.",
                  .output_type = "Object",
                  .make = MakeCmdlet<SelectObject>};
  info.parameters = {
      {.name = "Property",
       .help = "Properties to keep; wildcards are allowed.",
       .position = 0,
       .array = true},
      {.name = "ExpandProperty", .help = "The property whose value comes instead of the object."},
      {.name = "First", .type = ParameterType::kInt, .help = "How many from the beginning."},
      {.name = "Last", .type = ParameterType::kInt, .help = "How many from the end."},
      {.name = "Skip",
       .type = ParameterType::kInt,
       .help = "How many to leave out at the beginning (with -Last: at the end)."},
      {.name = "Unique", .type = ParameterType::kSwitch, .help = "Leaves out what came before."},
      InputParameter()};
  info.examples = {
      {"1,2,3,4,5 | Select-Object -First 2 -Skip 1", "Some from the beginning.", "2\n3\n"},
      {"1,2,3 | Select-Object -Last 2", "The end.", "2\n3\n"},
      {"Get-Alias gm | Select-Object -ExpandProperty Definition", "A property's value alone.",
       "Get-Member\n"},
      {"'a','b','a' | Select-Object -Unique", "Each once.", "a\nb\n"}};
  return info;
}

}  // namespace

void AddFilterCmdlets(CmdletTable* table) {
  table->Add(Where());
  table->Add(ForEach());
  table->Add(Select());
}

}  // namespace partita::shell
