// Loads a kernel for direct boot: a bzImage by its 64-bit entry, or an ELF vmlinux by its PVH note.
// Kernel and initrd are open descriptors; their bytes are untrusted.
#ifndef PARTITA_PARTITION_BOOT_BOOT_H_
#define PARTITA_PARTITION_BOOT_BOOT_H_

#include <cstdint>
#include <string>

#include "base/guest_memory.h"
#include "base/status.h"

namespace partita {

struct BootImage {
  int kernel_fd = -1;  // borrowed
  int initrd_fd = -1;  // -1: none
  std::string command_line;
  uint64_t rsdp = 0;
};

struct BootEntry {
  enum class Mode : uint8_t { kLong64, kPvh32 } mode = Mode::kLong64;
  uint64_t rip = 0;
  uint64_t argument = 0;  // RSI (zero page) or EBX (hvm_start_info)
};

absl::StatusOr<BootEntry> LoadKernel(GuestMemory& memory, const BootImage& image);

}  // namespace partita

#endif  // PARTITA_PARTITION_BOOT_BOOT_H_
