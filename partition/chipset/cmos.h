// The CMOS clock at 0x70/0x71 (Motorola MC146818): the host's time of day in UTC. Writes of the
// time are ignored; the form of it (status B) is the guest's choice; the rest is scratch memory. It
// raises no interrupts, so their enable bits read back as 0.
//
// A guest reads the time register by register, and a second may pass in between. It never sees
// parts of two: the time is taken at the first register and kept until a register is read a second
// time, status A is read (which guests do before they begin), or a second has passed.
//
// Called on VP threads.
#ifndef PARTITA_PARTITION_CHIPSET_CMOS_H_
#define PARTITA_PARTITION_CHIPSET_CMOS_H_

#include <array>
#include <cstdint>
#include <ctime>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "partition/chipset/pio_bus.h"

namespace partita {

class CmosClock : public PioDevice {
 public:
  explicit CmosClock(std::function<time_t()> now) : now_(std::move(now)) {}
  uint8_t Read(uint16_t offset) override;
  void Write(uint16_t offset, uint8_t value) override;

 private:
  // The part of the time that register `index` shows, in the guest's form.
  uint8_t ReadTime(uint8_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] uint8_t Hours(int hours) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] uint8_t InForm(int value) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<time_t()> now_;
  Mutex mutex_;
  uint8_t index_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t status_b_ ABSL_GUARDED_BY(mutex_) = 0x02;  // 24 hours, binary-coded decimal
  time_t taken_ ABSL_GUARDED_BY(mutex_) = -1;        // the time being read out; -1: none
  uint64_t shown_ ABSL_GUARDED_BY(mutex_) = 0;       // a bit for each register that showed it
  std::array<uint8_t, 128> scratch_ ABSL_GUARDED_BY(mutex_){};
};

// Sleep control, sleep status and reset registers of a hardware-reduced ACPI machine.
class PowerRegisters : public PioDevice {
 public:
  struct Events {
    std::function<void()> power_off;
    std::function<void()> reset;
  };
  explicit PowerRegisters(Events events) : events_(std::move(events)) {}
  uint8_t Read(uint16_t) override { return 0; }
  void Write(uint16_t offset, uint8_t value) override;

 private:
  const Events events_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_CHIPSET_CMOS_H_
