#include "tools/service/view.h"

#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "tools/host/host_facts.h"
#include "tools/host/kvm_facts.h"
#include "tools/service/version.h"

namespace partita::service {
namespace {

uint64_t NowMs() { return MonotonicNs() / 1'000'000; }

const char* Name(Operation::State state) {
  switch (state) {
    case Operation::State::kRunning:
      return "running";
    case Operation::State::kSucceeded:
      return "succeeded";
    case Operation::State::kFailed:
      return "failed";
    case Operation::State::kCancelled:
      return "cancelled";
  }
  return "";
}

// A label's value: quotes, backslashes and line ends escaped, as the text format wants it.
std::string Label(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

uint64_t Uptime(const Vm& vm) {
  if (!HasWorker(vm.state) || vm.started_ms == 0) return 0;
  const uint64_t now = NowMs();
  return now > vm.started_ms ? now - vm.started_ms : 0;
}

std::string StatusText(const Vm& vm) {
  switch (vm.state) {
    case VmState::kPausedCritical:
      return "The host's disk is full; the VM goes on when there is room";
    case VmState::kRunningCritical:
      return "The worker does not answer";
    case VmState::kOff:
      if (!vm.stored.last_end) return "Operating normally";
      return vm.stored.last_end->status == 0 ? "Operating normally"
                                             : absl::StrCat("Ended: ", vm.stored.last_end->reason);
    default:
      return "Operating normally";
  }
}

}  // namespace

Json ToJson(const ApiError& error) {
  Json json;
  json["id"] = error.id;
  json["category"] = error.category;
  json["target"] = error.target;
  json["message"] = error.message;
  json["cause"] = error.cause;
  json["next_step"] = error.next_step;
  return json;
}

Json ToJson(const Operation& operation) {
  Json json;
  json["id"] = operation.id;
  json["kind"] = operation.kind;
  json["vm_id"] = operation.vm_id;
  json["state"] = Name(operation.state);
  json["progress_percent"] = operation.progress_percent;
  json["error"] = operation.error ? ToJson(*operation.error) : Json();
  json["started"] = operation.started;
  json["ended"] = operation.ended.empty() ? Json() : Json(operation.ended);
  return json;
}

Json ToJson(const Vm& vm) {
  const bool running = HasWorker(vm.state);
  const VmStatus& status = vm.status;
  Json json;
  json["id"] = vm.id();
  json["name"] = vm.name();
  json["state"] = Name(vm.state);
  json["status"] = StatusText(vm);
  json["critical"] = Critical(vm.state);
  json["definition"] = ToJson(vm.stored.definition);
  json["uptime_ms"] = Uptime(vm);
  json["memory_assigned_bytes"] = !running ? 0
                                  : status.memory_assigned_bytes != 0
                                      ? status.memory_assigned_bytes
                                      : vm.stored.definition.memory().startup_bytes();
  json["memory_demand_bytes"] = running ? status.memory_demand_bytes : 0;
  json["cpu_usage_percent"] = running ? std::round(status.cpu_usage_percent * 10) / 10 : 0.0;
  json["heartbeat"] = running ? status.heartbeat : "";
  json["addresses"] = running ? Json(status.addresses) : Json::array();
  json["created"] = vm.stored.created;
  json["worker"] = Json();
  if (running && vm.worker != nullptr && vm.worker->pid() > 0) {
    json["worker"] = {
        {"pid", vm.worker->pid()}, {"backend", status.backend}, {"rss_bytes", status.rss_bytes}};
  }
  json["last_end"] = Json();
  if (vm.stored.last_end) {
    json["last_end"] = {{"status", vm.stored.last_end->status},
                        {"reason", vm.stored.last_end->reason},
                        {"time", vm.stored.last_end->time}};
  }
  json["generation"] = vm.stored.generation;
  json["version"] = absl::StrCat(vm.stored.definition.machine_version(), ".0");
  return json;
}

Json ToJson(const control::Reply& reply) {
  Json json = Json::object();
  for (const control::Pair& pair : reply.texts()) json[pair.name()] = pair.value();
  const std::map<std::string, uint64_t> numbers(reply.numbers().begin(), reply.numbers().end());
  for (const auto& [name, value] : numbers) json[name] = value;
  return json;
}

Json HostJson() {
  utsname system{};
  uname(&system);
  struct sysinfo memory {};
  sysinfo(&memory);
  const KvmFacts kvm = LookAtKvm();
  const std::string huge = ReadLine("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  Json json;
  json["name"] = system.nodename;
  json["kernel"] = system.release;
  json["version"] = kVersion;
  json["kvm"] = kvm.usable;
  json["backends"] = Json::array();
  if (kvm.kernel_synic) json["backends"].push_back("kernel");
  if (kvm.user_synic) json["backends"].push_back("user");
  json["cpus"] = sysconf(_SC_NPROCESSORS_ONLN);
  json["memory_bytes"] = uint64_t{memory.totalram} * memory.mem_unit;
  json["memory_free_bytes"] = uint64_t{memory.freeram} * memory.mem_unit;
  json["max_virtual_processors"] = kvm.max_vps;
  json["free_huge_pages_2m"] = huge.empty() ? 0 : strtoull(huge.c_str(), nullptr, 10);
  json["clocksource"] = HostClock();
  return json;
}

Json MeteringJson(const Vm& vm, const control::Reply& counters) {
  const auto counter = [&counters](const char* name) {
    const auto it = counters.numbers().find(name);
    return it == counters.numbers().end() ? uint64_t{0} : it->second;
  };
  Json json;
  json["uptime_ms"] = Uptime(vm);
  json["cpu_ms"] = vm.status.cpu_ms;
  json["memory_assigned_bytes"] = vm.status.memory_assigned_bytes;
  json["memory_demand_bytes"] = vm.status.memory_demand_bytes;
  json["disk_read_bytes"] = counter("disk.read_bytes");
  json["disk_written_bytes"] = counter("disk.written_bytes");
  json["disk_reads"] = counter("disk.reads");
  json["disk_writes"] = counter("disk.writes");
  json["network_sent_bytes"] = counter("network.sent_bytes");
  json["network_received_bytes"] = counter("network.received_bytes");
  json["network_sent_packets"] = counter("network.sent");
  json["network_received_packets"] = counter("network.received");
  return json;
}

std::string PrometheusText(const Inventory& inventory, const HttpServer* server, uint64_t events,
                           uint64_t events_lost) {
  std::string out;
  const auto head = [&out](const char* name, const char* kind, const char* help) {
    absl::StrAppend(&out, "# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n");
  };
  const std::vector<Vm*> vms = inventory.All();
  const auto each = [&](const char* name, const char* kind, const char* help, auto value) {
    head(name, kind, help);
    for (const Vm* vm : vms) {
      absl::StrAppend(&out, name, "{vm=\"", Label(vm->name()), "\",id=\"", vm->id(), "\"} ",
                      value(*vm), "\n");
    }
  };
  head("partita_vms", "gauge", "VMs by state");
  for (const VmState state : kVmStates) {
    const auto count =
        std::count_if(vms.begin(), vms.end(), [state](const Vm* vm) { return vm->state == state; });
    absl::StrAppend(&out, "partita_vms{state=\"", std::string(Name(state)), "\"} ", count, "\n");
  }
  each("partita_vm_running", "gauge", "Whether the VM has a worker",
       [](const Vm& vm) { return HasWorker(vm.state) ? 1 : 0; });
  each("partita_vm_uptime_seconds", "gauge", "Age of the worker",
       [](const Vm& vm) { return static_cast<double>(Uptime(vm)) / 1000; });
  each("partita_vm_cpu_seconds_total", "counter", "Processor time of the worker",
       [](const Vm& vm) { return static_cast<double>(vm.status.cpu_ms) / 1000; });
  each("partita_vm_memory_assigned_bytes", "gauge", "Memory the guest has",
       [](const Vm& vm) { return HasWorker(vm.state) ? vm.status.memory_assigned_bytes : 0; });
  each("partita_vm_worker_resident_bytes", "gauge", "Resident memory of the worker",
       [](const Vm& vm) { return HasWorker(vm.state) ? vm.status.rss_bytes : 0; });
  each("partita_vm_resets_total", "counter", "Resets of the guest",
       [](const Vm& vm) { return vm.status.resets; });
  const auto one = [&](const char* name, const char* kind, const char* help, uint64_t value) {
    head(name, kind, help);
    absl::StrAppend(&out, name, " ", value, "\n");
  };
  one("partita_events_total", "counter", "Events there were", events);
  one("partita_events_not_saved_total", "counter", "Events that are not on disk", events_lost);
  if (server == nullptr) return out;
  const HttpServer::Counters& c = server->counters();
  one("partita_http_requests_total", "counter", "Requests", c.requests);
  one("partita_http_connections", "gauge", "Connections with a request", server->connections());
  one("partita_http_accepted_total", "counter", "Connections", c.accepted);
  one("partita_http_evicted_total", "counter", "Silent connections that had to go", c.evicted);
  one("partita_http_refused_total", "counter", "Connections over a limit", c.refused_connections);
  one("partita_http_too_large_total", "counter", "Bodies over the limit", c.too_large);
  one("partita_http_too_many_total", "counter", "Requests over the rate", c.too_many);
  return out;
}

}  // namespace partita::service
