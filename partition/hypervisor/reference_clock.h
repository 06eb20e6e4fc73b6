// The partition reference clock: what the guest reads from its counter, its reference TSC page and
// the samples of the time service must be one clock. Three sources:
// - the guest-visible TSC, where the host trusts its TSC: the page is valid;
// - the host's monotonic clock, where it does not: the TSC may stop or step there, so the page is
//   marked invalid and every reading asks the host;
// - KVM's own clock, where KVM counts for the guest (kernel SynIC backend).
// Thread-safe after one of the Follow calls.
#ifndef PARTITA_PARTITION_HYPERVISOR_REFERENCE_CLOCK_H_
#define PARTITA_PARTITION_HYPERVISOR_REFERENCE_CLOCK_H_

#include <cstdint>
#include <functional>

#include "base/clock.h"
#include "base/hyperv_abi.h"
#include "partition/kvm/kvm.h"

namespace partita {

class ReferenceClock : public Clock {
 public:
  // Begins at 0 now. Reads the offset between guest and host TSC from the boot processor.
  absl::Status FollowTsc(const KvmVcpu& vcpu);
  // `nanoseconds` outlives this clock's use; the reference time is 0 where it is `zero`.
  void FollowHost(std::function<uint64_t()> nanoseconds, uint64_t zero);
  // The guest's TSC frequency, which it reads from an MSR whatever the source.
  absl::Status ReadFrequency(const KvmVcpu& vcpu);

  [[nodiscard]] uint64_t ReferenceTime() const override;
  [[nodiscard]] uint64_t tsc_hz() const { return tsc_hz_; }
  // What belongs into the reference TSC page now; sequence 0 unless it follows the TSC.
  [[nodiscard]] hv::ReferenceTscPage Page() const;
  // CLOCK_MONOTONIC nanoseconds from now until `reference_time` (0 if past).
  [[nodiscard]] uint64_t NanosecondsUntil(uint64_t reference_time) const;

 private:
  std::function<uint64_t()> host_;  // empty: follows the TSC
  uint64_t zero_ = 0;
  uint64_t tsc_hz_ = 1;
  uint64_t scale_ = 0;        // floor(2^64 * 10^7 / tsc_hz)
  int64_t offset_ = 0;        // 100 ns units
  uint64_t guest_delta_ = 0;  // guest TSC minus host TSC
};

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_REFERENCE_CLOCK_H_
