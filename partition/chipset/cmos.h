// The CMOS clock at 0x70/0x71 (Motorola MC146818): the host's time of day in UTC, binary-coded
// decimal, 24 hours. Writes of the time are ignored; the rest is scratch memory.
#ifndef PARTITA_PARTITION_CHIPSET_CMOS_H_
#define PARTITA_PARTITION_CHIPSET_CMOS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <ctime>
#include <functional>

#include "partition/chipset/pio_bus.h"

namespace partita {

class CmosClock : public PioDevice {
 public:
  explicit CmosClock(std::function<time_t()> now) : now_(std::move(now)) {}
  uint8_t Read(uint16_t offset) override;
  void Write(uint16_t offset, uint8_t value) override;

 private:
  const std::function<time_t()> now_;
  std::atomic<uint8_t> index_ = 0;
  std::array<std::atomic<uint8_t>, 128> scratch_{};
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
