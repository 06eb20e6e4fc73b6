// Processor topology in CPUID: one package, one core per VP, one thread per core, APIC id = VP
// index. What a host reports describes the host (and KVM reports no core level at all), so every
// leaf that carries topology is made here; only kinds and sizes of caches stay the host's.
// Sources: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
#ifndef PARTITA_PARTITION_HYPERVISOR_CPUID_TOPOLOGY_H_
#define PARTITA_PARTITION_HYPERVISOR_CPUID_TOPOLOGY_H_

#include <cstdint>

#include "partition/kvm/kvm.h"

namespace partita {

// Replaces leaves 0xB and 0x1F where the table reaches that far, and the topology fields of leaves
// 1, 4, 0x80000001, 0x80000008, 0x8000001D and 0x8000001E, for VP `vp` of `vp_count` (1 to 64).
void SetTopology(CpuidTable& table, uint32_t vp_count, uint32_t vp);

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_CPUID_TOPOLOGY_H_
