#include "tools/partita/host_command.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/utsname.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "partition/kvm/kvm.h"
#include "tools/host/host_facts.h"

namespace partita {
namespace {

struct Capability {
  const char* name;
  bool present;
  const char* lost;  // without it
};

bool HasIoUring() {
  io_uring ring{};
  if (io_uring_queue_init(2, &ring, 0) != 0) return false;
  io_uring_queue_exit(&ring);
  return true;
}

std::vector<Capability> Capabilities(const KvmCapabilities& kvm, bool io_uring, bool tsc) {
  return {
      {"KVM: in-kernel interrupt chip", kvm.irqchip, "no partition can run"},
      {"KVM: MSRs to user space", kvm.user_space_msr && kvm.msr_filter,
       "no partition can run: crash MSRs, and all of the user SynIC backend, need it"},
      {"KVM: ioeventfd of any length", kvm.ioeventfd_any_length,
       "the user SynIC backend: every doorbell would be an exit"},
      {"KVM: MSI injection", kvm.signal_msi, "the user SynIC backend: no way to interrupt a VP"},
      {"KVM: irqfd with resampling", kvm.irqfd_resample,
       "the kernel SynIC backend: a busy message slot could not be retried"},
      {"KVM: Hyper-V SynIC", kvm.hyperv_synic2,
       "the kernel SynIC backend; the user backend takes over, SynIC MSRs become exits"},
      {"KVM: Hyper-V eventfd", kvm.hyperv_eventfd,
       "the kernel SynIC backend; the user backend takes over"},
      {"KVM: Hyper-V CPUID enforcement", kvm.hyperv_enforce_cpuid,
       "in the kernel backend a guest could use calls it was not offered"},
      {"KVM: paravirtual MSRs by CPUID only", kvm.enforce_pv_cpuid,
       "a guest could use KVM's own MSRs, which it was not offered"},
      {"KVM: Hyper-V TLB flush", kvm.hyperv_tlbflush,
       "guests with several VPs flush TLBs by interrupts"},
      {"KVM: Hyper-V IPI", kvm.hyperv_send_ipi, "guests send ordinary IPIs"},
      {"host clock is the TSC", tsc,
       "the reference TSC page: every guest clock read becomes an exit"},
      {"KVM: APIC in hardware (APICv, AVIC)", HostVirtualizesApic(),
       "an interrupt's end is an exit; the kernel SynIC backend avoids most by EOI assist"},
      {"io_uring", io_uring, "storage: disks cannot be opened"},
  };
}

}  // namespace

int ShowHost(bool json) {
  UniqueFd fd(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) {
    Log("opening /dev/kvm: " + std::string(strerror(errno)) +
        "; load kvm_intel or kvm_amd, or run as a user who may open it");
    return 1;
  }
  const KvmCapabilities kvm = ProbeKvm(fd.get());
  const std::string clock = HostClock();
  const std::string huge = ReadLine("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  utsname system{};
  uname(&system);
  const auto capabilities = Capabilities(kvm, HasIoUring(), clock == "tsc");
  const char* backend = kvm.KernelSynic() ? "kernel" : kvm.UserSynic() ? "user" : "none";
  if (json) {
    nlohmann::ordered_json out;
    out["kernel"] = system.release;
    out["synic"] = backend;
    out["max_vps"] = kvm.max_vcpus;
    out["clocksource"] = clock;
    out["free_huge_pages_2m"] = huge.empty() ? 0 : std::stoull(huge);
    for (const Capability& c : capabilities) {
      nlohmann::ordered_json entry = {{"name", c.name}, {"present", c.present}};
      if (!c.present) entry["lost"] = c.lost;
      out["capabilities"].push_back(entry);
    }
    printf("%s\n", out.dump(2).c_str());
    return 0;
  }
  printf("Linux %s, clocksource %s, %s free huge pages of 2 MiB, up to %d VPs\n", system.release,
         clock.c_str(), huge.empty() ? "0" : huge.c_str(), kvm.max_vcpus);
  printf("SynIC backend: %s\n\n", backend);
  for (const Capability& c : capabilities) {
    printf("  %-3s  %s\n", c.present ? "yes" : "no", c.name);
    if (!c.present) printf("       lost: %s\n", c.lost);
  }
  return 0;
}

}  // namespace partita
