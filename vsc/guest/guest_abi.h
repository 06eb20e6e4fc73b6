// What the two halves of the enlightened guest agree on: system calls from ring 3 to ring 0, and
// the per-VP block that ring 0 keeps and ring 3 reads.
#ifndef PARTITA_VSC_GUEST_GUEST_ABI_H_
#define PARTITA_VSC_GUEST_GUEST_ABI_H_

#include <cstddef>
#include <cstdint>

namespace partita::guest {

inline constexpr uint32_t kMaxVps = 64;
inline constexpr size_t kKernelStack = 16384;
inline constexpr size_t kUserStack = 64 << 10;
inline constexpr uint8_t kSintVector = 0x60;

enum Syscall : uint64_t {
  kSysPowerOff = 0,
  kSysReadMsr = 1,      // (msr)
  kSysWriteMsr = 2,     // (msr, value)
  kSysHypercall = 3,    // (control, input, output): for a page that only works in ring 0
  kSysWait = 4,         // (seen): returns once this VP's interrupt count differs from `seen`
  kSysStartVp = 5,      // (vp, function, argument)
  kSysTryWriteMsr = 6,  // (msr, value): 0 if the MSR refused it
  // (leaf, uint32_t[4], index): EAX, EBX, ECX, EDX; some hosts do not trap it in ring 3
  kSysCpuid = 7,
};

// At the base of each VP's kernel stack; the interrupt stub increments the first word.
struct PerVp {
  volatile uint64_t interrupts;
  uint64_t index;
  void (*entry)(uint64_t);
  uint64_t argument;
};

// A synthetic MSR as it was before the guest wrote any.
struct ResetValue {
  uint32_t msr;
  uint64_t value;
};
inline constexpr size_t kResetValues = 33;

// Ring 0 fills this before the first VP enters ring 3.
struct SystemInfo {
  const char* command_line;
  uint64_t memory_end;       // of the RAM that starts at 1 MiB
  uint64_t high_memory_end;  // 0: none above 4 GiB
  std::byte* hypercall_page;
  std::byte* message_pages;  // one SIMP page per VP
  std::byte* event_pages;    // one SIEFP page per VP
  uint64_t heap;             // first free byte behind the image
  ResetValue reset_values[kResetValues];
};

inline uint64_t Call(Syscall number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) {
  uint64_t result = number;
  asm volatile("ud2"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c)
               : "r8", "r9", "r10", "r11", "memory", "cc");
  return result;
}

}  // namespace partita::guest

#endif  // PARTITA_VSC_GUEST_GUEST_ABI_H_
