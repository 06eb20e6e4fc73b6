// New-, Get-, Set-, Rename- and Remove-VM.
#include <utility>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

// Puts a parameter into a definition, if it was given.
void PutText(const Bound& bound, const char* parameter, Json* object, const char* key) {
  if (bound.Has(parameter)) (*object)[key] = bound.Text(parameter);
}
void PutNumber(const Bound& bound, const char* parameter, Json* object, const char* key) {
  if (bound.Has(parameter)) (*object)[key] = bound.Int(parameter, 0);
}
void PutPath(const Bound& bound, const char* parameter, Json* object, const char* key) {
  if (bound.Has(parameter)) (*object)[key] = AbsolutePath(bound.Text(parameter));
}

Json BootOf(const Bound& bound) {
  Json boot = Json::object();
  PutPath(bound, "KernelPath", &boot, "kernel");
  PutPath(bound, "InitrdPath", &boot, "initrd");
  PutText(bound, "KernelCommandLine", &boot, "command_line");
  return boot;
}

class NewVm : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    const std::string name = bound.Text("Name");
    if (!context.ShouldProcess(name, "New-VM")) return;
    Json definition = {{"name", name}};
    PutText(bound, "Notes", &definition, "notes");
    PutText(bound, "AssetTag", &definition, "asset_tag");
    PutNumber(bound, "MemoryStartupBytes", &definition["memory"], "startup_bytes");
    PutNumber(bound, "ProcessorCount", &definition["processors"], "count");
    definition["boot"] = BootOf(bound);
    if (bound.Has("VHDPath")) {
      definition["disks"] = Json::array();
      for (const std::string& path : bound.Texts("VHDPath"))
        definition["disks"].push_back({{"path", AbsolutePath(path)}});
    }
    if (bound.Has("SwitchName"))
      definition["adapters"] = {
          {{"name", "Network Adapter"}, {"switch", bound.Text("SwitchName")}}};
    // Only what was said: the rest is the service's to fill in.
    for (const char* part : {"memory", "processors", "boot"}) {
      if (definition[part].empty()) definition.erase(part);
    }
    if (const auto vm = Ask(context, "POST", "/v1/vms", definition)) context.Write(VmObject(*vm));
  }
};

Json ChangesOf(const Bound& bound) {
  Json out = Json::object();
  PutText(bound, "NewVMName", &out, "name");
  PutText(bound, "Notes", &out, "notes");
  PutText(bound, "AssetTag", &out, "asset_tag");
  PutNumber(bound, "ProcessorCount", &out["processors"], "count");
  Json& memory = out["memory"];
  PutNumber(bound, "MemoryStartupBytes", &memory, "startup_bytes");
  PutNumber(bound, "MemoryMinimumBytes", &memory, "minimum_bytes");
  PutNumber(bound, "MemoryMaximumBytes", &memory, "maximum_bytes");
  if (bound.Switch("StaticMemory")) memory["minimum_bytes"] = memory["maximum_bytes"] = nullptr;
  out["boot"] = BootOf(bound);
  Json& actions = out["actions"];
  PutText(bound, "AutomaticStartAction", &actions, "automatic_start");
  PutText(bound, "AutomaticStopAction", &actions, "automatic_stop");
  if (bound.Has("AutomaticStartDelay"))
    actions["start_delay_ms"] = bound.Int("AutomaticStartDelay", 0) * 1000;
  if (bound.Has("RestartOnCrash")) actions["restart_on_crash"] = bound.Switch("RestartOnCrash");
  for (const char* part : {"memory", "processors", "boot", "actions"}) {
    if (out[part].empty()) out.erase(part);
  }
  return out;
}

void Change(const Bound& bound, Context& context, const Json& vm, const char* action,
            const Json& changes) {
  if (!context.ShouldProcess(TextAt(vm, "name"), action)) return;
  const auto changed = Ask(context, "PATCH", VmPath(vm), changes);
  if (changed && bound.Switch("PassThru")) context.Write(VmObject(*changed));
}

void SetVm(const Bound& bound, Context& context, const Json& vm) {
  const Json changes = ChangesOf(bound);
  if (changes.empty()) {
    ErrorRecord error;
    error.id = "NothingToChange";
    error.category = ErrorCategory::kInvalidArgument;
    error.message = "Set-VM: no setting is given";
    error.next_step = "Get-Help Set-VM shows them";
    return context.Terminate(std::move(error));
  }
  Change(bound, context, vm, "Set-VM", changes);
}

void RenameVm(const Bound& bound, Context& context, const Json& vm) {
  Change(bound, context, vm, "Rename-VM", {{"name", bound.Text("NewName")}});
}

void RemoveVm(const Bound& /*bound*/, Context& context, const Json& vm) {
  if (context.ShouldProcess(TextAt(vm, "name"), "Remove-VM")) Ask(context, "DELETE", VmPath(vm));
}

void GetVm(const Bound& /*bound*/, Context& context, const Json& vm) {
  context.Write(VmObject(vm));
}

std::vector<Parameter> BootParameters() {
  return {{.name = "KernelPath",
           .type = ParameterType::kPath,
           .help = "The kernel to boot: a bzImage or an ELF vmlinux."},
          {.name = "InitrdPath", .type = ParameterType::kPath, .help = "Its initial RAM disk."},
          {.name = "KernelCommandLine", .help = "Its command line."}};
}

std::vector<Parameter> Joined(std::vector<Parameter> a, std::vector<Parameter> b) {
  std::move(b.begin(), b.end(), std::back_inserter(a));
  return a;
}

Parameter ProcessorCount() {
  return {.name = "ProcessorCount", .type = ParameterType::kInt, .help = "Virtual processors."};
}
Parameter Notes() { return {.name = "Notes", .help = "Text for people."}; }
Parameter AssetTag() {
  return {.name = "AssetTag", .help = "By which some images know where they run."};
}

void AddNewVm(CmdletTable* table) {
  table->Add(
      {.verb = "New",
       .noun = "VM",
       .aliases = {"nvm"},
       .synopsis = "Makes a virtual machine.",
       .description = "It is off; Start-VM starts it. Machines boot a kernel directly; disks and "
                      "adapters can be added later.",
       .output_type = "VM",
       .parameters = Joined(
           {{.name = "Name", .help = "Its name.", .position = 0, .mandatory = true},
            {.name = "MemoryStartupBytes",
             .type = ParameterType::kSize,
             .help = "Its memory, like 512MB.",
             .position = 1},
            ProcessorCount(),
            {.name = "VHDPath",
             .type = ParameterType::kPath,
             .help = "Its disks.",
             .array = true,
             .aliases = {"Path"}},
            Flag("NoVHD", "No disk, which is what happens without -VHDPath too."),
            {.name = "SwitchName",
             .help = "The switch its adapter is connected to; without one it has no adapter."},
            Notes(),
            AssetTag()},
           BootParameters()),
       .examples = {{"New-VM db2 -MemoryStartupBytes 512MB -KernelPath /boot/vmlinuz "
                     "-KernelCommandLine 'console=ttyS0'",
                     "A machine of its own kernel.",
                     "\nName State CPUUsage(%) MemoryAssigned(M)   Uptime Status             "
                     "Version\n---- ----- ----------- -----------------   ------ ------           "
                     "  -------\ndb2  Off             0                 0 00:00:00 Operating "
                     "normally 1.0\n\n"}},
       .should_process = true,
       .make = MakeCmdlet<NewVm>});
}

void AddGetVm(CmdletTable* table) {
  table->Add({.verb = "Get",
              .noun = "VM",
              .aliases = {"gvm"},
              .synopsis = "Lists virtual machines.",
              .description = "Without a name all of them. What the table does not show travels "
                             "down the pipeline all the same: Get-VM NAME | Format-List *.",
              .output_type = "VM",
              .sets = VmSets(),
              .parameters = VmParameters(false),
              .examples = {{"Get-VM web*", "Those whose names begin with web.",
                            "\nName State   CPUUsage(%) MemoryAssigned(M)   Uptime Status         "
                            "    Version\n---- -----   ----------- -----------------   ------ "
                            "------             -------\nweb1 Running           7               "
                            "512 01:02:03 Operating normally 1.0\nweb2 Off               0        "
                            "         0 00:00:00 Operating normally 1.0\n\n"},
                           {"Get-VM | Where-Object State -eq Running | ForEach-Object Name",
                            "The names of those that run.", "web1\n"}},
              .make = EachVm(GetVm)});
}

void AddSetVm(CmdletTable* table) {
  table->Add(
      {.verb = "Set",
       .noun = "VM",
       .synopsis = "Changes settings of virtual machines.",
       .description = "What a machine cannot change while it runs is refused with a sentence.",
       .output_type = "VM",
       .sets = VmSets(),
       .parameters =
           VmParameters(true, Joined({ProcessorCount(),
                                      {.name = "MemoryStartupBytes",
                                       .type = ParameterType::kSize,
                                       .help = "Memory it starts with."},
                                      {.name = "MemoryMinimumBytes",
                                       .type = ParameterType::kSize,
                                       .help = "What the balloon leaves at least."},
                                      {.name = "MemoryMaximumBytes",
                                       .type = ParameterType::kSize,
                                       .help = "What it may grow to."},
                                      Flag("StaticMemory", "Neither minimum nor maximum."),
                                      {.name = "AutomaticStartAction",
                                       .type = ParameterType::kEnum,
                                       .help = "What happens to it when the host starts.",
                                       .values = {"Nothing", "StartIfRunning", "Start"}},
                                      {.name = "AutomaticStartDelay",
                                       .type = ParameterType::kInt,
                                       .help = "Seconds to wait before that."},
                                      {.name = "AutomaticStopAction",
                                       .type = ParameterType::kEnum,
                                       .help = "What happens to it when the host stops.",
                                       .values = {"TurnOff", "ShutDown"}},
                                      {.name = "RestartOnCrash",
                                       .type = ParameterType::kBool,
                                       .help = "Whether it starts again when it has crashed."},
                                      Notes(),
                                      AssetTag(),
                                      {.name = "NewVMName", .help = "Its new name."},
                                      PassThru()},
                                     BootParameters())),
       .examples = {{"Set-VM web2 -ProcessorCount 4 -Notes 'spare' -PassThru | Select-Object "
                     "Name,ProcessorCount,Notes",
                     "Several settings at once.",
                     "\nName ProcessorCount Notes\n---- -------------- -----\nweb2              4 "
                     "spare\n\n"}},
       .should_process = true,
       .make = EachVm(SetVm)});
}

}  // namespace

void AddVmCmdlets(CmdletTable* table) {
  AddNewVm(table);
  AddGetVm(table);
  AddSetVm(table);
  table->Add(
      {.verb = "Rename",
       .noun = "VM",
       .aliases = {"rnvm"},
       .synopsis = "Gives a virtual machine another name.",
       .description = "Its identity stays.",
       .output_type = "VM",
       .sets = VmSets(),
       .parameters = VmParameters(
           true, {{.name = "NewName", .help = "The new name.", .position = 1, .mandatory = true},
                  PassThru()}),
       .examples = {{"Rename-VM web2 spare -PassThru | ForEach-Object Name",
                     "A new name for a machine.", "spare\n"}},
       .should_process = true,
       .make = EachVm(RenameVm)});
  table->Add({.verb = "Remove",
              .noun = "VM",
              .aliases = {"rvm"},
              .synopsis = "Removes virtual machines.",
              .description = "Only machines that are off. Their disks stay. Asks first.",
              .output_type = "None",
              .sets = VmSets(),
              .parameters = VmParameters(true, {Flag("Force", "Does not ask.")}),
              .examples = {{"Remove-VM web2 -Force", "Without a question.", ""}},
              .should_process = true,
              .confirm = true,
              .make = EachVm(RemoveVm)});
}

}  // namespace partita::shell
