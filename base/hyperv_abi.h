// The hypervisor ABI that a child partition sees: CPUID leaves, MSR numbers, hypercall codes, SynIC
// page layouts. Source: Hypervisor Top Level Functional Specification (TLFS), chapters Feature and
// Interface Discovery, Hypercall Interface, Inter-Partition Communication, Timers. Freestanding.
#ifndef PARTITA_BASE_HYPERV_ABI_H_
#define PARTITA_BASE_HYPERV_ABI_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace partita::hv {

// --- CPUID ---
inline constexpr uint32_t kCpuidVendor = 0x40000000;
inline constexpr uint32_t kCpuidInterface = 0x40000001;
inline constexpr uint32_t kCpuidVersion = 0x40000002;
inline constexpr uint32_t kCpuidFeatures = 0x40000003;
inline constexpr uint32_t kCpuidHints = 0x40000004;
inline constexpr uint32_t kCpuidLimits = 0x40000005;
inline constexpr uint32_t kCpuidHardware = 0x40000006;
inline constexpr uint32_t kInterfaceSignature = 0x31237648;  // "Hv#1"

// --- MSRs ---
inline constexpr uint32_t kMsrFirst = 0x40000000;
inline constexpr uint32_t kMsrCount = 0x200;
inline constexpr uint32_t kMsrGuestOsId = 0x40000000;
inline constexpr uint32_t kMsrHypercall = 0x40000001;
inline constexpr uint32_t kMsrVpIndex = 0x40000002;
inline constexpr uint32_t kMsrReset = 0x40000003;
inline constexpr uint32_t kMsrVpRuntime = 0x40000010;
inline constexpr uint32_t kMsrTimeRefCount = 0x40000020;
inline constexpr uint32_t kMsrReferenceTsc = 0x40000021;
inline constexpr uint32_t kMsrTscFrequency = 0x40000022;
inline constexpr uint32_t kMsrApicFrequency = 0x40000023;
inline constexpr uint32_t kMsrVpAssistPage = 0x40000073;
inline constexpr uint32_t kMsrScontrol = 0x40000080;
inline constexpr uint32_t kMsrSversion = 0x40000081;
inline constexpr uint32_t kMsrSiefp = 0x40000082;
inline constexpr uint32_t kMsrSimp = 0x40000083;
inline constexpr uint32_t kMsrEom = 0x40000084;
inline constexpr uint32_t kMsrSint0 = 0x40000090;
inline constexpr uint32_t kMsrSint15 = 0x4000009F;
inline constexpr uint32_t kMsrStimer0Config = 0x400000B0;
inline constexpr uint32_t kMsrStimer3Count = 0x400000B7;
inline constexpr uint32_t kMsrCrashP0 = 0x40000100;
inline constexpr uint32_t kMsrCrashP4 = 0x40000104;
inline constexpr uint32_t kMsrCrashCtl = 0x40000105;

inline constexpr uint64_t kCrashNotify = 1ull << 63;
inline constexpr uint64_t kCrashMessage = 1ull << 62;
inline constexpr uint64_t kMsrPageEnable = 1;
inline constexpr uint64_t kMsrPageMask = ~0xFFFull;

// --- SynIC ---
inline constexpr uint32_t kSintCount = 16;
inline constexpr uint32_t kVmbusSint = 2;
inline constexpr uint64_t kSintMasked = 1ull << 16;
inline constexpr uint64_t kSintAutoEoi = 1ull << 17;
inline constexpr uint64_t kSintPolling = 1ull << 18;
inline constexpr uint32_t kEventFlagsPerSint = 2048;
inline constexpr size_t kMessagePayload = 240;

struct Message {
  uint32_t type;
  uint8_t payload_size;
  uint8_t flags;  // bit 0: more messages are queued, write EOM
  uint16_t reserved;
  uint64_t sender;
  uint8_t payload[kMessagePayload];
};
static_assert(sizeof(Message) == 256 && std::is_trivially_copyable_v<Message>);
inline constexpr uint8_t kMessagePending = 1;
inline constexpr uint32_t kMessageTypeVmbus = 1;
inline constexpr uint32_t kMessageTypeTimer = 0x80000010;

struct TimerPayload {
  uint32_t timer_index;
  uint32_t reserved;
  uint64_t expiration_time;
  uint64_t delivery_time;
};
static_assert(sizeof(TimerPayload) == 24);

// --- hypercalls ---
inline constexpr uint16_t kCallPostMessage = 0x005C;
inline constexpr uint16_t kCallSignalEvent = 0x005D;
inline constexpr uint64_t kControlFast = 1ull << 16;

enum Status : uint16_t {
  kSuccess = 0x0000,
  kInvalidCode = 0x0002,
  kInvalidInput = 0x0003,
  kInvalidAlignment = 0x0004,
  kInvalidParameter = 0x0005,
  kInvalidConnectionId = 0x0012,
  kInsufficientBuffers = 0x0013,
};

struct PostMessageInput {
  uint32_t connection_id;
  uint32_t reserved;
  uint32_t message_type;
  uint32_t payload_size;
  uint8_t payload[kMessagePayload];
};
static_assert(sizeof(PostMessageInput) == 256);

// --- reference TSC page ---
struct ReferenceTscPage {
  uint32_t sequence;  // 0: invalid, read kMsrTimeRefCount instead
  uint32_t reserved;
  uint64_t scale;
  int64_t offset;
};
static_assert(sizeof(ReferenceTscPage) == 24);

}  // namespace partita::hv

#endif  // PARTITA_BASE_HYPERV_ABI_H_
