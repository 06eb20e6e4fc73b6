// The synthetic interrupt controller of a partition: message slots, event flags, SINTs, timers.
//
// Two backends behind one class shape. What they share is here: both write messages and event flags
// into the guest's own SIMP and SIEFP pages, keep a bounded queue per VP for SINT 2 (the only
// source VMBus uses) and must not lose or reorder messages. They differ in how they learn the
// register state and how an interrupt leaves.
//
// Threads: MSR methods run on VP threads, SetEventFlag on channel loops, PostMessage on the control
// thread; each VP has its own mutex, held for a few instructions.
#ifndef PARTITA_SYNIC_SYNIC_H_
#define PARTITA_SYNIC_SYNIC_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/counters.h"
#include "base/doorbell.h"
#include "base/guest_memory.h"
#include "base/hyperv_abi.h"
#include "base/interrupt.h"
#include "base/mutex.h"
#include "partition/hypervisor/synic_port.h"
#include "partition/kvm/kvm.h"

namespace partita {

class Synic : public SynicPort, public Interrupt, public Doorbell {
 public:
  // A guest that never writes EOM can hold at most this many messages per VP.
  static constexpr size_t kMaxQueued = 4096;

  void SetEventFlag(uint32_t vp, uint32_t sint, uint32_t flag) override;
  bool PostMessage(uint32_t vp, uint32_t sint, uint32_t type,
                   std::span<const std::byte> payload) override;
  void DropMessages() override;
  virtual void DescribeTo(StatSink& sink) const;
  // Whether a page is an enabled message or event flag page of some VP. Any thread.
  [[nodiscard]] bool UsesPage(uint64_t pfn) const;

 protected:
  struct QueuedMessage {
    uint32_t sint = 0;
    hv::Message message{};
  };
  // One VP's SynIC state.
  struct Vp {
    explicit Vp(const KvmVcpu& v) : vcpu(v) {}
    const KvmVcpu& vcpu;
    Mutex mutex;
    bool enabled ABSL_GUARDED_BY(mutex) = false;           // SCONTROL bit 0
    std::byte* messages ABSL_GUARDED_BY(mutex) = nullptr;  // enabled SIMP page in host memory
    uint64_t messages_gpa ABSL_GUARDED_BY(mutex) = 0;
    std::byte* flags ABSL_GUARDED_BY(mutex) = nullptr;  // enabled SIEFP page
    uint64_t flags_gpa ABSL_GUARDED_BY(mutex) = 0;
    std::deque<QueuedMessage> queue ABSL_GUARDED_BY(mutex);
  };

  explicit Synic(GuestMemory& memory) : memory_(memory) {}

  // Raises SINT `sint` on the VP, unless it is masked. The VP's mutex is held.
  virtual void Raise(Vp& vp, uint32_t sint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(vp.mutex) = 0;
  // The message queue became non-empty or empty (the kernel backend watches EOM only in between).
  virtual void QueueChanged(Vp& vp) ABSL_EXCLUSIVE_LOCKS_REQUIRED(vp.mutex) = 0;

  // Page registers as the guest wrote them. False: not RAM. An enabled message page gets its
  // message slots cleared, because what the guest left there would block delivery for ever.
  bool SetMessagePage(Vp& vp, uint64_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(vp.mutex);
  bool SetFlagPage(Vp& vp, uint64_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(vp.mutex);
  // The host's address of an enabled page (null if disabled). False: enabled, but not RAM.
  bool PageOf(uint64_t value, std::byte** page);
  // Moves queued messages into free slots (on EOM, on enable, on a new message).
  void Deliver(Vp& vp) ABSL_EXCLUSIVE_LOCKS_REQUIRED(vp.mutex);
  bool Enqueue(Vp& vp, uint32_t sint, const hv::Message& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(vp.mutex);
  [[nodiscard]] Vp* FindVp(uint32_t index) const {
    return index < vps_.size() ? vps_[index].get() : nullptr;
  }
  // Puts a message into a slot that looked empty. False: somebody else took it meanwhile; in the
  // kernel backend KVM's timers share the slot with guests that have them on SINT 2 (Linux 3.15 to
  // 4.20), and what KVM put there must not be overwritten. (Only its payload may be, which those
  // guests do not read.)
  static bool Publish(std::byte* slot, const hv::Message& message);
  // As Publish; a slot that is busy is marked, so that the guest reports when it has emptied it.
  static bool PutOrAskForEnd(std::byte* slot, const hv::Message& message);
  static hv::Message MakeMessage(uint32_t type, std::span<const std::byte> payload);

  GuestMemory& memory_;
  std::vector<std::unique_ptr<Vp>> vps_;  // fixed before VPs run
  Counter messages_, message_retries_, events_, interrupts_, rejected_, lost_events_;
};

absl::StatusOr<std::unique_ptr<Synic>> MakeUserSynic(KvmVm& vm, GuestMemory& memory,
                                                     const class ReferenceClock& clock,
                                                     bool synthetic_timers);
class EventLoop;
absl::StatusOr<std::unique_ptr<Synic>> MakeKernelSynic(KvmVm& vm, GuestMemory& memory,
                                                       EventLoop& loop);

}  // namespace partita

#endif  // PARTITA_SYNIC_SYNIC_H_
