#include "partition/direct_interrupts.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace partita {
namespace {

constexpr unsigned kVectorsPerWord = 64;

uint32_t ApicRegister(const kvm_lapic_state& apic, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, apic.regs + offset, sizeof(value));
  return value;
}

// False: KVM refused one of the questions.
bool ReadState(const KvmVcpu& vcpu, kvm_vcpu_events* events, InterruptState* state) {
  constexpr uint64_t kInterruptFlag = 1 << 9;
  kvm_regs regs{};
  kvm_mp_state mp{};
  kvm_lapic_state apic{};
  if (!vcpu.GetRegs(&regs).ok() || !vcpu.GetMpState(&mp).ok() || !vcpu.GetEvents(events).ok() ||
      !vcpu.GetLapic(&apic).ok()) {
    return false;
  }
  state->mp_state = mp.mp_state;
  state->interrupts_enabled = (regs.rflags & kInterruptFlag) != 0;
  state->busy = events->interrupt.injected != 0 || events->interrupt.shadow != 0 ||
                events->exception.injected != 0 || events->exception.pending != 0 ||
                events->nmi.injected != 0 || events->nmi.pending != 0 || events->smi.smm != 0;
  ReadApic(apic, *state);
  return true;
}

}  // namespace

Injection Decide(const InterruptState& state, uint8_t vector) {
  if (state.mp_state != KVM_MP_STATE_RUNNABLE && state.mp_state != KVM_MP_STATE_HALTED) {
    return Injection::kDrop;  // waits for INIT or SIPI, which forget interrupts
  }
  if (!state.apic_enabled) return Injection::kDrop;
  if (!state.interrupts_enabled || state.busy || vector >> 4 <= state.priority) {
    return Injection::kLater;
  }
  return Injection::kNow;
}

// Intel SDM volume 3, "Local APIC Register Address Map".
void ReadApic(const kvm_lapic_state& apic, InterruptState& state) {
  constexpr size_t kTpr = 0x80, kSpurious = 0xF0, kInService = 0x100, kStride = 0x10;
  constexpr uint32_t kSoftwareEnable = 1 << 8;
  state.apic_enabled = (ApicRegister(apic, kSpurious) & kSoftwareEnable) != 0;
  state.priority = static_cast<uint8_t>((ApicRegister(apic, kTpr) & 0xFF) >> 4);
  for (unsigned word = 8; word-- > 0;) {
    const uint32_t bits = ApicRegister(apic, kInService + word * kStride);
    if (bits == 0) continue;
    const unsigned highest = word * 32 + 31 - static_cast<unsigned>(std::countl_zero(bits));
    state.priority = std::max(state.priority, static_cast<uint8_t>(highest >> 4));
    break;
  }
}

DirectInterrupts::~DirectInterrupts() {
  if (has_timer_) timer_delete(timer_);
}

bool DirectInterrupts::Add(uint8_t vector) {
  const uint64_t bit = uint64_t{1} << (vector % kVectorsPerWord);
  return (pending_[vector / kVectorsPerWord].fetch_or(bit) & bit) == 0;
}

void DirectInterrupts::Remove(uint8_t vector) {
  pending_[vector / kVectorsPerWord].fetch_and(~(uint64_t{1} << (vector % kVectorsPerWord)));
}

int DirectInterrupts::Highest() const {
  for (size_t word = pending_.size(); word-- > 0;) {
    const uint64_t bits = pending_[word].load();
    if (bits != 0) return static_cast<int>(word * kVectorsPerWord + 63) - std::countl_zero(bits);
  }
  return -1;
}

void DirectInterrupts::Deliver(const KvmVcpu& vcpu, int signal) {
  for (int highest = Highest(); highest >= 0; highest = Highest()) {
    const auto vector = static_cast<uint8_t>(highest);
    kvm_vcpu_events events{};
    InterruptState state;
    const bool known = ReadState(vcpu, &events, &state);
    switch (known ? Decide(state, vector) : Injection::kDrop) {
      case Injection::kDrop:
        Remove(vector);
        dropped_.Add();
        continue;
      case Injection::kLater:
        return TryAgainLater(signal);
      case Injection::kNow:
        break;
    }
    // Before it is handed over: what comes while the guest handles it is a new interrupt.
    Remove(vector);
    attempts_ = 0;
    events.flags = 0;  // takes nothing but the event itself, so that no NMI gets lost
    events.interrupt.injected = 1;
    events.interrupt.nr = vector;
    events.interrupt.soft = 0;
    const bool halted = state.mp_state == KVM_MP_STATE_HALTED;
    if (vcpu.SetEvents(events).ok() && (!halted || vcpu.SetMpState(KVM_MP_STATE_RUNNABLE).ok())) {
      delivered_.Add();
    } else {
      dropped_.Add();
    }
    // The next one has to wait until this one is in.
    if (Highest() >= 0) TryAgainLater(signal);
    return;
  }
}

void DirectInterrupts::TryAgainLater(int signal) {
  constexpr unsigned kMaxDoublings = 6;
  constexpr long kFirstNs = 50'000;
  if (!has_timer_) {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    event._sigev_un._tid = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return dropped_.Add();
    has_timer_ = true;
  }
  deferred_.Add();
  itimerspec when{};
  when.it_value.tv_nsec = kFirstNs << std::min(attempts_++, kMaxDoublings);
  timer_settime(timer_, 0, &when, nullptr);
}

void DirectInterrupts::DescribeTo(StatSink& sink) const {
  sink.Add("auto_eoi.delivered", delivered_);
  sink.Add("auto_eoi.deferred", deferred_);
  sink.Add("auto_eoi.dropped", dropped_);
}

}  // namespace partita
