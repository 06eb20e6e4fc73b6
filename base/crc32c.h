// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, as in RFC 3720 B.4), of a whole or of parts
// in a row: Crc32c(b, Crc32c(a)) is that of a followed by b. Any thread.
#ifndef PARTITA_BASE_CRC32C_H_
#define PARTITA_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace partita {

[[nodiscard]] uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

// The same without the processor's instruction, for processors without it and for the test.
[[nodiscard]] uint32_t Crc32cByTable(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace partita

#endif  // PARTITA_BASE_CRC32C_H_
