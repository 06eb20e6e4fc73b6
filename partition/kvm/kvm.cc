#include "partition/kvm/kvm.h"

#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "partition/machine.h"

namespace partita {
namespace {

// The kernel's structs with a trailing array are two 32-bit words followed by the entries. In C++
// the headers of Debian 12 (__DECLARE_FLEX_ARRAY with an empty struct, which C++ gives a byte) lay
// them out four bytes too far and so also compute wrong ioctl numbers: docs/quirks.md, "flexible
// arrays". Both are made here instead.
template <typename Entry>
class Trailing {
 public:
  explicit Trailing(size_t count) : words_(1 + (count * sizeof(Entry) + 7) / 8) {
    set_count(count);
  }
  void set_count(size_t count) { words_[0] = static_cast<uint32_t>(count); }
  [[nodiscard]] uint32_t count() const { return static_cast<uint32_t>(words_[0]); }
  [[nodiscard]] Entry* entries() { return reinterpret_cast<Entry*>(words_.data() + 1); }
  [[nodiscard]] void* data() { return words_.data(); }

 private:
  std::vector<uint64_t> words_;
};
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, uint64_t);
constexpr unsigned long kGetSupportedHvCpuid = _IOWR(KVMIO, 0xC1, uint64_t);
constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, uint64_t);
constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, uint64_t);
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, uint64_t);
constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6A, uint64_t);

CpuidTable ReadCpuid(int fd, unsigned long request) {
  constexpr uint32_t kMaxEntries = 256;
  Trailing<kvm_cpuid_entry2> buffer(kMaxEntries);
  if (ioctl(fd, request, buffer.data()) != 0) return {};
  return {buffer.entries(), buffer.entries() + buffer.count()};
}

}  // namespace

KvmCapabilities ProbeKvm(int kvm_fd) {
  auto check = [&](long cap) { return ioctl(kvm_fd, KVM_CHECK_EXTENSION, cap); };
  auto has = [&](long cap) { return check(cap) > 0; };
  KvmCapabilities caps;
  caps.irqchip = has(KVM_CAP_IRQCHIP);
  caps.user_memory = has(KVM_CAP_USER_MEMORY);
  caps.user_space_msr = (check(KVM_CAP_X86_USER_SPACE_MSR) & KVM_MSR_EXIT_REASON_FILTER) != 0 ||
                        has(KVM_CAP_X86_USER_SPACE_MSR);
  caps.msr_filter = has(KVM_CAP_X86_MSR_FILTER);
  caps.ioeventfd_any_length = has(KVM_CAP_IOEVENTFD_ANY_LENGTH);
  caps.irqfd = has(KVM_CAP_IRQFD);
  caps.irqfd_resample = has(KVM_CAP_IRQFD_RESAMPLE);
  caps.signal_msi = has(KVM_CAP_SIGNAL_MSI);
  caps.immediate_exit = has(KVM_CAP_IMMEDIATE_EXIT);
  caps.irq_routing = has(KVM_CAP_IRQ_ROUTING);
  caps.hyperv = has(KVM_CAP_HYPERV);
  caps.hyperv_synic2 = has(KVM_CAP_HYPERV_SYNIC2);
  caps.hyperv_vp_index = has(KVM_CAP_HYPERV_VP_INDEX);
  caps.hyperv_eventfd = has(KVM_CAP_HYPERV_EVENTFD);
  caps.hyperv_tlbflush = has(KVM_CAP_HYPERV_TLBFLUSH);
  caps.hyperv_send_ipi = has(KVM_CAP_HYPERV_SEND_IPI);
  caps.hyperv_enforce_cpuid = has(KVM_CAP_HYPERV_ENFORCE_CPUID);
  caps.hyperv_cpuid = has(KVM_CAP_SYS_HYPERV_CPUID);
  caps.hyperv_time = has(KVM_CAP_HYPERV_TIME);
  caps.tsc_khz = has(KVM_CAP_GET_TSC_KHZ);
  caps.dirty_ring = has(KVM_CAP_DIRTY_LOG_RING);
  caps.enforce_pv_cpuid = has(KVM_CAP_ENFORCE_PV_FEATURE_CPUID);
  caps.max_vcpus = check(KVM_CAP_MAX_VCPUS);
  caps.max_memslots = check(KVM_CAP_NR_MEMSLOTS);
  return caps;
}

absl::StatusOr<CpuidTable> SupportedCpuid(int kvm_fd) {
  CpuidTable table = ReadCpuid(kvm_fd, kGetSupportedCpuid);
  if (table.empty()) return SystemError("reading KVM's supported CPUID leaves");
  return table;
}

CpuidTable SupportedHypervCpuid(int kvm_fd) { return ReadCpuid(kvm_fd, kGetSupportedHvCpuid); }

kvm_run* KvmVcpu::run() const { return reinterpret_cast<kvm_run*>(run_.data()); }

int KvmVcpu::Run() const { return ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno; }

absl::Status KvmVcpu::SetCpuid(const CpuidTable& table) const {
  Trailing<kvm_cpuid_entry2> buffer(table.size());
  std::memcpy(buffer.entries(), table.data(), table.size() * sizeof(kvm_cpuid_entry2));
  if (ioctl(fd_.get(), kSetCpuid2, buffer.data()) != 0) return SystemError("setting CPUID");
  return absl::OkStatus();
}

absl::Status KvmVcpu::GetRegs(kvm_regs* regs) const {
  return ioctl(fd_.get(), KVM_GET_REGS, regs) == 0 ? absl::OkStatus()
                                                   : SystemError("reading registers");
}
absl::Status KvmVcpu::SetRegs(const kvm_regs& regs) const {
  return ioctl(fd_.get(), KVM_SET_REGS, &regs) == 0 ? absl::OkStatus()
                                                    : SystemError("writing registers");
}
absl::Status KvmVcpu::GetSregs(kvm_sregs* sregs) const {
  return ioctl(fd_.get(), KVM_GET_SREGS, sregs) == 0 ? absl::OkStatus()
                                                     : SystemError("reading special registers");
}
absl::Status KvmVcpu::SetSregs(const kvm_sregs& sregs) const {
  return ioctl(fd_.get(), KVM_SET_SREGS, &sregs) == 0 ? absl::OkStatus()
                                                      : SystemError("writing special registers");
}

absl::Status KvmVcpu::GetMpState(kvm_mp_state* state) const {
  return ioctl(fd_.get(), KVM_GET_MP_STATE, state) == 0
             ? absl::OkStatus()
             : SystemError("reading whether a processor is halted");
}
absl::Status KvmVcpu::SetMpState(uint32_t state) const {
  const kvm_mp_state wanted = {.mp_state = state};
  return ioctl(fd_.get(), KVM_SET_MP_STATE, &wanted) == 0 ? absl::OkStatus()
                                                          : SystemError("waking a processor");
}
absl::Status KvmVcpu::GetEvents(kvm_vcpu_events* events) const {
  return ioctl(fd_.get(), KVM_GET_VCPU_EVENTS, events) == 0 ? absl::OkStatus()
                                                            : SystemError("reading pending events");
}
absl::Status KvmVcpu::SetEvents(const kvm_vcpu_events& events) const {
  return ioctl(fd_.get(), KVM_SET_VCPU_EVENTS, &events) == 0
             ? absl::OkStatus()
             : SystemError("writing pending events");
}
absl::Status KvmVcpu::GetLapic(kvm_lapic_state* apic) const {
  return ioctl(fd_.get(), KVM_GET_LAPIC, apic) == 0 ? absl::OkStatus()
                                                    : SystemError("reading a local APIC");
}

absl::Status KvmVcpu::SetMsr(uint32_t index, uint64_t value) const {
  Trailing<kvm_msr_entry> buffer(1);
  buffer.entries()[0] = {.index = index, .reserved = 0, .data = value};
  if (ioctl(fd_.get(), kSetMsrs, buffer.data()) != 1) {
    return SystemError("writing MSR " + std::to_string(index));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> KvmVcpu::GetMsr(uint32_t index) const {
  Trailing<kvm_msr_entry> buffer(1);
  buffer.entries()[0] = {.index = index, .reserved = 0, .data = 0};
  if (ioctl(fd_.get(), kGetMsrs, buffer.data()) != 1) {
    return SystemError("reading MSR " + std::to_string(index));
  }
  return static_cast<uint64_t>(buffer.entries()[0].data);
}

absl::Status KvmVcpu::EnableCap(uint32_t cap, uint64_t argument, const char* what) const {
  kvm_enable_cap enable{};
  enable.cap = cap;
  enable.args[0] = argument;
  return ioctl(fd_.get(), KVM_ENABLE_CAP, &enable) == 0 ? absl::OkStatus() : SystemError(what);
}

uint64_t KvmVcpu::TscKhz() const {
  const int khz = ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  return khz > 0 ? static_cast<uint64_t>(khz) : 0;
}

absl::StatusOr<std::unique_ptr<KvmVm>> KvmVm::Create(int kvm_fd) {
  const int run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_size <= 0) return SystemError("asking KVM for its run structure's size");
  // The kernel takes all locks of the address space for this and gives up, with EINTR, whenever
  // anything is pending for the thread, be it io_uring's own work (docs/quirks.md).
  int created = -1;
  do {
    created = ioctl(kvm_fd, KVM_CREATE_VM, 0);
  } while (created < 0 && errno == EINTR);
  UniqueFd fd(created);
  if (!fd.valid()) return SystemError("creating a KVM virtual machine");
  std::unique_ptr<KvmVm> vm(new KvmVm(std::move(fd), static_cast<size_t>(run_size)));
  if (ioctl(vm->fd(), KVM_SET_TSS_ADDR, machine::kKvmTss) != 0) {
    return SystemError("placing KVM's task state segment");
  }
  const uint64_t identity = machine::kKvmIdentityMap;
  if (ioctl(vm->fd(), KVM_SET_IDENTITY_MAP_ADDR, &identity) != 0) {
    return SystemError("placing KVM's identity map");
  }
  if (ioctl(vm->fd(), KVM_CREATE_IRQCHIP, 0) != 0) {
    return SystemError("creating the in-kernel interrupt chip");
  }
  RETURN_IF_ERROR(vm->DisconnectPics());
  return vm;
}

// KVM starts both 8259s unmasked, routed, with vectors from 0, and the boot processor's local APIC
// open to them: the first serial interrupt of a guest that uses the I/O APIC would be vector 4.
absl::Status KvmVm::DisconnectPics() const {
  for (const uint32_t id : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE}) {
    kvm_irqchip chip{};
    chip.chip_id = id;
    if (ioctl(fd_.get(), KVM_GET_IRQCHIP, &chip) != 0) return SystemError("reading an 8259");
    chip.chip.pic.imr = 0xFF;
    if (ioctl(fd_.get(), KVM_SET_IRQCHIP, &chip) != 0) return SystemError("masking an 8259");
  }
  return SetRouting(IoApicRoutes());
}

std::vector<kvm_irq_routing_entry> KvmVm::IoApicRoutes() {
  std::vector<kvm_irq_routing_entry> routes(kIoApicPins);
  for (uint32_t pin = 0; pin < kIoApicPins; ++pin) {
    routes[pin].gsi = pin;
    routes[pin].type = KVM_IRQ_ROUTING_IRQCHIP;
    routes[pin].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    routes[pin].u.irqchip.pin = pin;
  }
  return routes;
}

uint64_t KvmVm::ClockNs() const {
  kvm_clock_data data{};
  return ioctl(fd_.get(), KVM_GET_CLOCK, &data) == 0 ? data.clock : 0;
}

absl::Status KvmVm::SetMemory(uint32_t slot, uint64_t gpa, uint64_t size, void* host) const {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = gpa;
  region.memory_size = size;
  region.userspace_addr = reinterpret_cast<uintptr_t>(host);
  return ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region) == 0
             ? absl::OkStatus()
             : SystemError("giving memory to KVM");
}

absl::StatusOr<std::unique_ptr<KvmVcpu>> KvmVm::CreateVcpu(uint32_t index) const {
  UniqueFd fd(ioctl(fd_.get(), KVM_CREATE_VCPU, index));
  if (!fd.valid()) return SystemError("creating virtual processor " + std::to_string(index));
  ASSIGN_OR_RETURN(Mapping run,
                   Mapping::Map(run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get()));
  return std::make_unique<KvmVcpu>(std::move(fd), std::move(run), index);
}

absl::Status KvmVm::EnableCap(uint32_t cap, uint64_t argument, const char* what) const {
  kvm_enable_cap enable{};
  enable.cap = cap;
  enable.args[0] = argument;
  return ioctl(fd_.get(), KVM_ENABLE_CAP, &enable) == 0 ? absl::OkStatus() : SystemError(what);
}

absl::Status KvmVm::TrapMsrs(std::span<const MsrRange> ranges) const {
  RETURN_IF_ERROR(EnableCap(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER,
                            "asking KVM to pass filtered MSRs to user space"));
  kvm_msr_filter filter{};
  filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
  std::array<std::vector<uint8_t>, KVM_MSR_FILTER_MAX_RANGES> bitmaps;
  if (ranges.size() > bitmaps.size()) return InvalidArgument("too many MSR ranges");
  for (size_t i = 0; i < ranges.size(); ++i) {
    bitmaps[i].assign((ranges[i].count + 7) / 8 + 8, 0);  // a clear bit denies
    filter.ranges[i].flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    filter.ranges[i].base = ranges[i].first;
    filter.ranges[i].nmsrs = ranges[i].count;
    filter.ranges[i].bitmap = bitmaps[i].data();
  }
  return ioctl(fd_.get(), KVM_X86_SET_MSR_FILTER, &filter) == 0 ? absl::OkStatus()
                                                                : SystemError("filtering MSRs");
}

absl::Status KvmVm::BindPort(uint16_t port, int event_fd, bool bind) const {
  kvm_ioeventfd event{};
  event.addr = port;
  event.len = 0;
  event.fd = event_fd;
  event.flags = KVM_IOEVENTFD_FLAG_PIO | (bind ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN);
  return ioctl(fd_.get(), KVM_IOEVENTFD, &event) == 0 ? absl::OkStatus()
                                                      : SystemError("binding a doorbell port");
}

absl::Status KvmVm::BindHypervConnection(uint32_t connection_id, int event_fd, bool bind) const {
  kvm_hyperv_eventfd event{};
  event.conn_id = connection_id;
  event.fd = event_fd;
  event.flags = bind ? 0u : KVM_HYPERV_EVENTFD_DEASSIGN;
  return ioctl(fd_.get(), KVM_HYPERV_EVENTFD, &event) == 0
             ? absl::OkStatus()
             : SystemError("binding a Hyper-V connection to an eventfd");
}

absl::Status KvmVm::BindIrqfd(uint32_t gsi, int event_fd, int resample_fd) const {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(event_fd);
  irqfd.gsi = gsi;
  if (resample_fd >= 0) {
    irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<uint32_t>(resample_fd);
  }
  return ioctl(fd_.get(), KVM_IRQFD, &irqfd) == 0 ? absl::OkStatus()
                                                  : SystemError("binding an irqfd");
}

absl::Status KvmVm::SetRouting(std::span<const kvm_irq_routing_entry> entries) const {
  Trailing<kvm_irq_routing_entry> buffer(entries.size());
  std::memcpy(buffer.entries(), entries.data(), entries.size_bytes());
  return ioctl(fd_.get(), kSetGsiRouting, buffer.data()) == 0
             ? absl::OkStatus()
             : SystemError("setting interrupt routes");
}

void KvmVm::SetIrqLine(uint32_t gsi, bool level) const {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level ? 1 : 0;
  ioctl(fd_.get(), KVM_IRQ_LINE, &line);
}

bool KvmVm::SignalMsi(uint32_t apic_id, uint8_t vector) const {
  kvm_msi msi{};
  msi.address_lo = static_cast<uint32_t>(machine::kLocalApic) | (apic_id << 12);
  msi.data = vector;
  return ioctl(fd_.get(), KVM_SIGNAL_MSI, &msi) > 0;
}

}  // namespace partita
