// Help, man page and bash completion, all made from the cmdlet table. Pure; any thread.
#ifndef PARTITA_TOOLS_SHELL_HELP_TEXT_H_
#define PARTITA_TOOLS_SHELL_HELP_TEXT_H_

#include <string>
#include <vector>

#include "tools/shell/cmdlet.h"

namespace partita::shell {

// One line for each parameter set, as Get-Help shows them.
std::vector<std::string> SyntaxLines(const CmdletInfo& info);
std::vector<std::string> HelpLines(const CmdletInfo& info);
std::vector<std::string> ExampleLines(const CmdletInfo& info);
// What the language is, and what it is not.
std::vector<std::string> LanguageHelp();

std::string ManPage(const CmdletTable& table);
// Static: verbs, parameters and fixed values; live names are the shell's own completion's.
std::string BashCompletion(const CmdletTable& table);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_HELP_TEXT_H_
