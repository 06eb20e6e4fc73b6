// Synthetic MSRs that leave KVM: all of 0x40000000..0x400001FF in the user SynIC backend, the crash
// MSRs in the kernel backend. One table of ranges and their handlers; what it does not list gets
// #GP. Called on VP threads.
#ifndef PARTITA_PARTITION_HYPERVISOR_SYNTHETIC_MSRS_H_
#define PARTITA_PARTITION_HYPERVISOR_SYNTHETIC_MSRS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/counters.h"
#include "base/guest_memory.h"
#include "base/mutex.h"
#include "partition/hypervisor/reference_clock.h"
#include "partition/hypervisor/synic_port.h"
#include "partition/machine.h"

namespace partita {

// What a guest reported through the crash MSRs.
struct CrashReport {
  std::array<uint64_t, 5> parameters{};
  std::string text;  // guest-controlled, at most kMaxText bytes
  static constexpr uint64_t kMaxText = 4096;
};

class SyntheticMsrs {
 public:
  struct Events {
    std::function<void(CrashReport)> crash;
    std::function<void()> reset;
  };
  SyntheticMsrs(GuestMemory& memory, ReferenceClock& clock, SynicPort& synic, Events events);

  // False: the guest gets #GP.
  bool Read(uint32_t vp, uint32_t msr, uint64_t* value);
  bool Write(uint32_t vp, uint32_t msr, uint64_t value);
  void DescribeTo(StatSink& sink) const;

 private:
  struct Row;
  static const Row kTable[];
  bool WriteGuestOsId(uint32_t vp, uint32_t msr, uint64_t value);
  bool WriteHypercall(uint32_t vp, uint32_t msr, uint64_t value);
  bool WriteReset(uint32_t vp, uint32_t msr, uint64_t value);
  bool WriteReferenceTsc(uint32_t vp, uint32_t msr, uint64_t value);
  bool WriteVpAssist(uint32_t vp, uint32_t msr, uint64_t value);
  bool WriteCrash(uint32_t vp, uint32_t msr, uint64_t value);
  bool WriteSynic(uint32_t vp, uint32_t msr, uint64_t value);
  bool ReadPartition(uint32_t vp, uint32_t msr, uint64_t* value);
  bool ReadVp(uint32_t vp, uint32_t msr, uint64_t* value);
  bool ReadTime(uint32_t vp, uint32_t msr, uint64_t* value);
  bool ReadCrash(uint32_t vp, uint32_t msr, uint64_t* value);
  bool ReadSynic(uint32_t vp, uint32_t msr, uint64_t* value);

  GuestMemory& memory_;
  ReferenceClock& clock_;
  SynicPort& synic_;
  const Events events_;
  Mutex mutex_;
  uint64_t guest_os_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t hypercall_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t reference_tsc_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<uint64_t, 5> crash_ ABSL_GUARDED_BY(mutex_){};
  std::array<std::atomic<uint64_t>, machine::kMaxVps> vp_assist_{};
  Counter reads_, writes_, reference_time_reads_, rejected_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_SYNTHETIC_MSRS_H_
