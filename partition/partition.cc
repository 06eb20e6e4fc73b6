#include "partition/partition.h"

#include <ctime>
#include <utility>

#include "base/monotonic.h"
#include "partition/boot/acpi.h"
#include "partition/boot/entry_state.h"
#include "partition/hypervisor/cpuid.h"
#include "partition/machine.h"

namespace partita {

Partition::Partition(GuestRam& ram, PartitionOptions options, Events events)
    : ram_(ram),
      options_(std::move(options)),
      events_(std::move(events)),
      cmos_([] { return time(nullptr); }),
      power_({.power_off = [this] { events_.end(EndReason::kPowerOff, "power-off by the guest"); },
              .reset = [this] { events_.end(EndReason::kReset, "reset by the guest"); }}) {}

Partition::~Partition() { Stop(); }

absl::StatusOr<std::unique_ptr<Partition>> Partition::Create(int kvm_fd, GuestRam& ram,
                                                             const PartitionOptions& options,
                                                             Events events) {
  std::unique_ptr<Partition> self(new Partition(ram, options, std::move(events)));
  ASSIGN_OR_RETURN(self->vm_, KvmVm::Create(kvm_fd));
  for (const GuestMemory::Region& region : ram.memory().regions()) {
    if (region.added_later) continue;
    RETURN_IF_ERROR(self->vm_->SetMemory(self->next_slot_++, region.gpa, region.size, region.host));
  }
  if (options.synic == SynicKind::kUser) {
    const KvmVm::MsrRange all[] = {{hv::kMsrFirst, hv::kMsrCount}};
    RETURN_IF_ERROR(self->vm_->TrapMsrs(all));
  } else {
    // KVM owns the rest; it has no way to offer the crash text, so these stay ours.
    const KvmVm::MsrRange crash[] = {{hv::kMsrCrashP0, hv::kMsrCrashCtl - hv::kMsrCrashP0 + 1}};
    RETURN_IF_ERROR(self->vm_->TrapMsrs(crash));
  }
  RETURN_IF_ERROR(self->CreateVps(kvm_fd));

  self->serial_ = std::make_unique<SerialPort>(
      [vm = self->vm_.get()](bool level) { vm->SetIrqLine(machine::kSerialGsi, level); },
      self->events_.serial_output);
  self->pio_.Register(machine::kSerialPort, 8, self->serial_.get());
  self->pio_.Register(0x70, 2, &self->cmos_);
  self->pio_.Register(machine::kSleepControlPort, 4, &self->power_);
  return self;
}

absl::Status Partition::AddMemory(uint64_t gpa, uint64_t bytes) {
  std::byte* host = memory().Room(gpa, bytes);
  if (host == nullptr) return InvalidArgument("no memory was set aside there");
  RETURN_IF_ERROR(vm_->SetMemory(next_slot_, gpa, bytes, host));
  ++next_slot_;
  memory().Extend(bytes);
  return absl::OkStatus();
}

absl::Status Partition::CreateVps(int kvm_fd) {
  ASSIGN_OR_RETURN(const CpuidTable supported, SupportedCpuid(kvm_fd));
  const bool enforce_pv = ProbeKvm(kvm_fd).enforce_pv_cpuid;
  const bool kernel = options_.synic == SynicKind::kKernel;
  const CpuidTable hyperv = kernel ? SupportedHypervCpuid(kvm_fd) : CpuidTable{};
  const CpuidOptions cpuid = {.synic = options_.synic,
                              .vp_count = options_.vp_count,
                              .reference_tsc = options_.reference_tsc,
                              .synthetic_timers = options_.synthetic_timers,
                              .eoi_assist = options_.eoi_assist};
  for (uint32_t i = 0; i < options_.vp_count; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<KvmVcpu> vcpu, vm_->CreateVcpu(i));
    RETURN_IF_ERROR(vcpu->SetCpuid(BuildCpuid(cpuid, supported, hyperv, i)));
    if (kernel) {
      RETURN_IF_ERROR(vcpu->EnableCap(KVM_CAP_HYPERV_ENFORCE_CPUID, 1,
                                      "asking KVM to enforce the Hyper-V CPUID leaves"));
    }
    if (enforce_pv) {
      RETURN_IF_ERROR(vcpu->EnableCap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1,
                                      "keeping KVM's paravirtual MSRs from the guest"));
    }
    RETURN_IF_ERROR(SetFirmwareMsrs(*vcpu));
    if (i == 0) RETURN_IF_ERROR(StartClock(*vcpu));
    const int host_cpu = i < options_.affinity.size() ? options_.affinity[i] : -1;
    vps_.push_back(std::make_unique<VirtualProcessor>(std::move(vcpu), *this, host_cpu));
  }
  return absl::OkStatus();
}

// Without these Linux switches fast string operations off (Intel) and leaves PAT off (everywhere).
// Intel SDM volume 4, IA32_MISC_ENABLE and IA32_MTRR_DEF_TYPE: all memory is write-back unless page
// tables say otherwise; no range registers are needed, because a device lives in memory nowhere.
absl::Status Partition::SetFirmwareMsrs(const KvmVcpu& vcpu) {
  constexpr uint32_t kMiscEnable = 0x1A0, kMtrrDefType = 0x2FF;
  constexpr uint64_t kFastStrings = 1, kMtrrEnable = 1 << 11, kWriteBack = 6;
  ASSIGN_OR_RETURN(const uint64_t misc, vcpu.GetMsr(kMiscEnable));
  RETURN_IF_ERROR(vcpu.SetMsr(kMiscEnable, misc | kFastStrings));
  return vcpu.SetMsr(kMtrrDefType, kMtrrEnable | kWriteBack);
}

absl::Status Partition::StartClock(const KvmVcpu& boot_vcpu) {
  if (options_.synic == SynicKind::kUser && options_.reference_tsc) {
    return clock_.FollowTsc(boot_vcpu);
  }
  if (options_.synic == SynicKind::kKernel) {  // KVM counts from the creation of the VM
    clock_.FollowHost([vm = vm_.get()] { return vm->ClockNs(); }, 0);
  } else {
    clock_.FollowHost(MonotonicNs, MonotonicNs());
  }
  return clock_.ReadFrequency(boot_vcpu);
}

absl::Status Partition::Connect(SynicPort& synic, GuestMessageSink& sink) {
  synic_ = &synic;
  for (const auto& vp : vps_) RETURN_IF_ERROR(synic.AttachVp(vp->vcpu(), *vp));
  msrs_ = std::make_unique<SyntheticMsrs>(
      memory(), clock_, synic, SyntheticMsrs::Events{.crash = events_.crash, .reset = [this] {
                                                       events_.end(EndReason::kReset,
                                                                   "reset through the Hyper-V MSR");
                                                     }});
  hypercalls_ = std::make_unique<Hypercalls>(memory(), sink);
  return absl::OkStatus();
}

absl::Status Partition::Load(BootImage image) {
  ASSIGN_OR_RETURN(image.rsdp, WriteAcpiTables(memory(), {.vp_count = options_.vp_count}));
  RETURN_IF_ERROR(WriteSmbiosTables(memory(), options_.smbios));
  ASSIGN_OR_RETURN(const BootEntry entry, LoadKernel(memory(), image));
  return SetEntry(vps_[0]->vcpu(), memory(), entry);
}

absl::Status Partition::Start() {
  for (const auto& vp : vps_) RETURN_IF_ERROR(vp->Start());
  return absl::OkStatus();
}

void Partition::Stop() {
  for (const auto& vp : vps_) vp->RequestStop();
  for (const auto& vp : vps_) vp->Join();
}

void Partition::Pause() {
  for (const auto& vp : vps_) vp->Pause();
  for (const auto& vp : vps_) vp->AwaitStanding();
}

void Partition::Resume() {
  for (const auto& vp : vps_) vp->Resume();
}

void Partition::OnPioRead(VirtualProcessor& vp, uint16_t port, uint8_t* data, unsigned size) {
  if (port == machine::kHypercallPort && size == 4 && options_.synic == SynicKind::kUser) {
    kvm_regs regs{};
    uint64_t result = hv::kInvalidInput;
    if (vp.vcpu().GetRegs(&regs).ok()) result = hypercalls_->Call(regs.rcx, regs.rdx, regs.r8);
    const auto low = static_cast<uint32_t>(result);
    std::memcpy(data, &low, sizeof(low));
    return;
  }
  pio_.Read(port, data, size);
}

void Partition::OnPioWrite(VirtualProcessor& vp, uint16_t port, const uint8_t* data,
                           unsigned size) {
  if (port - machine::kDoorbellBase >= 0 &&
      port - machine::kDoorbellBase < machine::kDoorbellCount &&
      options_.synic == SynicKind::kUser) {
    // Nobody listens on this connection, else the kernel had taken it. The page returns RAX.
    kvm_regs regs{};
    if (vp.vcpu().GetRegs(&regs).ok()) {
      regs.rax = hypercalls_->Call(hv::kControlFast | hv::kCallSignalEvent, port, 0);
      static_cast<void>(vp.vcpu().SetRegs(regs).ok());
    }
    return;
  }
  pio_.Write(port, data, size);
}

bool Partition::OnMsrRead(VirtualProcessor& vp, uint32_t msr, uint64_t* value) {
  return msrs_->Read(vp.index(), msr, value);
}
bool Partition::OnMsrWrite(VirtualProcessor& vp, uint32_t msr, uint64_t value) {
  return msrs_->Write(vp.index(), msr, value);
}

void Partition::OnHyperv(VirtualProcessor& vp, kvm_hyperv_exit& exit) {
  if (exit.type == KVM_EXIT_HYPERV_HCALL) {
    exit.u.hcall.result =
        hypercalls_->Call(exit.u.hcall.input, exit.u.hcall.params[0], exit.u.hcall.params[1]);
  } else if (exit.type == KVM_EXIT_HYPERV_SYNIC) {
    synic_->OnSynicExit(vp.index(), exit.u.synic.control, exit.u.synic.evt_page,
                        exit.u.synic.msg_page);
  }
}

void Partition::OnEnd(VirtualProcessor&, EndReason reason, std::string detail) {
  events_.end(reason, std::move(detail));
}

void Partition::DescribeTo(StatSink& sink) const {
  for (const auto& vp : vps_) vp->DescribeTo(sink);
  if (msrs_) msrs_->DescribeTo(sink);
  if (hypercalls_) hypercalls_->DescribeTo(sink);
  serial_->DescribeTo(sink);
}

}  // namespace partita
