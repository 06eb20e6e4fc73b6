// The content of a virtual disk, as a guest would read it: for converting, comparing and checking
// images, and as the parent of a differencing disk. Synchronous; one thread at a time.
#ifndef PARTITA_VSP_STORAGE_BLOCK_DISK_READER_H_
#define PARTITA_VSP_STORAGE_BLOCK_DISK_READER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace partita::storage {

class DiskReader {
 public:
  virtual ~DiskReader() = default;
  [[nodiscard]] virtual uint64_t disk_size() const = 0;  // bytes
  [[nodiscard]] virtual uint32_t logical_sector() const = 0;
  // Offset and length are whole sectors within the disk.
  virtual absl::Status ReadDisk(uint64_t offset, std::span<std::byte> bytes) const = 0;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_BLOCK_DISK_READER_H_
