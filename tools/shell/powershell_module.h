// The `Partita` module for PowerShell, made from the cmdlet table: a function for each cmdlet of
// virtual machines, with the prefix Partita (Get-PartitaVM), which calls `partita` and makes
// objects of its JSON lines and error records of its errors. Pure; any thread.
#ifndef PARTITA_TOOLS_SHELL_POWERSHELL_MODULE_H_
#define PARTITA_TOOLS_SHELL_POWERSHELL_MODULE_H_

#include <string>
#include <string_view>

#include "tools/shell/cmdlet.h"

namespace partita::shell {

std::string PowerShellModule(const CmdletTable& table);
std::string PowerShellManifest(const CmdletTable& table, std::string_view version);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_POWERSHELL_MODULE_H_
