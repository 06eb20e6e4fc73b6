// Interrupts with automatic end (SINT bit 17): the guest does not end them, so they must never be
// in service in its local APIC, or they and all of lower priority would be blocked for good. KVM's
// own SynIC leaves that bit out when it injects; here the vector goes to the processor as an
// injected event, past the local APIC, whose registers are only read: writing them back from user
// space would lose interrupts that other processors send meanwhile.
//
// FreeBSD, OpenBSD, RHEL and CentOS 6 and 7 and Linux before 4.12 ask for it whatever the hints
// say.
//
// One object per VP. Add may be called from any thread; the rest belongs to the VP's thread.
#ifndef PARTITA_PARTITION_DIRECT_INTERRUPTS_H_
#define PARTITA_PARTITION_DIRECT_INTERRUPTS_H_

#include <time.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "base/counters.h"
#include "partition/kvm/kvm.h"

namespace partita {

// What decides whether a processor can take an interrupt now.
struct InterruptState {
  uint32_t mp_state = KVM_MP_STATE_RUNNABLE;
  bool interrupts_enabled = false;  // RFLAGS.IF
  bool busy = false;                // in an interrupt shadow, or another event is on its way in
  bool apic_enabled = false;        // its local APIC takes interrupts at all
  uint8_t priority = 0;  // class of what it is doing: of TPR or of the highest in service
};
enum class Injection : uint8_t { kNow, kLater, kDrop };
Injection Decide(const InterruptState& state, uint8_t vector);
// TPR, in-service bits and software enable of a local APIC's register page.
void ReadApic(const kvm_lapic_state& apic, InterruptState& state);

class DirectInterrupts {
 public:
  ~DirectInterrupts();
  // True if the VP has to be made to look: the vector was not pending yet.
  bool Add(uint8_t vector);
  // With nothing half done (KVM_RUN was interrupted): hands over the highest vector if the guest
  // can take it. What has to wait is tried again when a timer interrupts KVM_RUN, because nothing
  // tells when a guest enables interrupts; `signal` is what that timer sends to the calling thread.
  void Deliver(const KvmVcpu& vcpu, int signal);
  void DescribeTo(StatSink& sink) const;

 private:
  [[nodiscard]] int Highest() const;  // -1: none
  void Remove(uint8_t vector);
  void TryAgainLater(int signal);

  std::array<std::atomic<uint64_t>, 4> pending_{};
  timer_t timer_{};
  bool has_timer_ = false;
  unsigned attempts_ = 0;
  Counter delivered_, deferred_, dropped_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_DIRECT_INTERRUPTS_H_
