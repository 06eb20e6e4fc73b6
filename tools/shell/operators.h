// The operators of expressions, over values. Pure; any thread. An array on the left of a comparison
// answers with the elements for which it holds, as in PowerShell.
#ifndef PARTITA_TOOLS_SHELL_OPERATORS_H_
#define PARTITA_TOOLS_SHELL_OPERATORS_H_

#include "tools/shell/ast.h"
#include "tools/shell/error_record.h"

namespace partita::shell {

// What one run may build: bounds what a script can make of doubling itself.
constexpr size_t kMaxElements = 1'000'000;
constexpr size_t kMaxText = size_t{16} << 20;

Result<Value> Apply(Operator op, const Value& left, const Value& right);
Result<Value> ApplyUnary(Operator op, const Value& value);
Result<Value> Index(const Value& value, const Value& index);
ErrorRecord InvalidOperation(std::string id, std::string message);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_OPERATORS_H_
