// One child partition over KVM: VM, virtual processors, chipset and the hypervisor face of it.
//
// Life: Create -> Connect (SynIC and message sink) -> Load -> Start -> Stop -> destroy. A guest
// reset destroys it and makes a new one on the same RAM and descriptors, because KVM cannot reset
// its Hyper-V state. All methods belong to the control thread; Events are called on VP threads and
// must only post.
#ifndef PARTITA_PARTITION_PARTITION_H_
#define PARTITA_PARTITION_PARTITION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/counters.h"
#include "partition/boot/boot.h"
#include "partition/boot/smbios.h"
#include "partition/chipset/cmos.h"
#include "partition/chipset/pio_bus.h"
#include "partition/chipset/serial.h"
#include "partition/hypervisor/hypercalls.h"
#include "partition/hypervisor/reference_clock.h"
#include "partition/hypervisor/synic_port.h"
#include "partition/hypervisor/synthetic_msrs.h"
#include "partition/kvm/kvm.h"
#include "partition/memory/guest_ram.h"
#include "partition/virtual_processor.h"

namespace partita {

struct PartitionOptions {
  uint32_t vp_count = 1;
  SynicKind synic = SynicKind::kUser;
  // The host trusts its TSC: the reference clock may follow it. Otherwise it follows the host's.
  bool reference_tsc = true;
  // Kernel backend: the host's KVM cannot virtualise the local APIC in hardware, so that every EOI
  // would be an exit. The guest is told to use the VP assist page, by which KVM takes most EOIs
  // without one. (With APICv or AVIC the hint would do the opposite.)
  bool eoi_assist = false;
  bool synthetic_timers = false;
  SmbiosOptions smbios;
  std::vector<int> affinity;  // host CPU per VP; empty: not pinned
};

class Partition : public VpExitHandler {
 public:
  struct Events {
    std::function<void(EndReason, std::string detail)> end;
    std::function<void(CrashReport)> crash;
    std::function<void()> serial_output;
  };

  static absl::StatusOr<std::unique_ptr<Partition>> Create(int kvm_fd, GuestRam& ram,
                                                           const PartitionOptions& options,
                                                           Events events);
  ~Partition() override;

  // `synic` and `sink` outlive the VPs' run.
  absl::Status Connect(SynicPort& synic, GuestMessageSink& sink);
  absl::Status Load(BootImage image);
  absl::Status Start();
  void Stop();   // returns when no VP runs; may be called twice
  void Pause();  // returns when no VP executes anything of the guest
  void Resume();

  // Makes RAM that was set aside (GuestMemory::Region::added_later) the guest's, piece by piece.
  absl::Status AddMemory(uint64_t gpa, uint64_t bytes);
  [[nodiscard]] KvmVm& vm() { return *vm_; }
  [[nodiscard]] GuestMemory& memory() { return ram_.memory(); }
  [[nodiscard]] ReferenceClock& clock() { return clock_; }
  [[nodiscard]] SerialPort& serial() { return *serial_; }
  void DescribeTo(StatSink& sink) const;

  // VpExitHandler
  void OnPioRead(VirtualProcessor& vp, uint16_t port, uint8_t* data, unsigned size) override;
  void OnPioWrite(VirtualProcessor& vp, uint16_t port, const uint8_t* data, unsigned size) override;
  bool OnMsrRead(VirtualProcessor& vp, uint32_t msr, uint64_t* value) override;
  bool OnMsrWrite(VirtualProcessor& vp, uint32_t msr, uint64_t value) override;
  void OnHyperv(VirtualProcessor& vp, kvm_hyperv_exit& exit) override;
  void OnEnd(VirtualProcessor& vp, EndReason reason, std::string detail) override;

 private:
  Partition(GuestRam& ram, PartitionOptions options, Events events);
  absl::Status CreateVps(int kvm_fd);
  // What a processor's firmware would have set.
  static absl::Status SetFirmwareMsrs(const KvmVcpu& vcpu);
  absl::Status StartClock(const KvmVcpu& boot_vcpu);

  GuestRam& ram_;
  const PartitionOptions options_;
  const Events events_;
  std::unique_ptr<KvmVm> vm_;
  uint32_t next_slot_ = 0;
  ReferenceClock clock_;
  PioBus pio_;
  std::unique_ptr<SerialPort> serial_;
  CmosClock cmos_;
  PowerRegisters power_;
  SynicPort* synic_ = nullptr;
  std::unique_ptr<SyntheticMsrs> msrs_;
  std::unique_ptr<Hypercalls> hypercalls_;
  std::vector<std::unique_ptr<VirtualProcessor>> vps_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_PARTITION_H_
