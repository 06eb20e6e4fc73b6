#include "partition/chipset/cmos.h"

#include "partition/machine.h"

namespace partita {
namespace {

uint8_t Bcd(int value) { return static_cast<uint8_t>(((value / 10) << 4) | (value % 10)); }

enum : uint8_t {
  kSeconds = 0,
  kMinutes = 2,
  kHours = 4,
  kWeekday = 6,
  kDay = 7,
  kMonth = 8,
  kYear = 9,
  kStatusA = 0xA,
  kStatusB = 0xB,
  kStatusC = 0xC,
  kStatusD = 0xD,
  kCentury = 0x32
};

}  // namespace

uint8_t CmosClock::Read(uint16_t offset) {
  if (offset == 0) return 0xFF;
  const uint8_t index = index_;
  const time_t now = now_();
  tm time{};
  gmtime_r(&now, &time);
  switch (index) {
    case kSeconds:
      return Bcd(time.tm_sec % 60);
    case kMinutes:
      return Bcd(time.tm_min);
    case kHours:
      return Bcd(time.tm_hour);
    case kWeekday:
      return Bcd(time.tm_wday + 1);
    case kDay:
      return Bcd(time.tm_mday);
    case kMonth:
      return Bcd(time.tm_mon + 1);
    case kYear:
      return Bcd(time.tm_year % 100);
    case kCentury:
      return Bcd((time.tm_year + 1900) / 100);
    case kStatusA:
      return 0x26;  // never "update in progress"
    case kStatusB:
      return 0x02;  // 24 hours, BCD
    case kStatusC:
      return 0;
    case kStatusD:
      return 0x80;  // battery good
    default:
      return scratch_[index];
  }
}

void CmosClock::Write(uint16_t offset, uint8_t value) {
  if (offset == 0) {
    index_ = value & 0x7F;  // bit 7 masks NMIs, which this machine does not have
  } else {
    scratch_[index_] = value;
  }
}

void PowerRegisters::Write(uint16_t offset, uint8_t value) {
  constexpr uint8_t kSleepEnable = 1 << 5;
  if (machine::kSleepControlPort + offset == machine::kResetPort) {
    if (value == machine::kResetValue) events_.reset();
  } else if (machine::kSleepControlPort + offset == machine::kSleepControlPort) {
    const uint8_t type = (value >> 2) & 7;
    if ((value & kSleepEnable) != 0 && type == machine::kSleepTypeS5) events_.power_off();
  }
}

}  // namespace partita
