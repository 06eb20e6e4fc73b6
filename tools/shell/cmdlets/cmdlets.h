// All cmdlets, by file. The language's own work on whatever objects come and need no service.
#ifndef PARTITA_TOOLS_SHELL_CMDLETS_CMDLETS_H_
#define PARTITA_TOOLS_SHELL_CMDLETS_CMDLETS_H_

#include "tools/shell/cmdlet.h"

namespace partita::shell {

void AddFilterCmdlets(CmdletTable* table);  // Where, ForEach, Select
void AddOrderCmdlets(CmdletTable* table);   // Sort, Group, Measure
void AddOutputCmdlets(CmdletTable* table);  // Format, ConvertTo, Out, Write
void AddHelpCmdlets(CmdletTable* table);    // Get-Help, -Command, -Alias, -Member, -Variable
void AddLanguageCmdlets(CmdletTable* table);

// Those of virtual machines; they ask the session's service.
void AddVmCmdlets(CmdletTable* table);        // New, Get, Set, Rename, Remove
void AddPowerCmdlets(CmdletTable* table);     // Start, Stop, Restart, Suspend, Resume, Wait
void AddDiskCmdlets(CmdletTable* table);      // VMHardDiskDrive
void AddAdapterCmdlets(CmdletTable* table);   // VMNetworkAdapter
void AddHardwareCmdlets(CmdletTable* table);  // VMProcessor, VMMemory, VMIntegrationService
void AddInfoCmdlets(CmdletTable* table);      // Measure, VMHost, VMEvent, VMGuest, VMSwitch ...
void AddConsoleCmdlets(CmdletTable* table);   // Enter-VMConsole, Watch-VM
void AddJobCmdlets(CmdletTable* table);

// What most of them take: objects from the pipeline.
Parameter InputParameter();

template <typename T>
std::unique_ptr<Cmdlet> MakeCmdlet() {
  return std::make_unique<T>();
}

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_CMDLETS_CMDLETS_H_
