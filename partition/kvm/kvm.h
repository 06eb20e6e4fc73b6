// Thin owners of KVM's three kinds of descriptor. Errors carry the ioctl's purpose; no policy here.
// KvmVm's methods may be called from any thread; KvmVcpu belongs to its VP's thread except Kick
// data.
#ifndef PARTITA_PARTITION_KVM_KVM_H_
#define PARTITA_PARTITION_KVM_KVM_H_

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/unique_fd.h"

namespace partita {

// What this host's KVM offers; each optional path of the project is chosen from here.
struct KvmCapabilities {
  bool irqchip = false, user_memory = false, user_space_msr = false, msr_filter = false;
  bool ioeventfd_any_length = false, irqfd = false, irqfd_resample = false, signal_msi = false;
  bool immediate_exit = false, irq_routing = false;
  bool hyperv = false, hyperv_synic2 = false, hyperv_vp_index = false, hyperv_eventfd = false;
  bool hyperv_tlbflush = false, hyperv_send_ipi = false, hyperv_enforce_cpuid = false;
  bool hyperv_cpuid = false, hyperv_time = false;
  bool tsc_khz = false, dirty_ring = false, enforce_pv_cpuid = false;
  int max_vcpus = 0;
  int max_memslots = 0;

  // Everything the kernel SynIC backend stands on.
  [[nodiscard]] bool KernelSynic() const {
    return hyperv && hyperv_synic2 && hyperv_vp_index && hyperv_eventfd && hyperv_cpuid &&
           irqfd_resample && irq_routing && msr_filter && user_space_msr;
  }
  [[nodiscard]] bool UserSynic() const {
    return user_space_msr && msr_filter && ioeventfd_any_length && signal_msi;
  }
};

KvmCapabilities ProbeKvm(int kvm_fd);

using CpuidTable = std::vector<kvm_cpuid_entry2>;
absl::StatusOr<CpuidTable> SupportedCpuid(int kvm_fd);
// KVM's own Hyper-V leaves (empty where KVM has no Hyper-V emulation).
CpuidTable SupportedHypervCpuid(int kvm_fd);

class KvmVcpu {
 public:
  KvmVcpu(UniqueFd fd, Mapping run, uint32_t index)
      : fd_(std::move(fd)), run_(std::move(run)), index_(index) {}

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] uint32_t index() const { return index_; }
  [[nodiscard]] kvm_run* run() const;
  // 0, or the errno of KVM_RUN (EINTR and EAGAIN are ordinary).
  int Run() const;

  absl::Status SetCpuid(const CpuidTable& table) const;
  absl::Status GetRegs(kvm_regs* regs) const;
  absl::Status SetRegs(const kvm_regs& regs) const;
  absl::Status GetSregs(kvm_sregs* sregs) const;
  absl::Status SetSregs(const kvm_sregs& sregs) const;
  absl::Status GetMpState(kvm_mp_state* state) const;
  absl::Status SetMpState(uint32_t state) const;
  absl::Status GetEvents(kvm_vcpu_events* events) const;
  absl::Status SetEvents(const kvm_vcpu_events& events) const;
  absl::Status GetLapic(kvm_lapic_state* apic) const;
  absl::Status SetMsr(uint32_t index, uint64_t value) const;
  absl::StatusOr<uint64_t> GetMsr(uint32_t index) const;
  absl::Status EnableCap(uint32_t cap, uint64_t argument, const char* what) const;
  [[nodiscard]] uint64_t TscKhz() const;  // 0 when unknown

 private:
  UniqueFd fd_;
  Mapping run_;
  uint32_t index_;
};

class KvmVm {
 public:
  // Creates the VM with its in-kernel interrupt chip. KVM binds it to the calling process. This
  // machine has no 8259: both are masked and nothing is routed to them.
  static absl::StatusOr<std::unique_ptr<KvmVm>> Create(int kvm_fd);

  absl::Status SetMemory(uint32_t slot, uint64_t gpa, uint64_t size, void* host) const;
  absl::StatusOr<std::unique_ptr<KvmVcpu>> CreateVcpu(uint32_t index) const;
  absl::Status EnableCap(uint32_t cap, uint64_t argument, const char* what) const;
  // MSRs in the given ranges leave to user space instead of KVM's own handlers.
  struct MsrRange {
    uint32_t first;
    uint32_t count;
  };
  absl::Status TrapMsrs(std::span<const MsrRange> ranges) const;

  absl::Status BindPort(uint16_t port, int event_fd, bool bind) const;
  absl::Status BindHypervConnection(uint32_t connection_id, int event_fd, bool bind) const;
  absl::Status BindIrqfd(uint32_t gsi, int event_fd, int resample_fd) const;
  // GSIs 0 to 23 lead to the pins of the I/O APIC. KVM takes a routing table whole, so whoever adds
  // routes begins with these.
  static constexpr uint32_t kIoApicPins = 24;
  static std::vector<kvm_irq_routing_entry> IoApicRoutes();
  absl::Status SetRouting(std::span<const kvm_irq_routing_entry> entries) const;
  void SetIrqLine(uint32_t gsi, bool level) const;
  // Edge interrupt `vector`, fixed delivery, to the local APIC with `apic_id`. False if refused.
  [[nodiscard]] bool SignalMsi(uint32_t apic_id, uint8_t vector) const;
  // KVM's own clock of this VM in nanoseconds, the one its Hyper-V emulation counts by.
  [[nodiscard]] uint64_t ClockNs() const;
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  absl::Status DisconnectPics() const;
  explicit KvmVm(UniqueFd fd, size_t run_size) : fd_(std::move(fd)), run_size_(run_size) {}
  UniqueFd fd_;
  size_t run_size_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_KVM_KVM_H_
