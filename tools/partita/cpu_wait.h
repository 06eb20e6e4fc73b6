// How long threads of a benchmark were ready to run and got no CPU, as the kernel counts it
// (/proc/PID/task/TID/schedstat). On a machine that others use as well a ratio says little, and
// this is how a benchmark knows.
#ifndef PARTITA_TOOLS_PARTITA_CPU_WAIT_H_
#define PARTITA_TOOLS_PARTITA_CPU_WAIT_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <thread>

namespace partita {

// Nanoseconds on a CPU and in wait for one.
struct SchedStat {
  uint64_t ran = 0, waited = 0;
};
// Of the text of a schedstat file; none if it is not one.
std::optional<SchedStat> ParseSchedStat(const std::string& text);
// Of the calling thread; none where the kernel does not count.
std::optional<SchedStat> OwnSchedStat();

// Looks at all threads of the calling thread's child processes, every few milliseconds, from its
// construction to Stop(): threads are gone when a worker has ended.
class ChildThreads {
 public:
  ChildThreads();
  ~ChildThreads() { Stop(); }
  ChildThreads(const ChildThreads&) = delete;
  ChildThreads& operator=(const ChildThreads&) = delete;
  void Stop();
  // After Stop(): the share of the time that they were watched which threads whose name is `prefix`
  // and a number waited, the worst of them. None where nothing was seen.
  [[nodiscard]] std::optional<double> WaitedShare(const std::string& prefix) const;

 private:
  struct Seen {
    std::string name;
    uint64_t first_ns = 0, last_ns = 0;
    SchedStat first, last;
  };
  void Look();

  const pid_t parent_;
  std::map<pid_t, Seen> seen_;
  std::jthread thread_;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_CPU_WAIT_H_
