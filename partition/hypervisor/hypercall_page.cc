#include "partition/hypervisor/hypercall_page.h"

#include "base/hyperv_abi.h"
#include "partition/machine.h"

namespace partita {

std::array<std::byte, kPageSize> BuildHypercallPage() {
  static_assert(machine::kHypercallPort <= 0xFF, "IN with an immediate keeps RDX free");
  constexpr uint32_t kFastSignal = hv::kControlFast | hv::kCallSignalEvent;
  constexpr auto byte = [](uint64_t value, unsigned n) {
    return static_cast<uint8_t>(value >> (8 * n));
  };
  const uint8_t code[] = {
      0xF3, 0x0F, 0x1E, 0xFA,  // endbr64
      0xB8, byte(kFastSignal, 0), byte(kFastSignal, 1), byte(kFastSignal, 2),
      byte(kFastSignal, 3),  // mov eax, kFastSignal
      0x48, 0x39, 0xC1,      // cmp rcx, rax
      0x75, 0x15,            // jne slow
      0x48, 0x8D, 0x82, byte(-uint64_t{machine::kDoorbellBase}, 0),
      byte(-uint64_t{machine::kDoorbellBase}, 1), byte(-uint64_t{machine::kDoorbellBase}, 2),
      byte(-uint64_t{machine::kDoorbellBase}, 3),  // lea rax, [rdx - kDoorbellBase]
      0x48, 0x3D, byte(machine::kDoorbellCount, 0), byte(machine::kDoorbellCount, 1), 0, 0,
      // cmp rax, kDoorbellCount (all 64 bits: a flag number is out of range)
      0x73, 0x06,                     // jae slow
      0x31, 0xC0,                     // xor eax, eax: the status unless user space changes it
      0xEE,                           // out dx, al
      0xC3,                           // ret
      0x66, 0x90,                     // (padding)
      0xE5, machine::kHypercallPort,  // slow: in eax, kHypercallPort
      0xC3,                           // ret
  };
  static_assert(sizeof(code) == 38);
  std::array<std::byte, kPageSize> page;
  page.fill(std::byte{0xCC});
  for (size_t i = 0; i < sizeof(code); ++i) page[i] = std::byte{code[i]};
  return page;
}

}  // namespace partita
