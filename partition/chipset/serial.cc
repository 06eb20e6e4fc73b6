#include "partition/chipset/serial.h"

#include <algorithm>

#include "base/mutex.h"

namespace partita {
namespace {

// Register offsets.
enum : uint16_t {
  kData,
  kInterruptEnable,
  kIdentify,
  kLineControl,
  kModemControl,
  kLineStatus,
  kModemStatus,
  kScratch
};
constexpr uint8_t kEnableReceive = 1, kEnableTransmit = 2;
constexpr uint8_t kIdNone = 1, kIdTransmit = 2, kIdReceive = 4, kIdFifos = 0xC0;
constexpr uint8_t kDivisorLatch = 0x80;
constexpr uint8_t kStatusData = 1, kStatusTransmitterIdle = 0x60;
constexpr uint8_t kModemReady = 0xB0;  // carrier, data set ready, clear to send
constexpr uint8_t kLoopback = 0x10;
constexpr uint8_t kClearReceiveFifo = 2, kFifoEnable = 1;

}  // namespace

void SerialPort::UpdateLine() {
  const bool receive = (interrupt_enable_ & kEnableReceive) != 0 && !input_.empty();
  const bool transmit = (interrupt_enable_ & kEnableTransmit) != 0 && transmit_empty_;
  const bool level = receive || transmit;
  if (level != line_) {
    line_ = level;
    set_line_(level);
  }
}

uint8_t SerialPort::Read(uint16_t offset) {
  MutexLock lock(mutex_);
  const bool latch = (line_control_ & kDivisorLatch) != 0;
  switch (offset) {
    case kData: {
      if (latch) return static_cast<uint8_t>(divisor_);
      if (input_.empty()) return 0;
      const uint8_t value = input_.front();
      input_.pop_front();
      UpdateLine();
      return value;
    }
    case kInterruptEnable:
      return latch ? static_cast<uint8_t>(divisor_ >> 8) : interrupt_enable_;
    case kIdentify: {
      uint8_t id = kIdNone;
      if ((interrupt_enable_ & kEnableReceive) != 0 && !input_.empty()) {
        id = kIdReceive;
      } else if ((interrupt_enable_ & kEnableTransmit) != 0 && transmit_empty_) {
        id = kIdTransmit;
        transmit_empty_ = false;  // reading the identification acknowledges it
        UpdateLine();
      }
      return (fifo_control_ & kFifoEnable) != 0 ? static_cast<uint8_t>(id | kIdFifos) : id;
    }
    case kLineControl:
      return line_control_;
    case kModemControl:
      return modem_control_;
    case kLineStatus:
      return static_cast<uint8_t>(kStatusTransmitterIdle | (input_.empty() ? 0 : kStatusData));
    case kModemStatus:
      if ((modem_control_ & kLoopback) != 0) {  // outputs are wired to inputs
        return static_cast<uint8_t>(((modem_control_ & 1) << 5) | ((modem_control_ & 2) << 3) |
                                    ((modem_control_ & 0xC) << 4));
      }
      return kModemReady;
    default:
      return scratch_;
  }
}

void SerialPort::Write(uint16_t offset, uint8_t value) {
  bool wake = false;
  {
    MutexLock lock(mutex_);
    const bool latch = (line_control_ & kDivisorLatch) != 0;
    switch (offset) {
      case kData:
        if (latch) {
          divisor_ = static_cast<uint16_t>((divisor_ & 0xFF00) | value);
          break;
        }
        if ((modem_control_ & kLoopback) != 0) {
          if (input_.size() < kInputLimit) input_.push_back(value);
        } else if (output_.size() < kOutputLimit) {
          wake = output_.empty();
          output_.push_back(static_cast<char>(value));
          written_.Add();
        } else {
          dropped_.Add();
        }
        transmit_empty_ = true;
        break;
      case kInterruptEnable:
        if (latch) {
          divisor_ = static_cast<uint16_t>((divisor_ & 0xFF) | (value << 8));
          break;
        }
        if ((value & kEnableTransmit) != 0 && (interrupt_enable_ & kEnableTransmit) == 0) {
          transmit_empty_ = true;
        }
        interrupt_enable_ = value & 0x0F;
        break;
      case kIdentify:
        fifo_control_ = value;
        if ((value & kClearReceiveFifo) != 0) input_.clear();
        break;
      case kLineControl:
        line_control_ = value;
        break;
      case kModemControl:
        modem_control_ = value & 0x1F;
        break;
      case kScratch:
        scratch_ = value;
        break;
      default:
        break;
    }
    UpdateLine();
  }
  if (wake) output_ready_();
}

std::string SerialPort::TakeOutput() {
  MutexLock lock(mutex_);
  std::string taken;
  taken.swap(output_);
  return taken;
}

void SerialPort::ReturnOutput(std::string_view tail) {
  MutexLock lock(mutex_);
  output_.insert(0, tail);
}

size_t SerialPort::Input(std::span<const char> bytes) {
  MutexLock lock(mutex_);
  const size_t count = std::min(bytes.size(), kInputLimit - std::min(kInputLimit, input_.size()));
  input_.insert(input_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count));
  UpdateLine();
  return count;
}

void SerialPort::DescribeTo(StatSink& sink) const {
  sink.Add("serial.bytes", written_);
  sink.Add("serial.dropped", dropped_);
}

}  // namespace partita
