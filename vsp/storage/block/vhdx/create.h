// A new, empty VHDX file. One thread.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_CREATE_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_CREATE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "vsp/storage/block/image_file.h"
#include "vsp/storage/block/vhdx/vhdx_protocol.h"

namespace partita::vhdx {

// What a differencing disk says of its parent; the child takes its sizes from it.
struct ParentReference {
  Guid data_write_guid{};     // of the parent, as it is now
  std::string relative_path;  // UTF-8; any may be empty, not all
  std::string absolute_path;  // in Windows' form, as the format asks
};

struct CreateOptions {
  uint64_t disk_size = 0;  // bytes, a multiple of logical_sector, at most kMaxDiskSize
  uint32_t block_size = 32u << 20;
  uint32_t logical_sector = 512;
  uint32_t physical_sector = 4096;
  bool fixed = false;  // every block has its place from the start (the file stays sparse)
  std::optional<ParentReference> parent;
  // Identities; from a good random source.
  Guid file_write_guid{}, data_write_guid{}, disk_id{};
};

// Fills an empty file; durable when it returns. INVALID_ARGUMENT for sizes that the format does not
// allow.
absl::Status Create(storage::ImageFile& file, const CreateOptions& options);

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_CREATE_H_
