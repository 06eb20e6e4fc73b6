#include "tools/shell/cmdlet.h"

#include <algorithm>
#include <array>
#include <set>

#include "tools/control/nearest.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr std::array<std::string_view, 36> kVerbs = {
    "Add",        "Compare",  "Connect", "ConvertFrom", "ConvertTo", "Copy",    "Debug",  "Disable",
    "Disconnect", "Dismount", "Enable",  "Enter",       "Export",    "ForEach", "Format", "Get",
    "Group",      "Import",   "Invoke",  "Measure",     "Mount",     "Move",    "New",    "Out",
    "Receive",    "Remove",   "Rename",  "Restart",     "Resume",    "Select",  "Set",    "Sort",
    "Start",      "Stop",     "Where",   "Write"};
constexpr std::array<std::string_view, 4> kMoreVerbs = {"Suspend", "Test", "Wait", "Watch"};

bool IsVerb(std::string_view verb) {
  return std::find(kVerbs.begin(), kVerbs.end(), verb) != kVerbs.end() ||
         std::find(kMoreVerbs.begin(), kMoreVerbs.end(), verb) != kMoreVerbs.end();
}

bool Share(const Parameter& a, const Parameter& b) {
  if (a.sets.empty() || b.sets.empty()) return true;
  return std::any_of(a.sets.begin(), a.sets.end(), [&](const std::string& set) {
    return std::find(b.sets.begin(), b.sets.end(), set) != b.sets.end();
  });
}

void CheckParameter(const CmdletInfo& info, const Parameter& p, std::vector<std::string>* out) {
  const std::string where = info.Name() + " -" + p.name + ": ";
  if (p.name.empty() || !std::all_of(p.name.begin(), p.name.end(), IsNameChar)) {
    out->push_back(where + "is no parameter name");
  }
  if (p.help.empty()) out->push_back(where + "has no help");
  if ((p.type == ParameterType::kEnum) == p.values.empty()) {
    out->push_back(where + "an enumeration has values, and nothing else has");
  }
  if ((p.type == ParameterType::kObject) == p.object_type.empty()) {
    out->push_back(where + "an object has a type, and nothing else has");
  }
  if (p.type == ParameterType::kSwitch && (p.mandatory || p.position >= 0 || p.from_pipeline)) {
    out->push_back(where + "a switch is neither mandatory nor positional nor piped");
  }
  for (const std::string& set : p.sets) {
    if (std::find(info.sets.begin(), info.sets.end(), set) == info.sets.end()) {
      out->push_back(where + "there is no parameter set " + set);
    }
  }
}

void CheckPairs(const CmdletInfo& info, std::vector<std::string>* out) {
  const std::vector<Parameter> all = AllParameters(info);
  std::set<std::string> names;
  for (const Parameter& p : all) {
    std::vector<std::string> own = p.aliases;
    own.push_back(p.name);
    for (const std::string& name : own) {
      if (!names.insert(Lower(name)).second) {
        out->push_back(info.Name() + " -" + name + ": the name is used twice");
      }
    }
    for (const Parameter& q : all) {
      if (&p < &q && p.position >= 0 && p.position == q.position && Share(p, q)) {
        out->push_back(info.Name() + ": -" + p.name + " and -" + q.name + " have one position");
      }
    }
  }
}

void CheckCmdlet(const CmdletInfo& info, std::vector<std::string>* out) {
  const std::string where = info.Name() + ": ";
  if (!IsVerb(info.verb)) out->push_back(where + info.verb + " is no approved verb");
  if (info.synopsis.empty() || info.output_type.empty()) {
    out->push_back(where + "synopsis or output type is missing");
  }
  if (!info.make) out->push_back(where + "there is nothing to call");
  if (info.examples.empty()) out->push_back(where + "has no example");
  for (const Example& example : info.examples) {
    const bool names_it = Lower(example.command).find(Lower(info.Name())) != std::string::npos;
    const bool by_alias = std::any_of(
        info.aliases.begin(), info.aliases.end(),
        [&](const std::string& alias) { return example.command.find(alias) != std::string::npos; });
    if (!names_it && !by_alias) out->push_back(where + "an example does not use it");
    if (example.text.empty()) out->push_back(where + "an example says not what it is good for");
  }
  for (const Parameter& p : info.parameters) CheckParameter(info, p, out);
  CheckPairs(info, out);
}

}  // namespace

std::string_view TypeLabel(ParameterType type) {
  switch (type) {
    case ParameterType::kAny:
      return "Object";
    case ParameterType::kSwitch:
      return "Switch";
    case ParameterType::kBool:
      return "Boolean";
    case ParameterType::kString:
    case ParameterType::kEnum:
      return "String";
    case ParameterType::kInt:
      return "Int64";
    case ParameterType::kDouble:
      return "Double";
    case ParameterType::kSize:
      return "Size";
    case ParameterType::kTimeSpan:
      return "TimeSpan";
    case ParameterType::kPath:
      return "Path";
    case ParameterType::kBlock:
      return "ScriptBlock";
    case ParameterType::kObject:
      break;
  }
  return "Object";
}

const Value* Bound::Find(std::string_view name) const {
  for (const auto& [key, value] : values_) {
    if (EqualsFold(key, name)) return &value;
  }
  return nullptr;
}

void Bound::Set(std::string_view name, Value value) {
  for (auto& [key, old] : values_) {
    if (EqualsFold(key, name)) {
      old = std::move(value);
      return;
    }
  }
  values_.emplace_back(std::string(name), std::move(value));
}

Value Bound::Get(std::string_view name) const {
  const Value* value = Find(name);
  return value == nullptr ? Value() : *value;
}

Array Bound::Values(std::string_view name) const {
  const Value* value = Find(name);
  if (value == nullptr) return {};
  return value->IfArray() != nullptr ? *value->IfArray() : Array{*value};
}

std::vector<std::string> Bound::Texts(std::string_view name) const {
  std::vector<std::string> texts;
  for (const Value& value : Values(name)) texts.push_back(ToText(value));
  return texts;
}

int64_t Bound::Int(std::string_view name, int64_t otherwise) const {
  return Has(name) ? ToInt(Get(name)).value_or(otherwise) : otherwise;
}

void Cmdlet::Begin(const Bound& /*bound*/, Context& /*context*/) {}
void Cmdlet::End(const Bound& /*bound*/, Context& /*context*/) {}

bool CmdletInfo::TakesPipeline() const {
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const Parameter& p) { return p.from_pipeline || p.from_property; });
}

std::vector<Parameter> AllParameters(const CmdletInfo& info) {
  std::vector<Parameter> all = info.parameters;
  all.push_back(
      {.name = "Verbose", .type = ParameterType::kSwitch, .help = "Says what is being done."});
  all.push_back({.name = "ErrorAction",
                 .type = ParameterType::kEnum,
                 .help = "What an error of one object does: it is shown and the rest goes on "
                         "(Continue), the rest "
                         "goes on in silence, or everything ends.",
                 .aliases = {"ea"},
                 .values = {"Continue", "SilentlyContinue", "Stop"}});
  if (info.should_process) {
    all.push_back({.name = "WhatIf",
                   .type = ParameterType::kSwitch,
                   .help = "Says what would be done, and does nothing.",
                   .aliases = {"wi"}});
    all.push_back({.name = "Confirm",
                   .type = ParameterType::kSwitch,
                   .help = "Asks before each object; -Confirm:$false never asks.",
                   .aliases = {"cf"}});
  }
  return all;
}

const CmdletInfo* CmdletTable::Find(std::string_view name) const {
  for (const CmdletInfo& info : cmdlets_) {
    if (EqualsFold(info.Name(), name)) return &info;
    for (const std::string& alias : info.aliases) {
      if (EqualsFold(alias, name)) return &info;
    }
  }
  return nullptr;
}

std::vector<std::string> CmdletTable::Problems() const {
  std::vector<std::string> out;
  std::set<std::string> names;
  for (const CmdletInfo& info : cmdlets_) {
    std::vector<std::string> own = info.aliases;
    own.push_back(info.Name());
    for (const std::string& name : own) {
      if (!names.insert(Lower(name)).second) out.push_back(name + ": the name is used twice");
    }
    CheckCmdlet(info, &out);
  }
  return out;
}

std::string NearestCommand(const CmdletTable& table, std::string_view typed) {
  std::vector<std::string> known;
  for (const CmdletInfo& info : table.cmdlets()) known.push_back(Lower(info.Name()));
  const CmdletInfo* near = table.Find(Nearest(Lower(typed), known));
  return near == nullptr ? "" : near->Name();
}

}  // namespace partita::shell
