// `partita` as the shell: one command, a script, standard input or a prompt.
#ifndef PARTITA_TOOLS_SHELL_PROGRAM_H_
#define PARTITA_TOOLS_SHELL_PROGRAM_H_

#include <string>
#include <vector>

#include "tools/shell/cmdlet.h"

namespace partita::shell {

// Every cmdlet there is.
CmdletTable AllCmdlets();
// Whether the arguments (without the program's name) are the shell's to take.
bool TakesArguments(const std::vector<std::string>& arguments);
// The status to end with, an ExitStatus.
int RunProgram(const std::vector<std::string>& arguments);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_PROGRAM_H_
