// SMBIOS tables: what the machine says it is. Guests recognise their host by the manufacturer and
// product (Hyper-V), some clouds' images by the chassis' asset tag. Source: DMTF DSP0134,
// version 3.
#ifndef PARTITA_PARTITION_BOOT_SMBIOS_H_
#define PARTITA_PARTITION_BOOT_SMBIOS_H_

#include <array>
#include <cstdint>
#include <string>

#include "base/guest_memory.h"
#include "base/status.h"

namespace partita {

struct SmbiosOptions {
  std::array<uint8_t, 16> uuid{};  // as it lies in memory: the first three fields little-endian
  std::string asset_tag;           // of the chassis; printable ASCII, at most kMaxAssetTag
};
inline constexpr size_t kMaxAssetTag = 64;

// Writes the 64-bit entry point at kSmbios and the structures behind it.
absl::Status WriteSmbiosTables(GuestMemory& memory, const SmbiosOptions& options);

}  // namespace partita

#endif  // PARTITA_PARTITION_BOOT_SMBIOS_H_
