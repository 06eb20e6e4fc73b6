// One virtual processor: a KVM vCPU and the thread that runs it. Exits go to a VpExitHandler on
// that thread; the handler must not block, because a VP inside an exit cannot take interrupts.
#ifndef PARTITA_PARTITION_VIRTUAL_PROCESSOR_H_
#define PARTITA_PARTITION_VIRTUAL_PROCESSOR_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/counters.h"
#include "base/mutex.h"
#include "base/status.h"
#include "partition/direct_interrupts.h"
#include "partition/hypervisor/synic_port.h"
#include "partition/kvm/kvm.h"

namespace partita {

class VirtualProcessor;

// How a partition's run ends.
enum class EndReason : uint8_t { kPowerOff, kReset, kTripleFault, kInternalError };

class VpExitHandler {
 public:
  virtual ~VpExitHandler() = default;
  virtual void OnPioRead(VirtualProcessor& vp, uint16_t port, uint8_t* data, unsigned size) = 0;
  virtual void OnPioWrite(VirtualProcessor& vp, uint16_t port, const uint8_t* data,
                          unsigned size) = 0;
  // False: the guest gets #GP.
  virtual bool OnMsrRead(VirtualProcessor& vp, uint32_t msr, uint64_t* value) = 0;
  virtual bool OnMsrWrite(VirtualProcessor& vp, uint32_t msr, uint64_t value) = 0;
  virtual void OnHyperv(VirtualProcessor& vp, kvm_hyperv_exit& exit) = 0;
  // The VP cannot go on; it waits for Stop.
  virtual void OnEnd(VirtualProcessor& vp, EndReason reason, std::string detail) = 0;
};

class VirtualProcessor : public AutoEoiInjector {
 public:
  VirtualProcessor(std::unique_ptr<KvmVcpu> vcpu, VpExitHandler& handler, int host_cpu);
  ~VirtualProcessor() override;

  absl::Status Start();  // fails where the host has no thread to give
  void Pause();  // asynchronous: takes effect before the next guest instruction after the exit
  // Returns once the VP executes nothing of the guest; call it behind Pause.
  void AwaitStanding();
  void Resume();
  void RequestStop();
  void Join();
  // Any thread. Taken before the next guest instruction if the guest can take it then.
  void InjectAutoEoi(uint8_t vector) override;
  // On the VP's own thread: do not enter the guest again.
  void Park() { parked_ = true; }

  [[nodiscard]] const KvmVcpu& vcpu() const { return *vcpu_; }
  [[nodiscard]] uint32_t index() const { return vcpu_->index(); }
  void DescribeTo(StatSink& sink) const;

 private:
  void ThreadMain();
  void Kick();
  // Waits while paused; false when stopping.
  bool MayRun();
  void Dispatch();
  // " on VP n at RIP ..." for messages about a VP that cannot go on.
  [[nodiscard]] std::string Where() const;
  void DispatchIo();
  void DispatchMsr(bool write);

  const std::unique_ptr<KvmVcpu> vcpu_;
  VpExitHandler& handler_;
  const int host_cpu_;
  std::thread thread_;
  DirectInterrupts direct_;
  bool parked_ = false;  // the VP's thread only
  Mutex mutex_;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool standing_ ABSL_GUARDED_BY(mutex_) = true;  // outside the loop that enters the guest
  static constexpr size_t kReasons = 48;
  std::array<Counter, kReasons> exits_;
  Counter interruptions_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_VIRTUAL_PROCESSOR_H_
