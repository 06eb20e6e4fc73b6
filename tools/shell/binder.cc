#include "tools/shell/binder.h"

#include <algorithm>
#include <optional>

#include "tools/control/nearest.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

ErrorRecord Wrong(const CmdletInfo& info, std::string id, std::string message) {
  ErrorRecord error;
  error.id = std::move(id);
  error.category = ErrorCategory::kInvalidArgument;
  error.target = info.Name();
  error.message = info.Name() + ": " + std::move(message);
  error.next_step = "Get-Help " + info.Name() + " shows its parameters";
  return error;
}

std::optional<Value> Enumerated(const Parameter& p, const std::string& text) {
  std::optional<Value> found;
  for (const std::string& value : p.values) {
    if (EqualsFold(value, text)) return Value(value);
  }
  for (const std::string& value : p.values) {
    if (text.empty() || !StartsWithFold(value, text)) continue;
    if (found) return std::nullopt;
    found = Value(value);
  }
  return found;
}

// One value as the parameter's type; nothing when it cannot be.
std::optional<Value> ConvertOne(const Parameter& p, const Value& value, const Value& text) {
  const auto wrap = [](const auto& converted) -> std::optional<Value> {
    if (!converted) return std::nullopt;
    return Value(*converted);
  };
  switch (p.type) {
    case ParameterType::kAny:
      return value;
    case ParameterType::kSwitch:
    case ParameterType::kBool:
      return Value(ToBool(value));
    case ParameterType::kString:
    case ParameterType::kPath:
      if (value.is_null() || value.IfBlock() != nullptr) return std::nullopt;
      if (value.IfObject() != nullptr && value.IfObject()->Find("Name") == nullptr)
        return std::nullopt;
      return Value(ToText(text));
    case ParameterType::kInt:
      return value.is_null() ? std::nullopt : wrap(ToInt(value));
    case ParameterType::kDouble:
      return value.is_null() ? std::nullopt : wrap(ToDouble(value));
    case ParameterType::kTimeSpan:
      return value.is_null() ? std::nullopt : wrap(ToTimeSpan(value));
    case ParameterType::kSize: {
      const auto bytes = value.is_null() ? std::nullopt : ToInt(value);
      if (!bytes || *bytes < 0) return std::nullopt;
      return Value(Size{*bytes});
    }
    case ParameterType::kEnum:
      return Enumerated(p, ToText(text));
    case ParameterType::kBlock:
      return value.IfBlock() == nullptr ? std::nullopt : std::optional(value);
    case ParameterType::kObject:
      if (value.IfObject() == nullptr || value.IfObject()->type_name != p.object_type)
        return std::nullopt;
      return value;
  }
  return std::nullopt;
}

std::optional<Value> Convert(const Parameter& p, const Value& value, const Value& text) {
  const Array* values = value.IfArray();
  if (values == nullptr || (p.type == ParameterType::kAny && !p.array)) {
    std::optional<Value> one = ConvertOne(p, value, text);
    if (!one || !p.array) return one;
    return Value(Array{std::move(*one)});
  }
  const Array* texts = text.IfArray();
  if (!p.array && values->size() > 1 && texts != nullptr &&
      (p.type == ParameterType::kString || p.type == ParameterType::kPath)) {
    // `console=ttyS0,115200` is one text where one is wanted.
    std::vector<std::string> parts;
    for (const Value& part : *texts) parts.push_back(ToText(part));
    return Value(Join(parts, ","));
  }
  if (!p.array) {
    if (values->size() != 1) return std::nullopt;
    return ConvertOne(p, values->front(), texts == nullptr ? values->front() : texts->front());
  }
  Array out;
  for (size_t i = 0; i < values->size(); ++i) {
    const Value& as_text = texts != nullptr && i < texts->size() ? (*texts)[i] : (*values)[i];
    std::optional<Value> one = ConvertOne(p, (*values)[i], as_text);
    if (!one) return std::nullopt;
    out.push_back(std::move(*one));
  }
  return Value(std::move(out));
}

ErrorRecord CannotConvert(const CmdletInfo& info, const Parameter& p, const Value& value) {
  std::string wants = "wants ";
  if (p.type == ParameterType::kEnum) {
    wants += "one of " + Join(p.values, ", ");
  } else {
    wants += p.type == ParameterType::kObject ? p.object_type : std::string(TypeLabel(p.type));
  }
  return Wrong(
      info, "CannotConvertArgument",
      "-" + p.name + " " + wants + ", not '" + ToText(value) + "' (" + TypeName(value) + ")");
}

bool InSet(const Parameter& p, const std::string& set) {
  return p.sets.empty() || set.empty() ||
         std::find(p.sets.begin(), p.sets.end(), set) != p.sets.end();
}

class Binder {
 public:
  Binder(const CmdletInfo& info, bool piped)
      : info_(info), piped_(piped), all_(AllParameters(info)) {
    sets_ = info.sets;
    if (sets_.empty()) sets_.emplace_back();
  }

  Result<Bound> Run(const std::vector<EvaluatedArgument>& arguments) {
    std::vector<const EvaluatedArgument*> positional;
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].name.empty()) {
        positional.push_back(&arguments[i]);
        continue;
      }
      if (auto error = Named(arguments, &i)) return *std::move(error);
    }
    for (const EvaluatedArgument* argument : positional) {
      if (auto error = Positional(*argument)) return *std::move(error);
    }
    if (auto error = Mandatory()) return *std::move(error);
    return std::move(bound_);
  }

 private:
  std::optional<ErrorRecord> Named(const std::vector<EvaluatedArgument>& arguments, size_t* i) {
    const EvaluatedArgument& argument = arguments[*i];
    Result<Parameter> found = FindParameter(info_, argument.name);
    if (!found.ok()) return At(std::move(found.error()), argument);
    const Parameter& p = *found;
    if (bound_.Has(p.name))
      return At(Wrong(info_, "ParameterAlreadyBound", "-" + p.name + " is given twice"), argument);
    const EvaluatedArgument* value = argument.has_value ? &argument : nullptr;
    if (value == nullptr && p.type != ParameterType::kSwitch) {
      if (*i + 1 >= arguments.size() || !arguments[*i + 1].name.empty()) {
        return At(Wrong(info_, "MissingArgument", "-" + p.name + " needs a value"), argument);
      }
      value = &arguments[++*i];
    }
    if (value == nullptr) return Take(p, true, true, argument);
    return Take(p, value->value, value->text, *value);
  }

  std::optional<ErrorRecord> Take(const Parameter& p, const Value& value, const Value& text,
                                  const EvaluatedArgument& at) {
    std::vector<std::string> left;
    std::copy_if(sets_.begin(), sets_.end(), std::back_inserter(left),
                 [&](const std::string& set) { return InSet(p, set); });
    if (left.empty()) {
      return At(Wrong(info_, "AmbiguousParameterSet",
                      "-" + p.name + " does not go together with the other parameters"),
                at);
    }
    std::optional<Value> converted = Convert(p, value, text);
    if (!converted) return At(CannotConvert(info_, p, value), at);
    sets_ = std::move(left);
    bound_.Set(p.name, *std::move(converted));
    return std::nullopt;
  }

  std::optional<ErrorRecord> Positional(const EvaluatedArgument& argument) {
    // The lowest free position; of those that share it, the one whose type takes the value, in the
    // order of the sets.
    const Parameter* best = nullptr;
    for (const std::string& set : sets_) {
      for (const Parameter& p : all_) {
        if (p.position < 0 || bound_.Has(p.name) || !InSet(p, set)) continue;
        if (best != nullptr && p.position > best->position) continue;
        const bool fits = Convert(p, argument.value, argument.text).has_value();
        if (best == nullptr || p.position < best->position ||
            (fits && !Convert(*best, argument.value, argument.text))) {
          best = &p;
        }
      }
    }
    if (best == nullptr) {
      return At(Wrong(info_, "PositionalParameterNotFound",
                      "there is no place for '" + ToText(argument.text) + "'"),
                argument);
    }
    return Take(*best, argument.value, argument.text, argument);
  }

  std::optional<ErrorRecord> Mandatory() {
    std::string missing;
    for (const std::string& set : sets_) {
      std::string here;
      for (const Parameter& p : all_) {
        const bool comes = piped_ && (p.from_pipeline || p.from_property);
        if (p.mandatory && InSet(p, set) && !bound_.Has(p.name) && !comes) here = p.name;
      }
      if (here.empty()) return std::nullopt;
      if (missing.empty()) missing = here;
    }
    return Wrong(info_, "MissingMandatoryParameter", "-" + missing + " is missing");
  }

  static ErrorRecord At(ErrorRecord error, const EvaluatedArgument& argument) {
    error.position = argument.position;
    return error;
  }

  const CmdletInfo& info_;
  bool piped_;
  std::vector<Parameter> all_;
  std::vector<std::string> sets_;
  Bound bound_;
};

}  // namespace

Result<Parameter> FindParameter(const CmdletInfo& info, std::string_view name) {
  std::vector<Parameter> found;
  for (Parameter& p : AllParameters(info)) {
    const auto is = [&](const std::string& alias) { return EqualsFold(alias, name); };
    if (is(p.name) || std::any_of(p.aliases.begin(), p.aliases.end(), is)) return std::move(p);
    const auto begins = [&](const std::string& alias) { return StartsWithFold(alias, name); };
    if (begins(p.name) || std::any_of(p.aliases.begin(), p.aliases.end(), begins))
      found.push_back(std::move(p));
  }
  if (found.size() == 1) return std::move(found.front());
  if (found.empty()) {
    ErrorRecord error =
        Wrong(info, "ParameterNotFound", "there is no parameter -" + std::string(name));
    std::vector<std::string> known;
    for (const Parameter& p : AllParameters(info)) known.push_back(Lower(p.name));
    if (const std::string near = Nearest(Lower(name), known); !near.empty()) {
      const auto all = AllParameters(info);
      error.next_step = "did you mean -" +
                        std::find_if(all.begin(), all.end(),
                                     [&](const Parameter& p) { return Lower(p.name) == near; })
                            ->name +
                        "?";
    }
    return error;
  }
  std::vector<std::string> names;
  for (const Parameter& p : found) names.push_back("-" + p.name);
  return Wrong(info, "AmbiguousParameter",
               "-" + std::string(name) + " could be " + Join(names, " or "));
}

Result<Bound> Bind(const CmdletInfo& info, const std::vector<EvaluatedArgument>& arguments,
                   bool piped) {
  return Binder(info, piped).Run(arguments);
}

Result<Bound> BindInput(const CmdletInfo& info, const Bound& bound, const Value& input) {
  Bound all = bound;
  for (const Parameter& p : info.parameters) {
    if (!p.from_pipeline || bound.Has(p.name)) continue;
    // An object binds by value to its own type; as text it comes by property.
    if (p.from_property && input.IfObject() != nullptr && p.type != ParameterType::kObject &&
        p.type != ParameterType::kAny)
      continue;
    std::optional<Value> converted = Convert(p, input, input);
    if (!converted) continue;
    all.Set(p.name, *std::move(converted));
    return all;
  }
  bool any = false;
  for (const Parameter& p : info.parameters) {
    if (!p.from_property || bound.Has(p.name) || input.IfObject() == nullptr) continue;
    const Value* value = input.IfObject()->Find(p.name);
    for (const std::string& alias : p.aliases) {
      if (value == nullptr) value = input.IfObject()->Find(alias);
    }
    if (value == nullptr) continue;
    std::optional<Value> converted = Convert(p, *value, *value);
    if (!converted) continue;
    all.Set(p.name, *std::move(converted));
    any = true;
  }
  if (any) return all;
  ErrorRecord error = Wrong(info, "InputObjectNotBound",
                            "'" + ToText(input) + "' (" + TypeName(input) +
                                ") fits none of the parameters that take piped objects");
  error.target = ToText(input);
  return error;
}

}  // namespace partita::shell
