// The host's monotonic clock.
#ifndef PARTITA_BASE_MONOTONIC_H_
#define PARTITA_BASE_MONOTONIC_H_

#include <time.h>

#include <cstdint>

namespace partita {

inline uint64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace partita

#endif  // PARTITA_BASE_MONOTONIC_H_
