// What the hypervisor part of a partition needs from a SynIC backend (defined in synic/).
#ifndef PARTITA_PARTITION_HYPERVISOR_SYNIC_PORT_H_
#define PARTITA_PARTITION_HYPERVISOR_SYNIC_PORT_H_

#include <cstdint>

#include "base/status.h"
#include "partition/kvm/kvm.h"

namespace partita {

enum class SynicKind : uint8_t { kUser, kKernel };

// Interrupts one VP without its local APIC, so that the guest need not end the interrupt. Any
// thread.
class AutoEoiInjector {
 public:
  virtual ~AutoEoiInjector() = default;
  virtual void InjectAutoEoi(uint8_t vector) = 0;
};

class SynicPort {
 public:
  virtual ~SynicPort() = default;
  // Called for each VP after it was created and before it runs. Both outlive this object's use.
  virtual absl::Status AttachVp(const KvmVcpu& vcpu, AutoEoiInjector& injector) = 0;
  // SynIC and synthetic-timer MSRs of VP `vp`, on its own thread. False: the access gets #GP.
  virtual bool ReadMsr(uint32_t vp, uint32_t msr, uint64_t* value) = 0;
  virtual bool WriteMsr(uint32_t vp, uint32_t msr, uint64_t value) = 0;
  // KVM reported a change of a VP's SynIC state (kernel backend).
  virtual void OnSynicExit(uint32_t vp, uint64_t control, uint64_t siefp, uint64_t simp) = 0;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_SYNIC_PORT_H_
