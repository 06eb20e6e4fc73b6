// The partition reference clock, derived from the guest-visible TSC so that what the guest computes
// from its reference TSC page and what it reads from the MSR agree. Thread-safe after Start.
#ifndef PARTITA_PARTITION_HYPERVISOR_REFERENCE_CLOCK_H_
#define PARTITA_PARTITION_HYPERVISOR_REFERENCE_CLOCK_H_

#include <cstdint>

#include "base/clock.h"
#include "base/hyperv_abi.h"
#include "partition/kvm/kvm.h"

namespace partita {

class ReferenceClock : public Clock {
 public:
  // Reads the TSC frequency and the offset between guest and host TSC from the boot processor.
  absl::Status Start(const KvmVcpu& vcpu);

  [[nodiscard]] uint64_t ReferenceTime() const override;
  [[nodiscard]] uint64_t tsc_hz() const { return tsc_hz_; }
  // What belongs into the reference TSC page now.
  [[nodiscard]] hv::ReferenceTscPage Page() const;
  // CLOCK_MONOTONIC nanoseconds from now until `reference_time` (0 if past).
  [[nodiscard]] uint64_t NanosecondsUntil(uint64_t reference_time) const;

 private:
  uint64_t tsc_hz_ = 1;
  uint64_t scale_ = 0;        // floor(2^64 * 10^7 / tsc_hz)
  int64_t offset_ = 0;        // 100 ns units
  uint64_t guest_delta_ = 0;  // guest TSC minus host TSC
};

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_REFERENCE_CLOCK_H_
