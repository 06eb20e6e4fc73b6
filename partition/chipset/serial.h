// A 16550 serial port at 0x3F8 (the data sheet of the PC16550D describes the registers). VPs never
// wait for the console: output goes into a bounded buffer that the control thread drains; what does
// not fit is dropped and counted.
#ifndef PARTITA_PARTITION_CHIPSET_SERIAL_H_
#define PARTITA_PARTITION_CHIPSET_SERIAL_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "base/counters.h"
#include "base/mutex.h"
#include "partition/chipset/pio_bus.h"

namespace partita {

class SerialPort : public PioDevice {
 public:
  static constexpr size_t kOutputLimit = 256 << 10;
  static constexpr size_t kInputLimit = 4 << 10;

  // `set_line` drives the interrupt line (level), `output_ready` says that output waits; both are
  // called on VP threads and on the thread that calls Input.
  SerialPort(std::function<void(bool)> set_line, std::function<void()> output_ready)
      : set_line_(std::move(set_line)), output_ready_(std::move(output_ready)) {}

  uint8_t Read(uint16_t offset) override;
  void Write(uint16_t offset, uint8_t value) override;

  // Takes everything the guest wrote. Any thread.
  std::string TakeOutput();
  // Puts back a tail that the console did not take, in front of newer output.
  void ReturnOutput(std::string_view tail);
  [[nodiscard]] bool HasOutput() const {
    MutexLock lock(mutex_);
    return !output_.empty();
  }
  // Bytes typed by the user; returns how many fit.
  size_t Input(std::span<const char> bytes);
  void DescribeTo(StatSink& sink) const;

 private:
  void UpdateLine() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void(bool)> set_line_;
  const std::function<void()> output_ready_;
  mutable Mutex mutex_;
  std::string output_ ABSL_GUARDED_BY(mutex_);
  std::deque<uint8_t> input_ ABSL_GUARDED_BY(mutex_);
  uint8_t interrupt_enable_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t fifo_control_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t line_control_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t modem_control_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t scratch_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t divisor_ ABSL_GUARDED_BY(mutex_) = 1;         // 115,200 baud
  bool transmit_empty_ ABSL_GUARDED_BY(mutex_) = false;  // transmitter-empty interrupt is pending
  bool line_ ABSL_GUARDED_BY(mutex_) = false;
  Counter written_, dropped_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_CHIPSET_SERIAL_H_
