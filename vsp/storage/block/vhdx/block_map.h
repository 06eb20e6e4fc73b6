// Where the blocks of one VHDX file lie, in memory: its block allocation table and, for
// differencing disks, the sector bitmaps of blocks that are partially present.
//
// Looking up: any thread, no lock. Changing: one thread at a time (the disk's lock), but SetBits,
// which any thread may call for sectors that it has written. Memory follows what the file has
// allocated: 8 bytes for a block and 4 KiB for 32768 sectors of partially present blocks.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_BLOCK_MAP_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_BLOCK_MAP_H_

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "vsp/storage/block/image_file.h"
#include "vsp/storage/block/vhdx/layout.h"

namespace partita::vhdx {

class BlockMap {
 public:
  // Sectors whose bits share a page of 4 KiB, which is what the log works in.
  static constexpr uint64_t kSectorsPerPage = 8 * kLogSector;
  static constexpr uint64_t kEntriesPerPage = kLogSector / sizeof(uint64_t);

  // `content` is a file whose log was replayed; `layout` was read from it.
  static absl::StatusOr<std::unique_ptr<BlockMap>> Load(const storage::ImageReader& content,
                                                        const Layout& layout);

  [[nodiscard]] const Layout& layout() const { return layout_; }
  [[nodiscard]] const BatGeometry& geometry() const { return geometry_; }

  // --- the table ---
  [[nodiscard]] BatEntry Payload(uint64_t block) const {
    return Entry(geometry_.PayloadEntry(block));
  }
  [[nodiscard]] BatEntry Entry(uint64_t index) const {
    const uint64_t raw = std::atomic_ref(table_.get()[index]).load(std::memory_order_acquire);
    return {.state = static_cast<BlockState>(raw & kBatStateMask),
            .offset = (raw >> kBatOffsetShift) * kMiB};
  }
  void SetEntry(uint64_t index, const BatEntry& entry) {
    std::atomic_ref(table_.get()[index]).store(entry.Encode(), std::memory_order_release);
  }
  // 4 KiB of the table as the file has them.
  void CopyTablePage(uint64_t page, std::span<std::byte> to) const;

  // --- the bitmaps; sectors count through the whole disk ---
  [[nodiscard]] bool Has(uint64_t sector) const;
  // The end of the sectors from `sector` on that are alike; at most `end`.
  [[nodiscard]] uint64_t RunEnd(uint64_t sector, uint64_t end) const;
  // True if any was not set before. Their pages exist.
  bool SetBits(uint64_t first, uint64_t end);
  // Makes a block's pages; all its bits are clear. One thread at a time.
  void ClearBlock(uint64_t block);
  // Whether a block has all of its sectors that lie on the disk.
  [[nodiscard]] bool BlockIsFull(uint64_t block) const;
  void CopyBitmapPage(uint64_t page, std::span<std::byte> to) const;
  // Where a page lies in the file.
  [[nodiscard]] uint64_t BitmapPageOffset(uint64_t page) const;

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  struct Page {
    uint64_t words[kSectorsPerPage / 64] = {};
  };
  BlockMap(const Layout& layout, const BatGeometry& geometry)
      : layout_(layout), geometry_(geometry) {}
  absl::Status LoadTable(const storage::ImageReader& content);
  absl::Status LoadBitmaps(const storage::ImageReader& content);
  [[nodiscard]] Page* PageOf(uint64_t page) const {
    return std::atomic_ref(pages_.get()[page]).load(std::memory_order_acquire);
  }
  Page& MakePage(uint64_t page);
  [[nodiscard]] uint64_t SectorsPerBlock() const {
    return layout_.metadata.block_size / layout_.metadata.logical_sector;
  }

  const Layout layout_;
  const BatGeometry geometry_;
  std::unique_ptr<uint64_t, Free> table_;  // whole pages; zeroes cost nothing
  std::unique_ptr<Page*, Free> pages_;     // null without a parent
  std::vector<std::unique_ptr<Page>> owned_pages_;
};

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_BLOCK_MAP_H_
