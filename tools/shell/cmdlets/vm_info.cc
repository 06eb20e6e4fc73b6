// Measure-VM, Get-VMHost, -VMEvent, -VMGuest and -VMWorker.
#include <algorithm>
#include <utility>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

void MeasureVm(const Bound& /*bound*/, Context& context, const Json& vm) {
  const auto metering = Ask(context, "GET", VmPath(vm, "/metering"));
  if (!metering) return;
  const Json& m = *metering;
  Object out("VMMetrics");
  out.Add("VMName", TextAt(vm, "name"))
      .Add("CPUTime", TimeSpan{IntAt(m, "cpu_ms")})
      .Add("MemoryAssigned", Size{IntAt(m, "memory_assigned_bytes")})
      .Add("MemoryDemand", Size{IntAt(m, "memory_demand_bytes")})
      .Add("DiskRead", Size{IntAt(m, "disk_read_bytes")})
      .Add("DiskWritten", Size{IntAt(m, "disk_written_bytes")})
      .Add("NetworkInbound", Size{IntAt(m, "network_received_bytes")})
      .Add("NetworkOutbound", Size{IntAt(m, "network_sent_bytes")});
  // Whatever else the service measures.
  const Value all = FromJson(m, "VMMetrics");
  for (const Property& p :
       all.IfObject() != nullptr ? all.IfObject()->properties : std::vector<Property>()) {
    if (out.Find(p.name) == nullptr) out.Add(p.name, p.value, true);
  }
  context.Write(std::move(out));
}

class GetVmHost : public Cmdlet {
 public:
  void Process(const Bound& /*bound*/, Context& context) override {
    if (const auto host = Ask(context, "GET", "/v1/host")) context.Write(FromJson(*host, "VMHost"));
  }
};

Object EventObject(const Json& event) {
  Object out("VMEvent");
  out.Add("Time", FromJson(event.value("time", Json()), ""))
      .Add("VMName", TextAt(event, "vm_name"))
      .Add("Type", TextAt(event, "type"))
      .Add("Message", TextAt(event, "message"))
      .Add("Sequence", IntAt(event, "seq"), true)
      .Add("VMId", TextAt(event, "vm_id"), true);
  const Value all = FromJson(event, "VMEvent");
  if (all.IfObject() == nullptr) return out;
  for (const Property& p : all.IfObject()->properties) {
    if (p.name != "Seq" && out.Find(p.name) == nullptr) out.Add(p.name, p.value, true);
  }
  return out;
}

class GetVmEvent : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    Service* service = context.session().service();
    if (service == nullptr) return context.Error(Session::NoService());
    const bool follow = bound.Switch("Follow");
    std::string path = "/v1/events?since=" + std::to_string(bound.Int("Since", 0));
    path += follow ? "&follow=1" : "&follow=0";
    const std::vector<std::string> names = bound.Texts("VMName");
    const std::vector<std::string> types = bound.Texts("Type");
    const auto any = [](const std::vector<std::string>& patterns, const std::string& text) {
      return patterns.empty() ||
             std::any_of(patterns.begin(), patterns.end(),
                         [&](const std::string& pattern) { return WildcardMatch(pattern, text); });
    };
    auto error = service->Stream(path, [&](const Json& event) {
      if (context.stopped()) return false;
      if (!event.is_object() || !any(names, TextAt(event, "vm_name")) ||
          !any(types, TextAt(event, "type")))
        return true;
      const bool go = context.Write(EventObject(event));
      // Somebody waits for each of them.
      if (follow) context.session().ShowNow();
      return go;
    });
    if (error) context.Error(*std::move(error));
  }
};

// Key-value pairs of a guest: one object, a property for each key.
void GetVmGuest(const Bound& /*bound*/, Context& context, const Json& vm) {
  const auto guest = Ask(context, "GET", VmPath(vm, "/guest"));
  if (!guest) return;
  Object out("VMGuest");
  out.Add("VMName", TextAt(vm, "name"));
  const Value all = FromJson(*guest, "VMGuest");
  if (all.IfObject() != nullptr) {
    for (const Property& p : all.IfObject()->properties) {
      if (out.Find(p.name) == nullptr) out.Add(p.name, p.value);
    }
  }
  context.Write(std::move(out));
}

void GetVmWorker(const Bound& bound, Context& context, const Json& vm) {
  const Json& worker = ObjectAt(vm, "worker");
  if (worker.empty()) return;  // it is off
  Object out("VMWorker");
  out.Add("VMName", TextAt(vm, "name"))
      .Add("ProcessId", IntAt(worker, "pid"))
      .Add("Backend", TextAt(worker, "backend"))
      .Add("ResidentMemory", Size{IntAt(worker, "rss_bytes")});
  const Value all = FromJson(worker, "VMWorker");
  for (const Property& p : all.IfObject()->properties) {
    if (p.name != "Pid" && p.name != "Rss" && out.Find(p.name) == nullptr)
      out.Add(p.name, p.value, true);
  }
  if (bound.Switch("Counters")) {
    const auto counters = Ask(context, "GET", VmPath(vm, "/counters"));
    if (!counters) return;
    out.Add("Counters", FromJson(*counters, "VMCounters"));
  }
  context.Write(std::move(out));
}

void AddGuestAndWorker(CmdletTable* table) {
  table->Add({.verb = "Get",
              .noun = "VMGuest",
              .synopsis = "Shows what guests say of themselves.",
              .description = "Key-value pairs; the guest runs hv_kvp_daemon.",
              .output_type = "VMGuest",
              .sets = VmSets(),
              .parameters = DeviceParameters(),
              .examples = {{"Get-VMGuest web1 | ForEach-Object OSName", "Its system.",
                            "Debian GNU/Linux\n"}},
              .make = EachVm(GetVmGuest)});
  table->Add(
      {.verb = "Get",
       .noun = "VMWorker",
       .synopsis = "Shows the processes that run virtual machines.",
       .description = "Machines that are off have none. -Counters adds all of its counters.",
       .output_type = "VMWorker",
       .sets = VmSets(),
       .parameters = DeviceParameters({Flag("Counters", "With its counters.")}),
       .examples = {{"Get-VMWorker web*", "Process and memory of each.",
                     "\nVMName ProcessId Backend ResidentMemory(M)\n------ --------- ------- "
                     "-----------------\nweb1        4711 user                    5\n\n"}},
       .make = EachVm(GetVmWorker)});
}

}  // namespace

void AddInfoCmdlets(CmdletTable* table) {
  table->Add({.verb = "Measure",
              .noun = "VM",
              .synopsis = "Shows what virtual machines have used.",
              .description = "Processor, memory, disk and network since the machine started.",
              .output_type = "VMMetrics",
              .sets = VmSets(),
              .parameters = VmParameters(true),
              .examples = {{"Measure-VM web1", "A machine's use.",
                            "\nVMName  CPUTime MemoryAssigned(M) MemoryDemand(M) DiskRead(M) "
                            "DiskWritten(M) NetworkInbound(M) NetworkOutbound(M)\n------  ------- "
                            "----------------- --------------- ----------- -------------- "
                            "----------------- ------------------\nweb1   00:02:05               "
                            "512             300          64             32                12      "
                            "            3\n\n"}},
              .make = EachVm(MeasureVm)});
  table->Add(
      {.verb = "Get",
       .noun = "VMHost",
       .synopsis = "Shows what this host offers.",
       .description = "Its KVM, processors, memory, back ends and security.",
       .output_type = "VMHost",
       .examples = {{"Get-VMHost | ForEach-Object Cpus", "How many processors it has.", "2\n"}},
       .make = MakeCmdlet<GetVmHost>});
  table->Add({.verb = "Get",
              .noun = "VMEvent",
              .synopsis = "Shows what has happened.",
              .description = "The service's log of events; -Follow goes on until Ctrl-C.",
              .output_type = "VMEvent",
              .parameters = {{.name = "VMName",
                              .help = "Of these machines alone.",
                              .position = 0,
                              .array = true,
                              .completer = "VM"},
                             {.name = "Type", .help = "Of these types alone.", .array = true},
                             {.name = "Since",
                              .type = ParameterType::kInt,
                              .help = "From this number on."},
                             Flag("Follow", "And what happens from now on.")},
              .examples = {{"Get-VMEvent web1 | Select-Object -Last 1 | ForEach-Object Message",
                            "What happened last.", "web1 is running\n"}},
              .make = MakeCmdlet<GetVmEvent>});
  AddGuestAndWorker(table);
}

}  // namespace partita::shell
