#include "tools/partita/guest_result.h"

#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "tools/control/channel.h"

namespace partita {

absl::StatusOr<LoadResult> RunGuest(const RunOptions& options, int kernel_fd,
                                    std::map<std::string, uint64_t>* stats) {
  std::string console;
  constexpr size_t kMaxConsole = 64 << 10;
  RunHooks hooks;
  hooks.kernel_fd = kernel_fd;
  hooks.stats = stats;
  hooks.output = [&](std::string_view text) {
    if (console.size() < kMaxConsole) console.append(text);
  };
  const double cpu = CpuSeconds(RUSAGE_CHILDREN);
  const int status = RunPartition(options, hooks);
  if (status != control::kExitPowerOff) {
    return Internal("the partition ended with status " + std::to_string(status));
  }
  LoadResult result;
  bool found = false;
  for (size_t at = 0; at < console.size();) {
    size_t end = console.find('\n', at);
    if (end == std::string::npos) end = console.size();
    const auto line = nlohmann::json::parse(console.substr(at, end - at), nullptr, false);
    at = end + 1;
    if (!line.is_object()) continue;
    const std::string event = line.value("event", "");
    if (event == "error") return Internal("the guest: " + line.value("why", "unknown"));
    if (event == "fault") return Internal("the guest faulted: " + line.dump());
    if (event != "result") continue;
    found = true;
    result.ios = line.value("ios", uint64_t{0});
    result.errors = line.value("errors", uint64_t{0});
    result.nanoseconds = line.value("ns", uint64_t{0});
    result.doorbells = line.value("doorbells", uint64_t{0});
    result.interrupts = line.value("interrupts", uint64_t{0});
    result.p50_ns = line.value("p50_ns", uint64_t{0});
    result.p99_ns = line.value("p99_ns", uint64_t{0});
    result.p999_ns = line.value("p999_ns", uint64_t{0});
  }
  if (!found) return Internal("the guest reported no result");
  result.cpu_seconds = CpuSeconds(RUSAGE_CHILDREN) - cpu;
  return result;
}

}  // namespace partita
