// What a VHDX file says about itself: headers, regions, metadata. Pure: bytes in, values or one
// clear sentence out. Every byte is hostile; nothing is believed that was not checked, and memory
// stays below 32 MiB whatever the file says. Any thread.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_LAYOUT_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_LAYOUT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "vsp/storage/block/image_file.h"
#include "vsp/storage/block/vhdx/vhdx_protocol.h"

namespace partita::vhdx {

// A part of the file, in bytes.
struct Extent {
  uint64_t offset = 0;
  uint64_t length = 0;
  [[nodiscard]] uint64_t end() const { return offset + length; }
  [[nodiscard]] bool Overlaps(const Extent& other) const {
    return offset < other.end() && other.offset < end();
  }
};

// The header in force and where it stands.
struct CurrentHeader {
  Header header{};
  unsigned slot = 0;  // of kHeaderOffset
  [[nodiscard]] Extent log() const { return {header.log_offset, header.log_length}; }
  [[nodiscard]] bool needs_replay() const { return !(header.log_guid == Guid{}); }
};

// Picks the valid header with the higher sequence number. Two valid ones with the same number must
// be equal (Disk2vhd writes such files). INVALID_ARGUMENT if this is no VHDX or none is valid.
absl::StatusOr<CurrentHeader> ReadCurrentHeader(const storage::ImageReader& file);

// A header as it is written: with its checksum.
[[nodiscard]] Header Sealed(Header header);

// Whether the file begins as a VHDX does.
[[nodiscard]] bool LooksLikeVhdx(const storage::ImageReader& file);

struct Regions {
  Extent bat;
  Extent metadata;
  std::vector<Extent> others;  // optional ones that we do not know; never written
};
// From the first of the two tables that is valid. Regions must lie within the file and overlap
// neither each other, the header section, nor the log.
absl::StatusOr<Regions> ReadRegions(const storage::ImageReader& file, const Extent& log);

struct ParentLocator {
  std::map<std::string, std::string> values;  // UTF-8, by key
};

struct Metadata {
  uint32_t block_size = 0;       // bytes
  uint64_t disk_size = 0;        // bytes
  uint32_t logical_sector = 0;   // 512 or 4096
  uint32_t physical_sector = 0;  // 512 or 4096
  bool leave_allocated = false;  // made as a fixed disk
  bool has_parent = false;
  Guid disk_id{};        // for VPD page 83h
  ParentLocator parent;  // where has_parent
};
// Sizes that the format allows.
absl::Status CheckMetadata(const Metadata& metadata);
absl::StatusOr<Metadata> ReadMetadata(const storage::ImageReader& file, const Extent& region);

// How block numbers become entries of the block allocation table (2.5).
struct BatGeometry {
  uint64_t blocks = 0;       // payload blocks of the disk
  uint64_t chunk_ratio = 0;  // payload blocks that one bitmap block describes
  uint64_t entries = 0;      // of the table, bitmap entries included
  explicit BatGeometry(const Metadata& metadata);
  [[nodiscard]] uint64_t PayloadEntry(uint64_t block) const { return block + block / chunk_ratio; }
  [[nodiscard]] uint64_t BitmapEntry(uint64_t block) const {
    return (block / chunk_ratio) * (chunk_ratio + 1) + chunk_ratio;
  }
  [[nodiscard]] bool IsBitmapEntry(uint64_t entry) const {
    return entry % (chunk_ratio + 1) == chunk_ratio;
  }
};

struct BatEntry {
  BlockState state = BlockState::kNotPresent;
  uint64_t offset = 0;  // bytes in the file; meaningful in the two present states
  [[nodiscard]] bool present() const {
    return state == BlockState::kFullyPresent || state == BlockState::kPartiallyPresent;
  }
  [[nodiscard]] uint64_t Encode() const;
};

// Everything needed to find a block, checked as a whole.
struct Layout {
  CurrentHeader header;
  Regions regions;
  Metadata metadata;
  uint64_t file_size = 0;

  // One entry of the table, checked by itself: a state that exists for this kind of entry, an
  // offset inside the file. `entry` below BatGeometry::entries.
  absl::StatusOr<BatEntry> Decode(const BatGeometry& geometry, uint64_t entry, uint64_t raw) const;
};

// Reads a file whose log was replayed (or is an OverlayReader that replayed it in memory) and
// checks the whole block allocation table: no two blocks share a place, none lies in a region.
absl::StatusOr<Layout> ReadLayout(const storage::ImageReader& file);

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_LAYOUT_H_
