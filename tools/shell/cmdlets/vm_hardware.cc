// VMProcessor, VMMemory and VMIntegrationService.
#include <algorithm>
#include <utility>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

Object ProcessorObject(const Json& vm) {
  Object out("VMProcessor");
  out.Add("VMName", TextAt(vm, "name"))
      .Add("Count", IntAt(ObjectAt(ObjectAt(vm, "definition"), "processors"), "count"))
      .Add("CPUUsage", IntAt(vm, "cpu_usage_percent"));
  return out;
}

Object MemoryObject(const Json& vm) {
  const Json& memory = ObjectAt(ObjectAt(vm, "definition"), "memory");
  const int64_t startup = IntAt(memory, "startup_bytes");
  const auto or_startup = [&](const char* key) {
    const int64_t bytes = IntAt(memory, key);
    return Size{bytes == 0 ? startup : bytes};
  };
  const Size minimum = or_startup("minimum_bytes");
  const Size maximum = or_startup("maximum_bytes");
  Object out("VMMemory");
  out.Add("VMName", TextAt(vm, "name"))
      .Add("DynamicMemoryEnabled", minimum.bytes != maximum.bytes)
      .Add("Minimum", minimum)
      .Add("Startup", Size{startup})
      .Add("Maximum", maximum)
      .Add("Assigned", Size{IntAt(vm, "memory_assigned_bytes")}, true)
      .Add("Demand", Size{IntAt(vm, "memory_demand_bytes")}, true)
      .Add("Pages", TextAt(memory, "pages"), true);
  return out;
}

void GetProcessor(const Bound& /*bound*/, Context& context, const Json& vm) {
  context.Write(ProcessorObject(vm));
}

void SetProcessor(const Bound& bound, Context& context, const Json& vm) {
  if (!context.ShouldProcess(TextAt(vm, "name"), "Set-VMProcessor")) return;
  const Json changes = {{"processors", {{"count", bound.Int("Count", 1)}}}};
  const auto changed = Ask(context, "PATCH", VmPath(vm), changes);
  if (changed && bound.Switch("PassThru")) context.Write(ProcessorObject(*changed));
}

void GetMemory(const Bound& /*bound*/, Context& context, const Json& vm) {
  context.Write(MemoryObject(vm));
}

void SetMemory(const Bound& bound, Context& context, const Json& vm) {
  if (!context.ShouldProcess(TextAt(vm, "name"), "Set-VMMemory")) return;
  Json memory = Json::object();
  const auto put = [&](const char* parameter, const char* key) {
    if (bound.Has(parameter)) memory[key] = bound.Int(parameter, 0);
  };
  put("StartupBytes", "startup_bytes");
  put("MinimumBytes", "minimum_bytes");
  put("MaximumBytes", "maximum_bytes");
  if (bound.Has("DynamicMemoryEnabled") && !bound.Switch("DynamicMemoryEnabled"))
    memory["minimum_bytes"] = memory["maximum_bytes"] = nullptr;
  if (bound.Has("Pages")) memory["pages"] = bound.Text("Pages");
  const auto changed = Ask(context, "PATCH", VmPath(vm), {{"memory", std::move(memory)}});
  if (changed && bound.Switch("PassThru")) context.Write(MemoryObject(*changed));
}

void GetServices(const Bound& bound, Context& context, const Json& vm) {
  const auto answer = Ask(context, "GET", VmPath(vm, "/integration"));
  if (!answer) return;
  std::vector<std::string> patterns = bound.Texts("Name");
  if (patterns.empty()) patterns.emplace_back("*");
  for (const auto& [name, service] : ObjectAt(*answer, "services").items()) {
    if (std::none_of(patterns.begin(), patterns.end(),
                     [&name = name](const std::string& p) { return WildcardMatch(p, name); }))
      continue;
    const bool ready = service.is_object() && service.value("ready", Json(false)) == Json(true);
    Object out("VMIntegrationService");
    out.Add("VMName", TextAt(vm, "name"))
        .Add("Name", name)
        .Add("Enabled", true)
        .Add("PrimaryStatusDescription", ready ? "OK" : "No Contact")
        .Add("SecondaryStatusDescription",
             EqualsFold(name, "heartbeat") ? TextAt(*answer, "heartbeat") : "");
    if (!context.Write(std::move(out))) return;
  }
}

Parameter SizeOf(const char* name, const char* help) {
  return {.name = name, .type = ParameterType::kSize, .help = help};
}

void AddMemory(CmdletTable* table) {
  table->Add(
      {.verb = "Get",
       .noun = "VMMemory",
       .synopsis = "Shows the memory of virtual machines.",
       .description = "What they start with, and between what it may move.",
       .output_type = "VMMemory",
       .sets = VmSets(),
       .parameters = DeviceParameters(),
       .examples = {{"Get-VMMemory web1", "A machine's memory.",
                     "\nVMName DynamicMemoryEnabled Minimum(M) Startup(M) Maximum(M)\n------ "
                     "-------------------- ---------- ---------- ----------\nweb1   True           "
                     "             256        512       1024\n\n"}},
       .make = EachVm(GetMemory)});
  table->Add(
      {.verb = "Set",
       .noun = "VMMemory",
       .synopsis = "Changes the memory of virtual machines.",
       .description = "What a running machine cannot change is refused with a sentence.",
       .output_type = "VMMemory",
       .sets = VmSets(),
       .parameters = DeviceParameters({SizeOf("StartupBytes", "What it starts with."),
                                       SizeOf("MinimumBytes", "What the balloon leaves at least."),
                                       SizeOf("MaximumBytes", "What it may grow to."),
                                       {.name = "DynamicMemoryEnabled",
                                        .type = ParameterType::kBool,
                                        .help = "$false takes minimum and maximum away."},
                                       {.name = "Pages",
                                        .type = ParameterType::kEnum,
                                        .help = "The pages its memory is made of.",
                                        .values = {"auto", "4k", "2m", "shared"}},
                                       PassThru()}),
       .examples = {{"Set-VMMemory web2 -StartupBytes 1GB -PassThru | ForEach-Object Startup",
                     "Twice as much.", "1 GB\n"}},
       .should_process = true,
       .make = EachVm(SetMemory)});
}

void AddServices(CmdletTable* table) {
  table->Add(
      {.verb = "Get",
       .noun = "VMIntegrationService",
       .synopsis = "Shows the integration services of virtual machines.",
       .description = "What the host offers to the guest, and whether the guest's driver is there.",
       .output_type = "VMIntegrationService",
       .sets = VmSets(),
       .parameters = DeviceParameters({{.name = "Name",
                                        .help = "Names of services; wildcards are welcome.",
                                        .position = 1,
                                        .array = true}}),
       .examples = {{"Get-VMIntegrationService web1 heart*", "Whether a machine is alive.",
                     "\nVMName Name      Enabled PrimaryStatusDescription "
                     "SecondaryStatusDescription\n------ ----      ------- "
                     "------------------------ --------------------------\nweb1   heartbeat True  "
                     "  OK                       OK\n\n"}},
       .make = EachVm(GetServices)});
}

}  // namespace

void AddHardwareCmdlets(CmdletTable* table) {
  table->Add(
      {.verb = "Get",
       .noun = "VMProcessor",
       .synopsis = "Shows the virtual processors of virtual machines.",
       .description = "How many, and how busy they are.",
       .output_type = "VMProcessor",
       .sets = VmSets(),
       .parameters = DeviceParameters(),
       .examples = {{"Get-VMProcessor web1", "A machine's processors.",
                     "\nVMName Count CPUUsage\n------ ----- --------\nweb1       2        7\n\n"}},
       .make = EachVm(GetProcessor)});
  table->Add(
      {.verb = "Set",
       .noun = "VMProcessor",
       .synopsis = "Changes the virtual processors of virtual machines.",
       .description = "The machine has to be off.",
       .output_type = "VMProcessor",
       .sets = VmSets(),
       .parameters = DeviceParameters({{.name = "Count",
                                        .type = ParameterType::kInt,
                                        .help = "How many.",
                                        .position = 1,
                                        .mandatory = true},
                                       PassThru()}),
       .examples = {{"Set-VMProcessor web2 4 -PassThru | ForEach-Object Count", "Four.", "4\n"}},
       .should_process = true,
       .make = EachVm(SetProcessor)});
  AddMemory(table);
  AddServices(table);
}

}  // namespace partita::shell
