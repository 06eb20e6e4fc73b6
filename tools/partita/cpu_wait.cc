#include "tools/partita/cpu_wait.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "base/monotonic.h"

namespace partita {
namespace {

std::string FileText(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

}  // namespace

std::optional<SchedStat> ParseSchedStat(const std::string& text) {
  std::istringstream in(text);
  SchedStat stat;
  uint64_t slices = 0;
  if (!(in >> stat.ran >> stat.waited >> slices)) return std::nullopt;
  return stat;
}

std::optional<SchedStat> OwnSchedStat() {
  return ParseSchedStat(FileText("/proc/thread-self/schedstat"));
}

ChildThreads::ChildThreads()
    : parent_(gettid()), thread_([this](const std::stop_token& stop) {
        constexpr auto kInterval = std::chrono::milliseconds(5);
        while (!stop.stop_requested()) {
          Look();
          std::this_thread::sleep_for(kInterval);
        }
      }) {}

void ChildThreads::Stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

void ChildThreads::Look() {
  std::istringstream children(FileText("/proc/self/task/" + std::to_string(parent_) + "/children"));
  for (std::string child; children >> child;) {
    std::error_code error;
    // A process that has just ended is no error.
    for (std::filesystem::directory_iterator task("/proc/" + child + "/task", error), end;
         !error && task != end; task.increment(error)) {
      const std::string path = task->path();
      pid_t id = 0;
      const std::string number = task->path().filename();
      std::from_chars(number.data(), number.data() + number.size(), id);
      const auto stat = ParseSchedStat(FileText(path + "/schedstat"));
      const uint64_t now = MonotonicNs();
      const std::string name = FileText(path + "/comm");
      if (!stat || name.empty()) continue;
      Seen& seen = seen_[id];
      if (seen.name != name) {
        seen = {.name = name, .first_ns = now, .last_ns = now, .first = *stat, .last = *stat};
      }
      seen.last_ns = now;
      seen.last = *stat;
    }
  }
}

std::optional<double> ChildThreads::WaitedShare(const std::string& prefix) const {
  std::optional<double> worst;
  for (const auto& [id, seen] : seen_) {
    const bool named = seen.name.starts_with(prefix) && seen.name.size() > prefix.size() &&
                       std::all_of(seen.name.begin() + static_cast<ptrdiff_t>(prefix.size()),
                                   seen.name.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!named || seen.last_ns == seen.first_ns) continue;
    const double share = static_cast<double>(seen.last.waited - seen.first.waited) /
                         static_cast<double>(seen.last_ns - seen.first_ns);
    worst = std::max(worst.value_or(0), share);
  }
  return worst;
}

}  // namespace partita
