#include "partition/hypervisor/cpuid_topology.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

namespace partita {
namespace {

constexpr uint32_t Bit(unsigned n) { return 1u << n; }

kvm_cpuid_entry2* Find(CpuidTable& table, uint32_t leaf) {
  const auto it = std::find_if(table.begin(), table.end(),
                               [leaf](const auto& entry) { return entry.function == leaf; });
  return it == table.end() ? nullptr : &*it;
}

// AMD, and Hygon, which took its leaves over.
bool IsAmd(CpuidTable& table) {
  const kvm_cpuid_entry2* vendor = Find(table, 0);
  if (vendor == nullptr) return false;
  const uint32_t words[] = {vendor->ebx, vendor->edx, vendor->ecx};
  char name[12];
  std::memcpy(name, words, sizeof(name));
  return std::memcmp(name, "AuthenticAMD", 12) == 0 || std::memcmp(name, "HygonGenuine", 12) == 0;
}

// Bits 25:14 of a cache's EAX, how many share it (less one): levels 1 and 2 are a core's own, what
// lies above belongs to all.
void SetSharing(kvm_cpuid_entry2& cache, uint32_t all_less_one) {
  const uint32_t level = (cache.eax >> 5) & 7;
  constexpr uint32_t kSharing = 0xFFF << 14;
  cache.eax = (cache.eax & ~kSharing) | (level >= 3 ? all_less_one << 14 : 0);
}

// Leaves 0xB and 0x1F: a thread level and a core level. KVM answers higher indices from the last.
void ReplaceExtendedTopology(CpuidTable& table, uint32_t leaf, uint32_t vp_count, uint32_t id_bits,
                             uint32_t vp) {
  constexpr uint32_t kThreadLevel = 1, kCoreLevel = 2;
  std::erase_if(table, [leaf](const auto& entry) { return entry.function == leaf; });
  const kvm_cpuid_entry2* vendor = Find(table, 0);
  if (vendor == nullptr || vendor->eax < leaf) return;
  struct Level {
    uint32_t shift, processors, type;
  };
  const Level levels[] = {{0, 1, kThreadLevel}, {id_bits, vp_count, kCoreLevel}, {0, 0, 0}};
  for (uint32_t index = 0; index < std::size(levels); ++index) {
    kvm_cpuid_entry2 entry{};
    entry.function = leaf;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = levels[index].shift;
    entry.ebx = levels[index].processors;
    entry.ecx = levels[index].type << 8 | index;
    entry.edx = vp;
    table.push_back(entry);
  }
}

}  // namespace

void SetTopology(CpuidTable& table, uint32_t vp_count, uint32_t vp) {
  const bool amd = IsAmd(table);
  const auto id_bits = static_cast<uint32_t>(std::bit_width(vp_count - 1));
  const uint32_t ids_less_one = Bit(id_bits) - 1;  // of the package, rounded up to a power of two
  for (kvm_cpuid_entry2& entry : table) {
    switch (entry.function) {
      case 0x1:  // bit 28: the count of logical processors in EBX counts
        entry.ebx = (entry.ebx & 0x0000FFFF) | (vp << 24) | (std::min(Bit(id_bits), 255u) << 16);
        entry.edx = vp_count > 1 ? entry.edx | Bit(28) : entry.edx & ~Bit(28);
        break;
      case 0x4:  // bits 31:26: core ids in the package, in each index that describes a cache
        entry.eax &= 0x03FFFFFF;
        if ((entry.eax & 0x1F) == 0) break;
        SetSharing(entry, ids_less_one);
        entry.eax |= ids_less_one << 26;
        break;
      case 0x80000001:  // CmpLegacy: the logical processors are cores
        if (amd) entry.ecx = vp_count > 1 ? entry.ecx | Bit(1) : entry.ecx & ~Bit(1);
        break;
      case 0x80000008:
        entry.ecx = amd ? id_bits << 12 | (vp_count - 1) : 0;
        break;
      case 0x8000001D:
        if ((entry.eax & 0x1F) != 0) SetSharing(entry, vp_count - 1);
        break;
      case 0x8000001E:  // extended APIC id; one thread per core; one node
        entry.eax = amd ? vp : 0;
        entry.ebx = amd ? vp : 0;
        entry.ecx = entry.edx = 0;
        break;
      default:
        break;
    }
  }
  ReplaceExtendedTopology(table, 0xB, vp_count, id_bits, vp);
  ReplaceExtendedTopology(table, 0x1F, vp_count, id_bits, vp);
}

}  // namespace partita
