#include "partition/hypervisor/cpuid.h"

#include "base/hyperv_abi.h"
#include "partition/hypervisor/cpuid_topology.h"
#include "partition/machine.h"

namespace partita {
namespace {

constexpr uint32_t Bit(unsigned n) { return 1u << n; }

enum class Register : uint8_t { kEax, kEbx, kEdx };

// One feature bit that a child may see. TLFS, "Feature and Interface Discovery".
struct AllowedBit {
  uint32_t leaf;
  Register reg;
  unsigned bit;
  bool user;    // offered by the user SynIC backend, which implements it here
  bool kernel;  // offered by the kernel backend if KVM reports it too
  enum Condition : uint8_t { kAlways, kTscPage, kTimers, kEoiAssist } condition = kAlways;
};

constexpr AllowedBit kAllowed[] = {
    // Partition privileges, low half.
    {hv::kCpuidFeatures, Register::kEax, 0, true, true},  // VP_RUNTIME
    {hv::kCpuidFeatures, Register::kEax, 1, true, true},  // TIME_REF_COUNT
    {hv::kCpuidFeatures, Register::kEax, 2, true, true},  // SynIC
    {hv::kCpuidFeatures, Register::kEax, 3, true, true, AllowedBit::kTimers},
    {hv::kCpuidFeatures, Register::kEax, 4, false, true},  // VP assist page, as KVM enforces it
    {hv::kCpuidFeatures, Register::kEax, 5, true, true},   // hypercall MSRs
    {hv::kCpuidFeatures, Register::kEax, 6, true, true},   // VP_INDEX
    {hv::kCpuidFeatures, Register::kEax, 7, true, true},   // RESET
    {hv::kCpuidFeatures, Register::kEax, 9, true, true, AllowedBit::kTscPage},
    {hv::kCpuidFeatures, Register::kEax, 11, true, true},  // frequency MSRs
    // Partition privileges, high half.
    {hv::kCpuidFeatures, Register::kEbx, 4, true, true},  // post messages
    {hv::kCpuidFeatures, Register::kEbx, 5, true, true},  // signal events
    // Miscellaneous features.
    {hv::kCpuidFeatures, Register::kEdx, 8, true, true},                        // frequency MSRs
    {hv::kCpuidFeatures, Register::kEdx, 10, true, true},                       // crash MSRs
    {hv::kCpuidFeatures, Register::kEdx, 19, true, true, AllowedBit::kTimers},  // direct mode
    // Recommendations. Bit 9 (no auto-EOI) is set below without asking KVM.
    {hv::kCpuidHints, Register::kEax, 2, false, true},                          // remote TLB flush
    {hv::kCpuidHints, Register::kEax, 3, false, true, AllowedBit::kEoiAssist},  // EOI by MSR
    {hv::kCpuidHints, Register::kEax, 10, false, true},                         // cluster IPI
    {hv::kCpuidHints, Register::kEax, 11, false, true},  // sparse processor sets
};
constexpr uint32_t kHintRelaxedTiming = Bit(5);
constexpr uint32_t kHintNoAutoEoi = Bit(9);

const kvm_cpuid_entry2* Find(const CpuidTable& table, uint32_t leaf) {
  for (const kvm_cpuid_entry2& entry : table) {
    if (entry.function == leaf) return &entry;
  }
  return nullptr;
}

uint32_t Get(const kvm_cpuid_entry2& entry, Register reg) {
  switch (reg) {
    case Register::kEax:
      return entry.eax;
    case Register::kEbx:
      return entry.ebx;
    case Register::kEdx:
      return entry.edx;
  }
  return 0;
}

uint32_t Features(const CpuidOptions& options, const CpuidTable& hyperv, uint32_t leaf,
                  Register reg) {
  const bool user = options.synic == SynicKind::kUser;
  const kvm_cpuid_entry2* reported = Find(hyperv, leaf);
  uint32_t value = 0;
  for (const AllowedBit& allowed : kAllowed) {
    if (allowed.leaf != leaf || allowed.reg != reg) continue;
    if (user ? !allowed.user : !allowed.kernel) continue;
    if (allowed.condition == AllowedBit::kTscPage && !options.reference_tsc) continue;
    if (allowed.condition == AllowedBit::kTimers && user && !options.synthetic_timers) continue;
    if (allowed.condition == AllowedBit::kEoiAssist && !options.eoi_assist) continue;
    if (!user && (reported == nullptr || (Get(*reported, reg) & Bit(allowed.bit)) == 0)) continue;
    value |= Bit(allowed.bit);
  }
  return value;
}

// What is not topology (SetTopology) and not ours to offer.
void FixOrdinaryLeaf(kvm_cpuid_entry2& entry) {
  switch (entry.function) {
    case 0x1:
      entry.ecx |= Bit(31);             // a hypervisor is present
      entry.ecx &= ~(Bit(5) | Bit(3));  // no VMX, no MONITOR
      break;
    case 0x6:
      entry.eax = Bit(2);  // the APIC timer never stops
      entry.ebx = entry.ecx = entry.edx = 0;
      break;
    case 0x80000001:
      entry.ecx &= ~Bit(2);  // no SVM
      break;
    case 0x80000007:
      entry.edx &= ~Bit(8);  // invariant TSC goes with a Hyper-V control we do not offer
      break;
    default:
      break;
  }
}

kvm_cpuid_entry2 Entry(uint32_t leaf, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
  kvm_cpuid_entry2 entry{};
  entry.function = leaf;
  entry.eax = eax, entry.ebx = ebx, entry.ecx = ecx, entry.edx = edx;
  return entry;
}

}  // namespace

CpuidTable HypervLeaves(const CpuidOptions& options, const CpuidTable& hyperv) {
  constexpr uint32_t kMaxLeaf = hv::kCpuidHardware;
  constexpr uint32_t kBuild = 20348, kMajorMinor = 10 << 16;  // reported as 10.0.20348
  constexpr uint32_t kSpinForever = 0xFFFFFFFF;
  const uint32_t hints = kHintRelaxedTiming | kHintNoAutoEoi |
                         Features(options, hyperv, hv::kCpuidHints, Register::kEax);
  return {
      Entry(hv::kCpuidVendor, kMaxLeaf, 0x7263694D, 0x666F736F, 0x76482074),  // "Microsoft Hv"
      Entry(hv::kCpuidInterface, hv::kInterfaceSignature, 0, 0, 0),
      Entry(hv::kCpuidVersion, kBuild, kMajorMinor, 0, 0),
      Entry(hv::kCpuidFeatures, Features(options, hyperv, hv::kCpuidFeatures, Register::kEax),
            Features(options, hyperv, hv::kCpuidFeatures, Register::kEbx), 0,
            Features(options, hyperv, hv::kCpuidFeatures, Register::kEdx)),
      Entry(hv::kCpuidHints, hints, kSpinForever, 0, 0),
      Entry(hv::kCpuidLimits, machine::kMaxVps, machine::kMaxVps, 0, 0),
      Entry(hv::kCpuidHardware, 0, 0, 0, 0),
  };
}

CpuidTable BuildCpuid(const CpuidOptions& options, const CpuidTable& supported,
                      const CpuidTable& hyperv, uint32_t vp) {
  CpuidTable table;
  for (kvm_cpuid_entry2 entry : supported) {
    if (entry.function >= 0x40000000 && entry.function <= 0x4FFFFFFF) continue;
    FixOrdinaryLeaf(entry);
    table.push_back(entry);
  }
  SetTopology(table, options.vp_count, vp);
  const CpuidTable leaves = HypervLeaves(options, hyperv);
  table.insert(table.end(), leaves.begin(), leaves.end());
  return table;
}

}  // namespace partita
