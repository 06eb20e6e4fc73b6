#include "tools/service/process_facts.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "tools/host/host_facts.h"

namespace partita::service {
namespace {

uint64_t NowMs() { return MonotonicNs() / 1'000'000; }

}  // namespace

void LookAtProcess(Vm& vm) {
  const pid_t pid = vm.worker == nullptr ? 0 : vm.worker->pid();
  if (pid <= 0) return;
  const std::string stat = ReadLine(absl::StrCat("/proc/", pid, "/stat"));
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return;
  std::istringstream rest(stat.substr(name_end + 1));
  std::vector<std::string> words;
  for (std::string word; rest >> word;) words.push_back(word);
  // Numbered as in proc(5), from 3 on.
  constexpr size_t kUser = 14 - 3, kSystem = 15 - 3, kStart = 22 - 3, kResident = 24 - 3;
  if (words.size() <= kResident) return;
  const auto number = [&words](size_t i) {
    return uint64_t{strtoull(words[i].c_str(), nullptr, 10)};
  };
  const auto ticks = static_cast<uint64_t>(std::max(1L, sysconf(_SC_CLK_TCK)));
  const uint64_t cpu_ms = (number(kUser) + number(kSystem)) * 1000 / ticks;
  const uint64_t now = NowMs();
  VmStatus& status = vm.status;
  if (status.at_ms != 0 && now > status.at_ms && cpu_ms >= status.cpu_ms) {
    status.cpu_usage_percent = 100.0 * static_cast<double>(cpu_ms - status.cpu_ms) /
                               static_cast<double>(now - status.at_ms);
  }
  status.cpu_ms = cpu_ms;
  status.at_ms = now;
  status.rss_bytes = number(kResident) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  timespec boot{};
  clock_gettime(CLOCK_BOOTTIME, &boot);
  const uint64_t up =
      static_cast<uint64_t>(boot.tv_sec) * 1000 + static_cast<uint64_t>(boot.tv_nsec) / 1'000'000;
  const uint64_t age = up - std::min(up, number(kStart) * 1000 / ticks);
  vm.started_ms = now - std::min(now, age);
}

void TakeStatus(Vm& vm, const control::Reply& reply) {
  VmStatus& status = vm.status;
  constexpr size_t kMostServices = 32;
  for (const control::Pair& pair : reply.texts()) {
    if (pair.name() == "heartbeat") status.heartbeat = pair.value();
    if (pair.name() == "synic") status.backend = pair.value();
    if (pair.name() == "vmbus") status.vmbus = pair.value();
  }
  constexpr std::string_view kService = "service.";
  for (const auto& [name, value] : reply.numbers()) {
    if (name == "memory_assigned_bytes") status.memory_assigned_bytes = value;
    if (name == "memory_demand_bytes") status.memory_demand_bytes = value;
    if (name == "resets") status.resets = value;
    if (name.starts_with(kService) && status.services.size() < kMostServices) {
      status.services[name.substr(kService.size())] = value != 0;
    }
  }
}

void TakeAddresses(Vm& vm, const control::Reply& reply) {
  constexpr size_t kMost = 64, kLongest = 64;
  vm.status.addresses.clear();
  for (const control::Pair& pair : reply.texts()) {
    if (!pair.name().ends_with(".addresses")) continue;
    std::istringstream list(pair.value());
    for (std::string address; std::getline(list, address, ';');) {
      if (address.empty() || address.size() > kLongest) continue;
      if (vm.status.addresses.size() < kMost) vm.status.addresses.push_back(address);
    }
  }
}

}  // namespace partita::service
