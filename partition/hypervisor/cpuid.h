// The CPUID a child partition sees: ordinary leaves from KVM made coherent for this machine, plus
// the Hyper-V leaves from our own allow-table. No KVM leaf survives: Linux prefers a KVM signature.
#ifndef PARTITA_PARTITION_HYPERVISOR_CPUID_H_
#define PARTITA_PARTITION_HYPERVISOR_CPUID_H_

#include <cstdint>

#include "partition/hypervisor/synic_port.h"
#include "partition/kvm/kvm.h"

namespace partita {

struct CpuidOptions {
  SynicKind synic = SynicKind::kUser;
  uint32_t vp_count = 1;
  bool reference_tsc = true;      // the host's clocksource is the TSC
  bool synthetic_timers = false;  // user backend: advertised only on request
  bool eoi_assist = false;        // kernel backend: see PartitionOptions
};

// `supported` and `hyperv` are what KVM reports (`hyperv` is used by the kernel backend only).
CpuidTable BuildCpuid(const CpuidOptions& options, const CpuidTable& supported,
                      const CpuidTable& hyperv, uint32_t vp);
// The Hyper-V leaves alone; a golden table per backend is a test.
CpuidTable HypervLeaves(const CpuidOptions& options, const CpuidTable& hyperv);

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_CPUID_H_
