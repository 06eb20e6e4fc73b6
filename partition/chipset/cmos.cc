#include "partition/chipset/cmos.h"

#include "base/mutex.h"
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

enum : uint8_t { kSet = 0x80, kBinary = 0x04, k24Hours = 0x02, kDaylightSaving = 0x01 };

}  // namespace

uint8_t CmosClock::InForm(int value) const {
  return (status_b_ & kBinary) != 0 ? static_cast<uint8_t>(value) : Bcd(value);
}

uint8_t CmosClock::Hours(int hours) const {
  if ((status_b_ & k24Hours) != 0) return InForm(hours);
  constexpr uint8_t kAfternoon = 0x80;
  const uint8_t clock = InForm((hours + 11) % 12 + 1);
  return hours >= 12 ? clock | kAfternoon : clock;
}

uint8_t CmosClock::ReadTime(uint8_t index) {
  const uint64_t bit = uint64_t{1} << index;
  if ((status_b_ & kSet) == 0 || taken_ == -1) {  // kSet: the guest holds the clock still
    const time_t now = now_();
    if (taken_ == -1 || (shown_ & bit) != 0 || now > taken_ + 1 || now < taken_) {
      taken_ = now;
      shown_ = 0;
    }
  }
  shown_ |= bit;
  tm time{};
  gmtime_r(&taken_, &time);
  switch (index) {
    case kSeconds:
      return InForm(time.tm_sec % 60);
    case kMinutes:
      return InForm(time.tm_min);
    case kHours:
      return Hours(time.tm_hour);
    case kWeekday:
      return InForm(time.tm_wday + 1);
    case kDay:
      return InForm(time.tm_mday);
    case kMonth:
      return InForm(time.tm_mon + 1);
    case kYear:
      return InForm(time.tm_year % 100);
    default:
      return InForm((time.tm_year + 1900) / 100);
  }
}

uint8_t CmosClock::Read(uint16_t offset) {
  if (offset == 0) return 0xFF;
  MutexLock lock(mutex_);
  switch (index_) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kWeekday:
    case kDay:
    case kMonth:
    case kYear:
    case kCentury:
      return ReadTime(index_);
    case kStatusA:
      if ((status_b_ & kSet) == 0) taken_ = -1;
      return 0x26;  // never "update in progress"
    case kStatusB:
      return status_b_;
    case kStatusC:
      return 0;
    case kStatusD:
      return 0x80;  // battery good
    default:
      return scratch_[index_];
  }
}

void CmosClock::Write(uint16_t offset, uint8_t value) {
  MutexLock lock(mutex_);
  if (offset == 0) {
    index_ = value & 0x7F;  // bit 7 masks NMIs, which this machine does not have
  } else if (index_ == kStatusB) {
    status_b_ = value & (kSet | kBinary | k24Hours | kDaylightSaving);
    if ((status_b_ & kSet) == 0) taken_ = -1;
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
