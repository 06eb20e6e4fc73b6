// The partition reference time: 100 ns units since the partition started, monotonic across VPs.
#ifndef PARTITA_BASE_CLOCK_H_
#define PARTITA_BASE_CLOCK_H_

#include <cstdint>

namespace partita {

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual uint64_t ReferenceTime() const = 0;
};

}  // namespace partita

#endif  // PARTITA_BASE_CLOCK_H_
