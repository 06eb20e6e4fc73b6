#include "partition/virtual_processor.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace partita {
namespace {

constexpr int kKickSignal = SIGUSR1;

// Of the VP that this thread runs.
thread_local kvm_run* this_run = nullptr;

// Ends KVM_RUN, also one that has not begun yet.
void OnKick(int) {
  if (this_run != nullptr) std::atomic_ref<uint8_t>(this_run->immediate_exit).store(1);
}

const char* ReasonName(size_t reason) {
  switch (reason) {
    case KVM_EXIT_IO:
      return "io";
    case KVM_EXIT_MMIO:
      return "mmio";
    case KVM_EXIT_HLT:
      return "hlt";
    case KVM_EXIT_X86_RDMSR:
      return "rdmsr";
    case KVM_EXIT_X86_WRMSR:
      return "wrmsr";
    case KVM_EXIT_HYPERV:
      return "hyperv";
    case KVM_EXIT_SYSTEM_EVENT:
      return "system_event";
    case KVM_EXIT_SHUTDOWN:
      return "shutdown";
    default:
      return "other";
  }
}

}  // namespace

VirtualProcessor::VirtualProcessor(std::unique_ptr<KvmVcpu> vcpu, VpExitHandler& handler,
                                   int host_cpu)
    : vcpu_(std::move(vcpu)), handler_(handler), host_cpu_(host_cpu) {}

VirtualProcessor::~VirtualProcessor() {
  RequestStop();
  Join();
}

absl::Status VirtualProcessor::Start() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_handler = OnKick;
    sigaction(kKickSignal, &action, nullptr);
  });
  MutexLock lock(mutex_);  // whoever kicks this VP finds its thread complete
  ASSIGN_OR_RETURN(thread_, StartThread("VP " + std::to_string(index()), [this] { ThreadMain(); }));
  return absl::OkStatus();
}

void VirtualProcessor::Kick() {
  // KVM looks at this flag on entry, so a signal that arrives before KVM_RUN is not lost.
  std::atomic_ref<uint8_t>(vcpu_->run()->immediate_exit).store(1);
  if (thread_.joinable()) pthread_kill(thread_.native_handle(), kKickSignal);
}

void VirtualProcessor::Pause() {
  MutexLock lock(mutex_);
  paused_ = true;
  Kick();
}

void VirtualProcessor::AwaitStanding() {
  MutexLock lock(mutex_);
  mutex_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return standing_; });
}

void VirtualProcessor::Resume() {
  MutexLock lock(mutex_);
  paused_ = false;
}

void VirtualProcessor::RequestStop() {
  MutexLock lock(mutex_);
  stop_ = true;
  Kick();
}

void VirtualProcessor::InjectAutoEoi(uint8_t vector) {
  if (!direct_.Add(vector)) return;
  MutexLock lock(mutex_);
  if (!stop_) Kick();  // after that the thread may be gone
}

void VirtualProcessor::Join() {
  if (thread_.joinable()) thread_.join();
}

bool VirtualProcessor::MayRun() {
  {
    MutexLock lock(mutex_);  // released at once: whoever waits for it is told
    standing_ = true;
  }
  MutexLock lock(mutex_);
  auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || (!paused_ && !parked_);
  };
  mutex_.Await(ready);
  std::atomic_ref<uint8_t>(vcpu_->run()->immediate_exit).store(0);
  standing_ = stop_;
  return !stop_;
}

void VirtualProcessor::ThreadMain() {
  pthread_setname_np(pthread_self(), ("vp" + std::to_string(index())).c_str());
  if (host_cpu_ >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(host_cpu_), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) {
      Log("VP " + std::to_string(index()) + " could not be pinned to CPU " +
          std::to_string(host_cpu_));
    }
  }
  this_run = vcpu_->run();
  while (MayRun()) {
    direct_.Deliver(*vcpu_, kKickSignal);
    // Stays here as long as nothing asks for a pause: one atomic check per exit, inside KVM.
    while (true) {
      const int error = vcpu_->Run();
      if (error == EINTR || error == EAGAIN) {
        interruptions_.Add();
        break;
      }
      if (error != 0) {
        handler_.OnEnd(*this, EndReason::kInternalError,
                       std::string("KVM_RUN failed: ") + strerror(error));
        Park();
      } else {
        Dispatch();
      }
      if (parked_) break;
    }
  }
}

void VirtualProcessor::DispatchIo() {
  kvm_run* run = vcpu_->run();
  uint8_t* data = reinterpret_cast<uint8_t*>(run) + run->io.data_offset;
  for (uint32_t i = 0; i < run->io.count; ++i, data += run->io.size) {
    if (run->io.direction == KVM_EXIT_IO_IN) {
      handler_.OnPioRead(*this, run->io.port, data, run->io.size);
    } else {
      handler_.OnPioWrite(*this, run->io.port, data, run->io.size);
    }
  }
}

void VirtualProcessor::DispatchMsr(bool write) {
  kvm_run* run = vcpu_->run();
  bool ok = false;
  if (write) {
    ok = handler_.OnMsrWrite(*this, run->msr.index, run->msr.data);
  } else {
    uint64_t value = 0;
    ok = handler_.OnMsrRead(*this, run->msr.index, &value);
    run->msr.data = value;
  }
  run->msr.error = ok ? 0 : 1;
}

std::string VirtualProcessor::Where() const {
  kvm_regs regs{};
  kvm_sregs sregs{};
  if (!vcpu_->GetRegs(&regs).ok() || !vcpu_->GetSregs(&sregs).ok()) return {};
  char text[160];
  snprintf(text, sizeof(text),
           " on VP %u at RIP 0x%llx (CS 0x%x, CR0 0x%llx, CR2 0x%llx, RSP 0x%llx)", index(),
           regs.rip, sregs.cs.selector, sregs.cr0, sregs.cr2, regs.rsp);
  return text;
}

void VirtualProcessor::Dispatch() {
  kvm_run* run = vcpu_->run();
  const uint32_t reason = run->exit_reason;
  exits_[reason < kReasons ? reason : 0].Add();
  switch (reason) {
    case KVM_EXIT_IO:
      return DispatchIo();
    case KVM_EXIT_X86_RDMSR:
      return DispatchMsr(false);
    case KVM_EXIT_X86_WRMSR:
      return DispatchMsr(true);
    case KVM_EXIT_HYPERV:
      return handler_.OnHyperv(*this, run->hyperv);
    case KVM_EXIT_MMIO:
      // No device lives in memory: reads give all ones, writes vanish.
      if (run->mmio.is_write == 0) std::memset(run->mmio.data, 0xFF, sizeof(run->mmio.data));
      return;
    case KVM_EXIT_HLT:
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return;
    case KVM_EXIT_SHUTDOWN:
      handler_.OnEnd(*this, EndReason::kTripleFault, "triple fault" + Where());
      return Park();
    case KVM_EXIT_SYSTEM_EVENT:
      if (run->system_event.type == KVM_SYSTEM_EVENT_RESET) {
        handler_.OnEnd(*this, EndReason::kReset, "reset through KVM");
      } else if (run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) {
        handler_.OnEnd(*this, EndReason::kPowerOff, "power-off through KVM");
      } else {
        handler_.OnEnd(*this, EndReason::kInternalError,
                       "KVM system event " + std::to_string(run->system_event.type));
      }
      return Park();
    case KVM_EXIT_FAIL_ENTRY:
      handler_.OnEnd(*this, EndReason::kInternalError,
                     "KVM could not enter the guest, hardware reason " +
                         std::to_string(run->fail_entry.hardware_entry_failure_reason));
      return Park();
    case KVM_EXIT_INTERNAL_ERROR: {
      std::string text = "KVM internal error " + std::to_string(run->internal.suberror);
      text += Where();
      if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        text += " (an instruction this KVM cannot emulate)";
      }
      handler_.OnEnd(*this, EndReason::kInternalError, text);
      return Park();
    }
    default:
      handler_.OnEnd(*this, EndReason::kInternalError,
                     "unknown KVM exit " + std::to_string(reason));
      return Park();
  }
}

void VirtualProcessor::DescribeTo(StatSink& sink) const {
  uint64_t total = 0;
  for (size_t i = 0; i < kReasons; ++i) {
    total += exits_[i].value();
    if (exits_[i].value() != 0) {
      sink.Add(std::string("exits.") + ReasonName(i), exits_[i].value());
    }
  }
  sink.Add("exits.total", total);
  sink.Add("exits.kicks", interruptions_);
  direct_.DescribeTo(sink);
}

}  // namespace partita
