#include "partition/hypervisor/reference_clock.h"

#include <x86intrin.h>

#include <utility>

namespace partita {
namespace {

__extension__ typedef unsigned __int128 Wide;
constexpr uint32_t kMsrTsc = 0x10;

uint64_t ScaleTsc(uint64_t tsc, uint64_t scale) {
  return static_cast<uint64_t>((static_cast<Wide>(tsc) * scale) >> 64);
}

}  // namespace

absl::Status ReferenceClock::ReadFrequency(const KvmVcpu& vcpu) {
  const uint64_t khz = vcpu.TscKhz();
  if (khz == 0) return Unavailable("KVM does not tell the guest's TSC frequency");
  tsc_hz_ = khz * 1000;
  return absl::OkStatus();
}

void ReferenceClock::FollowHost(std::function<uint64_t()> nanoseconds, uint64_t zero) {
  host_ = std::move(nanoseconds);
  zero_ = zero;
}

absl::Status ReferenceClock::FollowTsc(const KvmVcpu& vcpu) {
  RETURN_IF_ERROR(ReadFrequency(vcpu));
  scale_ = static_cast<uint64_t>((static_cast<Wide>(10000000) << 64) / tsc_hz_);
  const uint64_t before = __rdtsc();
  ASSIGN_OR_RETURN(const uint64_t guest, vcpu.GetMsr(kMsrTsc));
  const uint64_t after = __rdtsc();
  guest_delta_ = guest - (before + (after - before) / 2);
  offset_ = -static_cast<int64_t>(ScaleTsc(guest, scale_));
  return absl::OkStatus();
}

uint64_t ReferenceClock::ReferenceTime() const {
  if (host_) return (host_() - zero_) / 100;
  return ScaleTsc(__rdtsc() + guest_delta_, scale_) + static_cast<uint64_t>(offset_);
}

hv::ReferenceTscPage ReferenceClock::Page() const {
  return {.sequence = host_ ? 0u : 1u, .reserved = 0, .scale = scale_, .offset = offset_};
}

uint64_t ReferenceClock::NanosecondsUntil(uint64_t reference_time) const {
  const uint64_t now = ReferenceTime();
  if (reference_time <= now) return 0;
  const uint64_t units = reference_time - now;
  return units > UINT64_MAX / 100 ? UINT64_MAX : units * 100;
}

}  // namespace partita
