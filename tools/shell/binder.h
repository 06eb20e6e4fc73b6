// What belongs to what on a command line: parameters by name, alias or unambiguous prefix, values
// by position, the parameter set that fits, and the types. Pure; any thread.
#ifndef PARTITA_TOOLS_SHELL_BINDER_H_
#define PARTITA_TOOLS_SHELL_BINDER_H_

#include <string>
#include <vector>

#include "tools/shell/cmdlet.h"

namespace partita::shell {

// An argument after evaluation. `text` keeps a word as typed (`007`), `value` is what it means (7).
struct EvaluatedArgument {
  size_t position = 0;
  std::string name;
  bool has_value = false;
  Value value;
  Value text;
};

// `piped`: objects will come, so what they can bind may be missing yet.
Result<Bound> Bind(const CmdletInfo& info, const std::vector<EvaluatedArgument>& arguments,
                   bool piped);
// `bound` with what `input` binds: by value first, then by property.
Result<Bound> BindInput(const CmdletInfo& info, const Bound& bound, const Value& input);
// The parameter a name or prefix means.
Result<Parameter> FindParameter(const CmdletInfo& info, std::string_view name);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_BINDER_H_
