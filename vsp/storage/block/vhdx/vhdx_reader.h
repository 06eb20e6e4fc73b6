// Reads a VHDX image without changing a byte of its file: a log that has to be replayed is replayed
// in memory. Synchronous; one thread at a time.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_READER_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_READER_H_

#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "vsp/storage/block/disk_reader.h"
#include "vsp/storage/block/image_file.h"
#include "vsp/storage/block/vhdx/layout.h"

namespace partita::vhdx {

class VhdxReader final : public storage::DiskReader {
 public:
  // Both are borrowed and outlive the reader. `parent` may be null; reading what only the parent
  // has then fails. It must have the child's logical sector size, and may be smaller: what lies
  // beyond it reads as zeroes.
  static absl::StatusOr<std::unique_ptr<VhdxReader>> Open(const storage::ImageReader& file,
                                                          const storage::DiskReader* parent);

  [[nodiscard]] const Layout& layout() const { return layout_; }
  [[nodiscard]] bool was_dirty() const { return layout_.header.needs_replay(); }
  [[nodiscard]] uint64_t disk_size() const override { return layout_.metadata.disk_size; }
  [[nodiscard]] uint32_t logical_sector() const override { return layout_.metadata.logical_sector; }
  absl::Status ReadDisk(uint64_t offset, std::span<std::byte> bytes) const override;

 private:
  VhdxReader(const storage::ImageReader& file, const storage::DiskReader* parent)
      : content_(file), parent_(parent) {}
  absl::StatusOr<BatEntry> Entry(uint64_t index) const;
  // A part of one block.
  absl::Status ReadInBlock(uint64_t offset, std::span<std::byte> bytes) const;
  absl::Status ReadPartial(const BatEntry& entry, uint64_t offset,
                           std::span<std::byte> bytes) const;
  absl::Status ReadParent(uint64_t offset, std::span<std::byte> bytes) const;

  storage::OverlayReader content_;
  const storage::DiskReader* const parent_;
  Layout layout_;
  std::unique_ptr<BatGeometry> geometry_;
};

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_READER_H_
