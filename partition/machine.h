// Machine version "partita-1": memory map, ports and the hypercall-page ABI. Saved with a
// partition's definition; a change here is a new version.
#ifndef PARTITA_PARTITION_MACHINE_H_
#define PARTITA_PARTITION_MACHINE_H_

#include <cstdint>

namespace partita::machine {

inline constexpr char kVersion[] = "partita-1";

// Memory. RAM below 4 GiB ends at the hole; the rest continues at 4 GiB.
inline constexpr uint64_t kHoleStart = 0xC0000000;
inline constexpr uint64_t kHighRamStart = 0x100000000;
inline constexpr uint64_t kMmioLowStart = 0xF8000000;  // window offered to VMBus devices
inline constexpr uint64_t kMmioLowEnd = 0xFEBFFFFF;    // inclusive
inline constexpr uint64_t kIoApic = 0xFEC00000;
inline constexpr uint64_t kLocalApic = 0xFEE00000;
inline constexpr uint64_t kKvmTss = 0xFFFBD000;  // three pages KVM needs on Intel
inline constexpr uint64_t kKvmIdentityMap = 0xFFFBC000;
inline constexpr uint64_t kMinMemory = 32ull << 20;
inline constexpr uint64_t kMaxMemory = 1ull << 40;
inline constexpr uint32_t kMaxVps = 64;

// Boot structures in low memory (below 640 KiB) and the ACPI area.
inline constexpr uint64_t kGdt = 0x500;
inline constexpr uint64_t kBootParams = 0x7000;  // zero page, or hvm_start_info
inline constexpr uint64_t kPageTables = 0x9000;  // PML4, PDPT, 4 page directories: 6 pages
inline constexpr uint64_t kCommandLine = 0x20000;
inline constexpr uint32_t kMaxCommandLine = 2047;
inline constexpr uint64_t kLowRamEnd = 0xA0000;
inline constexpr uint64_t kAcpiStart = 0xE0000;
inline constexpr uint64_t kAcpiEnd = 0x100000;
// SMBIOS, in the last 64 KiB below 1 MiB, where a system without EFI looks for it; the ACPI tables
// end before it.
inline constexpr uint64_t kSmbios = 0xF0000;
inline constexpr uint64_t kResetVector = 0xFFFF0;  // what a real-mode jump to the BIOS reaches

// Ports.
inline constexpr uint16_t kSerialPort = 0x3F8;
inline constexpr uint32_t kSerialGsi = 4;
inline constexpr uint16_t kSleepControlPort = 0x600;
inline constexpr uint16_t kSleepStatusPort = 0x601;
inline constexpr uint16_t kResetPort = 0x602;
inline constexpr uint8_t kResetValue = 0x01;
inline constexpr uint8_t kSleepTypeS5 = 5;
// Hypercall page of the user SynIC backend: a trapping `in eax, imm8`, and one port per channel
// whose number is the channel's connection id, so that a doorbell needs no translation in the
// guest.
inline constexpr uint16_t kHypercallPort = 0xE4;
inline constexpr uint16_t kDoorbellBase = 0x2000;
inline constexpr uint16_t kDoorbellCount = 0x800;

}  // namespace partita::machine

#endif  // PARTITA_PARTITION_MACHINE_H_
