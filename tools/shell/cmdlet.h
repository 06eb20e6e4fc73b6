// One table says everything about a cmdlet: binding, completion, help, man page and bash completion
// are made from it, and each of its examples is run as a test. Plain data but for `make`.
//
// One thread runs a pipeline. A cmdlet lives for one pipeline; the engine calls Begin, then Process
// for each object (once, where nothing is piped in), then End.
#ifndef PARTITA_TOOLS_SHELL_CMDLET_H_
#define PARTITA_TOOLS_SHELL_CMDLET_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/shell/error_record.h"
#include "tools/shell/value.h"

namespace partita::shell {

class Session;

enum class ParameterType {
  kAny,
  kSwitch,
  kBool,
  kString,
  kInt,
  kDouble,
  kSize,
  kTimeSpan,
  kEnum,    // one of `values`
  kPath,    // text that completes as a path
  kBlock,   // { ... }
  kObject,  // an object whose type is `object_type`
};
std::string_view TypeLabel(ParameterType type);

struct Parameter {
  std::string name = {};
  ParameterType type = ParameterType::kString;
  std::string help = {};
  int position = -1;
  bool mandatory = false;
  bool array = false;
  bool from_pipeline = false;  // an object that is or becomes the type
  bool from_property = false;  // an object's property of this name or an alias
  std::vector<std::string> aliases = {};
  std::vector<std::string> values = {};
  std::vector<std::string> sets = {};  // the parameter sets it belongs to; none means all
  std::string completer = {};          // what kind of live name it takes: "VM", "VMSwitch" ...
  std::string object_type = {};
};

struct Example {
  std::string command = {};
  std::string text = {};    // what it is good for
  std::string output = {};  // exactly what appears off a terminal
};

// Values by parameter name, converted to the parameter's type.
class Bound {
 public:
  void Set(std::string_view name, Value value);
  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  Value Get(std::string_view name) const;
  std::string Text(std::string_view name) const { return ToText(Get(name)); }
  std::vector<std::string> Texts(std::string_view name) const;
  Array Values(std::string_view name) const;
  bool Switch(std::string_view name) const { return ToBool(Get(name)); }
  int64_t Int(std::string_view name, int64_t otherwise) const;

 private:
  const Value* Find(std::string_view name) const;
  std::vector<std::pair<std::string, Value>> values_;
};

// What a running cmdlet may ask of the engine. Valid during Begin, Process and End only.
class Context {
 public:
  virtual ~Context() = default;
  // Passes a value on. False: nobody wants more, return soon.
  virtual bool Write(Value value) = 0;
  // Concerns one object: reported, and the pipeline goes on (unless -ErrorAction Stop).
  virtual void Error(ErrorRecord error) = 0;
  // Ends the whole run.
  virtual void Terminate(ErrorRecord error) = 0;
  virtual void Verbose(std::string_view text) = 0;
  // False under -WhatIf (which is printed) and when the answer to -Confirm is no.
  virtual bool ShouldProcess(std::string_view target, std::string_view action) = 0;
  // True once the run was cancelled or ended, or downstream wants nothing more.
  virtual bool stopped() const = 0;
  // This cmdlet has seen enough: those before it end, it and those behind it go on.
  virtual void StopUpstream() = 0;
  // Runs a script block with `item` as $_; `sink` returns false to stop. False if the run ended.
  virtual bool RunBlock(const Block& block, const Value& item,
                        const std::function<bool(Value)>& sink) = 0;
  virtual Session& session() = 0;
};

class Cmdlet {
 public:
  virtual ~Cmdlet() = default;
  virtual void Begin(const Bound& bound, Context& context);
  virtual void Process(const Bound& bound, Context& context) = 0;
  virtual void End(const Bound& bound, Context& context);
};

struct CmdletInfo {
  std::string verb = {};
  std::string noun = {};
  std::vector<std::string> aliases = {};
  std::string synopsis = {};
  std::string description = {};
  std::string output_type = {};
  std::vector<std::string> sets = {};  // names of the parameter sets, the default one first
  std::vector<Parameter> parameters = {};
  std::vector<Example> examples = {};
  bool should_process = false;  // has -WhatIf and -Confirm
  bool confirm = false;         // asks unless -Confirm:$false or -Force
  std::function<std::unique_ptr<Cmdlet>()> make = {};

  std::string Name() const { return verb + "-" + noun; }
  bool TakesPipeline() const;
};

// Its own parameters and those that every cmdlet has.
std::vector<Parameter> AllParameters(const CmdletInfo& info);

class CmdletTable {
 public:
  void Add(CmdletInfo info) { cmdlets_.push_back(std::move(info)); }
  const std::vector<CmdletInfo>& cmdlets() const { return cmdlets_; }
  // By name or alias.
  const CmdletInfo* Find(std::string_view name) const;
  // What contradicts itself or is missing, a sentence each; empty when all is well.
  std::vector<std::string> Problems() const;

 private:
  std::vector<CmdletInfo> cmdlets_;
};

// "Did you mean ...?": the cmdlet whose name or alias is nearest; empty if none is near.
std::string NearestCommand(const CmdletTable& table, std::string_view typed);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_CMDLET_H_
