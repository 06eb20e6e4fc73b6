// What Tab offers: verbs, cmdlets, parameters, values of an enumeration, live names, variables and
// paths. A function of the text before the cursor, the cmdlet table and a source of names; one
// thread, that of the source.
#ifndef PARTITA_TOOLS_SHELL_COMPLETION_H_
#define PARTITA_TOOLS_SHELL_COMPLETION_H_

#include <string>
#include <string_view>
#include <vector>

#include "tools/shell/cmdlet.h"

namespace partita::shell {

// Where names come from that the table does not know. A service that does not answer has none.
class NameSource {
 public:
  virtual ~NameSource() = default;
  // `kind` is a Parameter's completer, "VM".
  virtual std::vector<std::string> Names(std::string_view kind) = 0;
  virtual std::vector<std::string> Variables() = 0;
  // What begins with `prefix`; folders end in a slash.
  virtual std::vector<std::string> Paths(std::string_view prefix) = 0;
};

struct Completion {
  size_t begin = 0;                     // of the word that is replaced, in the text
  std::vector<std::string> candidates;  // whole words, sorted, quoted where they must be
};

Completion Complete(std::string_view before_cursor, const CmdletTable& table, NameSource* source);

// What all candidates begin with; without case where they differ in it.
std::string CommonPrefix(const std::vector<std::string>& candidates);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_COMPLETION_H_
