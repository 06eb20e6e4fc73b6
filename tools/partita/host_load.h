// The host's side of the storage benchmark: one thread, one io_uring, the same offsets, depth,
// flags and kind of memory as the load inside the partition. It is the yardstick, so it
// does no more per I/O than it must.
#ifndef PARTITA_TOOLS_PARTITA_HOST_LOAD_H_
#define PARTITA_TOOLS_PARTITA_HOST_LOAD_H_

#include <cstdint>

#include "base/status.h"

namespace partita {

struct HostLoad {
  int fd = -1;
  uint64_t bytes = 0;  // size of the disk
  bool write = false, random = true;
  uint32_t block_size = 4096, depth = 32;
  uint64_t milliseconds = 5000, seed = 1;
};

struct LoadResult {
  uint64_t ios = 0, errors = 0, nanoseconds = 0;
  uint64_t p50_ns = 0, p99_ns = 0, p999_ns = 0;
  uint64_t doorbells = 0, interrupts = 0;  // of a partition
  uint64_t system_calls = 0;
  double cpu_seconds = 0;
  [[nodiscard]] double Iops() const {
    return nanoseconds == 0 ? 0 : static_cast<double>(ios) * 1e9 / static_cast<double>(nanoseconds);
  }
};

absl::StatusOr<LoadResult> RunHostLoad(const HostLoad& load);
// User and system time of RUSAGE_THREAD, RUSAGE_CHILDREN, ...
double CpuSeconds(int who);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_HOST_LOAD_H_
