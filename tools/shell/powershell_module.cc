#include "tools/shell/powershell_module.h"

#include <vector>

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

// What every function calls. Values are quoted for the shell's own language, in which '' stands for
// a quote inside of quotes.
constexpr std::string_view kInvoke =
    R"PS(# Partita for PowerShell; made from the cmdlet table of the partita shell.
Set-StrictMode -Version 2

function ConvertTo-PartitaText($Value) {
    if ($Value -is [bool]) { if ($Value) { return '$true' } else { return '$false' } }
    if ($Value -is [array]) { return (($Value | ForEach-Object { ConvertTo-PartitaText $_ }) -join ',') }
    if ($Value -is [int] -or $Value -is [long]) { return [string]$Value }
    return "'" + ([string]$Value).Replace("'", "''") + "'"
}

function Invoke-Partita {
    param([string]$Command, [hashtable]$Bound, [string[]]$Paths, $Cmdlet, [bool]$Changes, [bool]$Interactive)
    if ($Changes) {
        $target = if ($Bound.ContainsKey('VMName')) { $Bound['VMName'] } elseif ($Bound.ContainsKey('Name')) { $Bound['Name'] } else { '' }
        if (-not $Cmdlet.ShouldProcess([string]$target, $Command)) { return }
    }
    $text = $Command
    foreach ($name in $Bound.Keys) {
        if ([System.Management.Automation.PSCmdlet]::CommonParameters -contains $name) { continue }
        if ([System.Management.Automation.PSCmdlet]::OptionalCommonParameters -contains $name) { continue }
        $value = $Bound[$name]
        if ($value -is [switch]) { $value = [bool]$value }
        if ($Paths -contains $name) {
            $value = @($value | ForEach-Object { $Cmdlet.SessionState.Path.GetUnresolvedProviderPathFromPSPath($_) })
        }
        $text += " -${name}:" + (ConvertTo-PartitaText $value)
    }
    if ($Changes) { $text += ' -Confirm:$false' }
    if ($Interactive) { & partita -c $text; return }
    & partita --jsonl --json-errors -c $text 2>&1 | ForEach-Object {
        if ($_ -isnot [System.Management.Automation.ErrorRecord]) { return ($_ | ConvertFrom-Json) }
        $line = [string]$_
        if ($line -notmatch '^\{.*\}$') { Write-Verbose $line; return }
        $said = $line | ConvertFrom-Json
        $category = [System.Management.Automation.ErrorCategory]::NotSpecified
        [void][System.Enum]::TryParse([string]$said.Category, [ref]$category)
        $message = (@($said.Message) + @($said.Cause)) -join ': '
        Write-Error -Message $message -ErrorId $said.Id -Category $category -TargetObject $said.Target -RecommendedAction $said.NextStep
    }
}
)PS";

bool OfMachines(const CmdletInfo& info) { return StartsWithFold(info.noun, "VM"); }

std::string FunctionName(const CmdletInfo& info) { return info.verb + "-Partita" + info.noun; }

std::string Quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("''") : std::string(1, c);
  return out + "'";
}

std::string TypeOf(const Parameter& p) {
  std::string type = "string";
  if (p.type == ParameterType::kSwitch) return "[switch]";
  if (p.type == ParameterType::kBool) type = "bool";
  if (p.type == ParameterType::kInt || p.type == ParameterType::kSize) type = "long";
  return "[" + type + (p.array ? "[]]" : "]");
}

std::string ParameterText(const Parameter& p) {
  std::vector<std::string> said;
  if (p.position >= 0) said.push_back("Position = " + std::to_string(p.position));
  if (p.mandatory) said.emplace_back("Mandatory");
  if (p.from_pipeline) said.emplace_back("ValueFromPipeline");
  if (p.from_pipeline || p.from_property) said.emplace_back("ValueFromPipelineByPropertyName");
  std::string out = "        [Parameter(" + Join(said, ", ") + ")]";
  if (!p.aliases.empty()) {
    std::vector<std::string> aliases;
    for (const std::string& alias : p.aliases) aliases.push_back(Quoted(alias));
    out += " [Alias(" + Join(aliases, ", ") + ")]";
  }
  if (!p.values.empty()) {
    std::vector<std::string> values;
    for (const std::string& value : p.values) values.push_back(Quoted(value));
    out += " [ValidateSet(" + Join(values, ", ") + ")]";
  }
  return out + " " + TypeOf(p) + " $" + p.name;
}

std::string FunctionText(const CmdletInfo& info) {
  std::vector<std::string> parameters;
  std::vector<std::string> paths;
  for (const Parameter& p : info.parameters) {
    // Objects come by their properties.
    if (p.type == ParameterType::kObject || p.name == "Id" || p.name == "AsJob") continue;
    parameters.push_back(ParameterText(p));
    if (p.type == ParameterType::kPath) paths.push_back(Quoted(p.name));
  }
  std::string out = "\nfunction " + FunctionName(info) + " {\n    # " + info.synopsis + "\n";
  out += info.should_process
             ? "    [CmdletBinding(SupportsShouldProcess" +
                   std::string(info.confirm ? ", ConfirmImpact = 'High'" : "") + ")]\n"
             : std::string("    [CmdletBinding()]\n");
  out += "    param(\n" + Join(parameters, ",\n") + "\n    )\n    process {\n";
  const bool interactive = info.verb == "Enter" || info.verb == "Watch";
  out += "        Invoke-Partita " + Quoted(info.Name()) + " $PSBoundParameters @(" +
         Join(paths, ", ") + ") $PSCmdlet " + (info.should_process ? "$true" : "$false") +
         (interactive ? " $true" : " $false") + "\n    }\n}\n";
  return out;
}

}  // namespace

std::string PowerShellModule(const CmdletTable& table) {
  std::string out(kInvoke);
  for (const CmdletInfo& info : table.cmdlets()) {
    if (OfMachines(info)) out += FunctionText(info);
  }
  return out + "\nExport-ModuleMember -Function *-PartitaVM*\n";
}

std::string PowerShellManifest(const CmdletTable& table, std::string_view version) {
  std::vector<std::string> names;
  for (const CmdletInfo& info : table.cmdlets()) {
    if (OfMachines(info)) names.push_back("        " + Quoted(FunctionName(info)));
  }
  std::string out = "@{\n    RootModule = 'Partita.psm1'\n    ModuleVersion = '";
  out += version;
  out += "'\n    GUID = '6d1f5a1e-2f52-4f0e-9d0c-5a2c3f6b7e11'\n    Author = 'Partita'\n";
  out += "    Description = 'Virtual machines of a Partita host.'\n";
  out += "    PowerShellVersion = '5.1'\n    FunctionsToExport = @(\n" + Join(names, ",\n");
  return out + "\n    )\n    CmdletsToExport = @()\n    AliasesToExport = @()\n}\n";
}

}  // namespace partita::shell
