// From open descriptors to a guest's disk: which format a file has, and the backend for it.
#ifndef PARTITA_VSP_STORAGE_BLOCK_OPEN_IMAGE_H_
#define PARTITA_VSP_STORAGE_BLOCK_OPEN_IMAGE_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "vsp/storage/block/image_file.h"
#include "vsp/storage/block/mapped_disk.h"
#include "vsp/storage/block_backend.h"

namespace partita::storage {

enum class ImageFormat : uint8_t { kRaw, kVhdx };
[[nodiscard]] std::string_view FormatName(ImageFormat format);

// By the file's content, never by its name: what begins as no format does is raw.
[[nodiscard]] ImageFormat DetectFormat(const ImageReader& file);

struct ImageOptions {
  ImageFormat format = ImageFormat::kRaw;
  bool read_only = false;
  bool direct = false;           // opened with O_DIRECT; refused for all but raw
  uint32_t logical_block = 512;  // raw only; the others say it themselves
};

// One file of a chain.
absl::StatusOr<MappedFile> OpenMappedFile(UniqueFd fd, bool read_only);

// `chain` begins with the disk's own file; its parents follow and are only read. Blocks.
absl::StatusOr<std::unique_ptr<BlockBackend>> OpenImage(std::vector<UniqueFd> chain,
                                                        const ImageOptions& options);

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_BLOCK_OPEN_IMAGE_H_
