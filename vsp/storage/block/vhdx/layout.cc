#include "vsp/storage/block/vhdx/layout.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/crc32c.h"
#include "base/utf16.h"

namespace partita::vhdx {
namespace {

using storage::ImageReader;

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <typename T>
T Load(std::span<const std::byte> bytes, size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

// Of a structure whose checksum field of 4 bytes lies at 4 and counts as 0.
uint32_t ChecksumWithoutField(std::span<const std::byte> bytes) {
  constexpr std::byte kZero[4] = {};
  return Crc32c(bytes.subspan(8), Crc32c(kZero, Crc32c(bytes.first(4))));
}

bool WholeMiB(uint64_t value) { return value % kMiB == 0; }

std::optional<Header> ReadHeader(const ImageReader& file, uint64_t offset) {
  const absl::StatusOr<Header> header = file.ReadStruct<Header>(offset);
  if (!header.ok() || header->signature != kHeaderSignature ||
      header->checksum != ChecksumWithoutField(BytesOf(*header))) {
    return std::nullopt;
  }
  return *header;
}

absl::Status CheckHeader(const Header& header, uint64_t file_size) {
  if (header.version != 1) {
    return InvalidArgument("VHDX: version " + std::to_string(header.version) + " is not known");
  }
  if (header.log_version != 0 && !(header.log_guid == Guid{})) {
    return InvalidArgument("VHDX: log version " + std::to_string(header.log_version) +
                           " is not known");
  }
  const Extent log = {header.log_offset, header.log_length};
  if (!WholeMiB(log.offset) || !WholeMiB(log.length) || log.length == 0 ||
      log.offset < kHeaderSectionSize || log.offset > file_size ||
      log.length > file_size - log.offset) {
    return InvalidArgument("VHDX: the log lies outside the file or is not aligned");
  }
  return absl::OkStatus();
}

absl::Status AddRegion(const RegionEntry& entry, uint64_t file_size, const Extent& log,
                       Regions& regions, std::vector<Extent>& seen) {
  const Extent extent = {entry.offset, entry.length};
  if (!WholeMiB(extent.offset) || !WholeMiB(extent.length) || extent.length == 0 ||
      extent.offset < kHeaderSectionSize || extent.offset > file_size ||
      extent.length > file_size - extent.offset) {
    return InvalidArgument("VHDX: a region lies outside the file or is not aligned");
  }
  if (extent.Overlaps(log) || std::any_of(seen.begin(), seen.end(), [&](const Extent& other) {
        return other.Overlaps(extent);
      })) {
    return InvalidArgument("VHDX: two regions overlap");
  }
  seen.push_back(extent);
  Extent* known = entry.guid == kBatRegion        ? &regions.bat
                  : entry.guid == kMetadataRegion ? &regions.metadata
                                                  : nullptr;
  if (known != nullptr) {
    if (known->length != 0) return InvalidArgument("VHDX: a region is listed twice");
    *known = extent;
    return absl::OkStatus();
  }
  if ((entry.required & 1) != 0) {
    return InvalidArgument("VHDX: the file needs a region of an unknown kind");
  }
  regions.others.push_back(extent);
  return absl::OkStatus();
}

std::optional<std::vector<std::byte>> ReadRegionTable(const ImageReader& file, uint64_t offset) {
  std::vector<std::byte> table(kRegionTableSize);
  if (!file.Read(offset, table).ok()) return std::nullopt;
  const auto header = Load<RegionTableHeader>(table, 0);
  if (header.signature != kRegionSignature || header.count > kMaxTableEntries ||
      header.checksum != ChecksumWithoutField(table)) {
    return std::nullopt;
  }
  return table;
}

absl::StatusOr<ParentLocator> ParseParentLocator(std::span<const std::byte> item) {
  constexpr std::string_view kDamaged = "VHDX: the parent locator is damaged";
  if (item.size() < sizeof(ParentLocatorHeader)) return InvalidArgument(kDamaged);
  const auto header = Load<ParentLocatorHeader>(item, 0);
  if (!(header.type == kVhdxLocatorType)) {
    return InvalidArgument("VHDX: the parent is of a kind that is not known");
  }
  if (item.size() - sizeof(header) < header.count * sizeof(ParentLocatorEntry))
    return InvalidArgument(kDamaged);
  const auto part = [&](uint32_t offset, uint16_t length) -> std::optional<std::string> {
    if (offset > item.size() || length > item.size() - offset || length % 2 != 0) return {};
    return Utf8FromUtf16(item.subspan(offset, length));
  };
  ParentLocator locator;
  for (size_t i = 0; i < header.count; ++i) {
    const auto entry =
        Load<ParentLocatorEntry>(item, sizeof(header) + i * sizeof(ParentLocatorEntry));
    const auto key = part(entry.key_offset, entry.key_length);
    const auto value = part(entry.value_offset, entry.value_length);
    if (!key || !value || key->empty()) return InvalidArgument(kDamaged);
    if (!locator.values.emplace(*key, *value).second) return InvalidArgument(kDamaged);
  }
  return locator;
}

// The items of a metadata table, each within its region and apart from the others.
class MetadataTable {
 public:
  static absl::StatusOr<MetadataTable> Read(const ImageReader& file, const Extent& region) {
    std::vector<std::byte> bytes(kMetadataTableSize);
    if (region.length < bytes.size()) return InvalidArgument("VHDX: the metadata is too short");
    RETURN_IF_ERROR(file.Read(region.offset, bytes));
    const auto header = Load<MetadataTableHeader>(bytes, 0);
    if (header.signature != kMetadataSignature || header.count > kMaxTableEntries) {
      return InvalidArgument("VHDX: the metadata table is damaged");
    }
    MetadataTable table(file, region);
    for (size_t i = 0; i < header.count; ++i) {
      RETURN_IF_ERROR(
          table.Add(Load<MetadataEntry>(bytes, sizeof(header) + i * sizeof(MetadataEntry))));
    }
    return table;
  }

  [[nodiscard]] const MetadataEntry* Find(const Guid& item) const {
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const MetadataEntry& e) {
      return e.item == item && (e.flags & kMetadataIsUser) == 0;
    });
    return found == entries_.end() ? nullptr : &*found;
  }
  template <typename T>
  absl::StatusOr<T> Value(const Guid& item, const char* name) const {
    const MetadataEntry* entry = Find(item);
    if (entry == nullptr || entry->length != sizeof(T)) {
      std::string sentence = "VHDX: the metadata has no ";
      sentence += name;
      return InvalidArgument(sentence);
    }
    return file_.ReadStruct<T>(region_.offset + entry->offset);
  }
  absl::StatusOr<std::vector<std::byte>> Bytes(const MetadataEntry& entry) const {
    std::vector<std::byte> bytes(entry.length);
    RETURN_IF_ERROR(file_.Read(region_.offset + entry.offset, bytes));
    return bytes;
  }

 private:
  MetadataTable(const ImageReader& file, const Extent& region) : file_(file), region_(region) {}

  static bool Known(const Guid& item) {
    return item == kFileParametersItem || item == kDiskSizeItem || item == kDiskIdItem ||
           item == kLogicalSectorItem || item == kPhysicalSectorItem || item == kParentLocatorItem;
  }
  absl::Status Add(const MetadataEntry& entry) {
    const bool user = (entry.flags & kMetadataIsUser) != 0;
    if ((entry.flags & kMetadataIsRequired) != 0 && (user || !Known(entry.item))) {
      return InvalidArgument("VHDX: the file needs metadata of an unknown kind");
    }
    if (entry.length == 0 && entry.offset == 0) return absl::OkStatus();  // an empty item
    const Extent extent = {entry.offset, entry.length};
    if (entry.offset < kMetadataTableSize || entry.length == 0 || entry.length > kMaxMetadataItem ||
        extent.end() > region_.length) {
      return InvalidArgument("VHDX: a metadata item lies outside its region");
    }
    for (const MetadataEntry& other : entries_) {
      if (other.item == entry.item && ((other.flags ^ entry.flags) & kMetadataIsUser) == 0) {
        return InvalidArgument("VHDX: a metadata item is listed twice");
      }
      if (extent.Overlaps({other.offset, other.length})) {
        return InvalidArgument("VHDX: two metadata items overlap");
      }
    }
    entries_.push_back(entry);
    return absl::OkStatus();
  }

  const ImageReader& file_;
  const Extent region_;
  std::vector<MetadataEntry> entries_;
};

// Places in units of a MiB that something occupies already.
class Occupied {
 public:
  explicit Occupied(uint64_t file_size) : taken_(file_size / kMiB + 1) {}
  // False if any of it was taken. The extent lies within the file.
  bool Take(const Extent& extent) {
    for (uint64_t at = extent.offset / kMiB; at * kMiB < extent.end(); ++at) {
      if (at < taken_.size() && taken_[at]) return false;
      if (at < taken_.size()) taken_[at] = true;
    }
    return true;
  }

 private:
  std::vector<bool> taken_;
};

absl::Status CheckBat(const ImageReader& file, const Layout& layout) {
  const BatGeometry geometry(layout.metadata);
  const Extent& bat = layout.regions.bat;
  if (bat.length / sizeof(uint64_t) < geometry.entries) {
    return InvalidArgument("VHDX: the block allocation table is too short for the disk");
  }
  Occupied occupied(layout.file_size);
  occupied.Take({0, kHeaderSectionSize});
  occupied.Take(layout.header.log());
  occupied.Take(bat);
  occupied.Take(layout.regions.metadata);
  for (const Extent& other : layout.regions.others) occupied.Take(other);
  std::vector<uint64_t> raw(64u << 10);
  for (uint64_t first = 0; first < geometry.entries; first += raw.size()) {
    const uint64_t count = std::min<uint64_t>(raw.size(), geometry.entries - first);
    RETURN_IF_ERROR(file.Read(bat.offset + first * sizeof(uint64_t),
                              std::as_writable_bytes(std::span(raw).first(count))));
    for (uint64_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(const BatEntry entry, layout.Decode(geometry, first + i, raw[i]));
      const uint64_t length = geometry.IsBitmapEntry(first + i) ? kMiB : layout.metadata.block_size;
      if (entry.present() && !occupied.Take({entry.offset, length})) {
        return InvalidArgument("VHDX: two blocks, or a block and a region, share a place");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

Header Sealed(Header header) {
  header.checksum = ChecksumWithoutField(BytesOf(header));
  return header;
}

bool LooksLikeVhdx(const ImageReader& file) {
  const absl::StatusOr<uint64_t> signature = file.ReadStruct<uint64_t>(kFileIdentifierOffset);
  return signature.ok() && *signature == kFileSignature;
}

absl::StatusOr<CurrentHeader> ReadCurrentHeader(const ImageReader& file) {
  if (!LooksLikeVhdx(file)) return InvalidArgument("not a VHDX file");
  const std::optional<Header> first = ReadHeader(file, kHeaderOffset[0]);
  const std::optional<Header> second = ReadHeader(file, kHeaderOffset[1]);
  if (!first && !second) return InvalidArgument("VHDX: neither of the two headers is valid");
  if (first && second && first->sequence == second->sequence &&
      std::memcmp(&*first, &*second, sizeof(Header)) != 0) {
    return InvalidArgument("VHDX: the two headers contradict each other");
  }
  const bool use_second = !first || (second && second->sequence > first->sequence);
  const CurrentHeader current{.header = use_second ? *second : *first,
                              .slot = use_second ? 1u : 0u};
  RETURN_IF_ERROR(CheckHeader(current.header, file.size()));
  return current;
}

absl::StatusOr<Regions> ReadRegions(const ImageReader& file, const Extent& log) {
  std::optional<std::vector<std::byte>> table = ReadRegionTable(file, kRegionTableOffset[0]);
  if (!table) table = ReadRegionTable(file, kRegionTableOffset[1]);
  if (!table) return InvalidArgument("VHDX: neither of the two region tables is valid");
  const auto header = Load<RegionTableHeader>(*table, 0);
  Regions regions;
  std::vector<Extent> seen;
  for (size_t i = 0; i < header.count; ++i) {
    RETURN_IF_ERROR(
        AddRegion(Load<RegionEntry>(*table, sizeof(RegionTableHeader) + i * sizeof(RegionEntry)),
                  file.size(), log, regions, seen));
  }
  if (regions.bat.length == 0 || regions.metadata.length == 0) {
    return InvalidArgument("VHDX: the block allocation table or the metadata is not listed");
  }
  return regions;
}

absl::Status CheckMetadata(const Metadata& metadata) {
  if (!std::has_single_bit(metadata.block_size) || metadata.block_size < kMinBlockSize ||
      metadata.block_size > kMaxBlockSize) {
    return InvalidArgument("VHDX: a block size of " + std::to_string(metadata.block_size) +
                           " bytes is not allowed");
  }
  for (const uint32_t sector : {metadata.logical_sector, metadata.physical_sector}) {
    if (sector != 512 && sector != 4096) {
      return InvalidArgument("VHDX: a sector size of " + std::to_string(sector) +
                             " bytes is not allowed");
    }
  }
  if (metadata.disk_size == 0 || metadata.disk_size > kMaxDiskSize ||
      metadata.disk_size % metadata.logical_sector != 0) {
    return InvalidArgument("VHDX: a disk size of " + std::to_string(metadata.disk_size) +
                           " bytes is not allowed");
  }
  return absl::OkStatus();
}

absl::StatusOr<Metadata> ReadMetadata(const ImageReader& file, const Extent& region) {
  ASSIGN_OR_RETURN(const MetadataTable table, MetadataTable::Read(file, region));
  Metadata metadata;
  ASSIGN_OR_RETURN(const FileParameters parameters,
                   table.Value<FileParameters>(kFileParametersItem, "file parameters"));
  metadata.block_size = parameters.block_size;
  metadata.leave_allocated = (parameters.flags & kLeaveBlocksAllocated) != 0;
  metadata.has_parent = (parameters.flags & kHasParent) != 0;
  ASSIGN_OR_RETURN(metadata.disk_size, table.Value<uint64_t>(kDiskSizeItem, "disk size"));
  ASSIGN_OR_RETURN(metadata.disk_id, table.Value<Guid>(kDiskIdItem, "disk identity"));
  ASSIGN_OR_RETURN(metadata.logical_sector,
                   table.Value<uint32_t>(kLogicalSectorItem, "logical sector size"));
  ASSIGN_OR_RETURN(metadata.physical_sector,
                   table.Value<uint32_t>(kPhysicalSectorItem, "physical sector size"));
  RETURN_IF_ERROR(CheckMetadata(metadata));
  if (metadata.has_parent) {
    const MetadataEntry* locator = table.Find(kParentLocatorItem);
    if (locator == nullptr) return InvalidArgument("VHDX: a differencing disk without a parent");
    ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, table.Bytes(*locator));
    ASSIGN_OR_RETURN(metadata.parent, ParseParentLocator(bytes));
  }
  return metadata;
}

BatGeometry::BatGeometry(const Metadata& metadata)
    : blocks((metadata.disk_size + metadata.block_size - 1) / metadata.block_size),
      chunk_ratio(kSectorsPerBitmapBlock * metadata.logical_sector / metadata.block_size) {
  const uint64_t chunks = (blocks + chunk_ratio - 1) / chunk_ratio;
  entries = metadata.has_parent ? chunks * (chunk_ratio + 1) : PayloadEntry(blocks - 1) + 1;
}

uint64_t BatEntry::Encode() const {
  return static_cast<uint64_t>(state) | offset / kMiB << kBatOffsetShift;
}

absl::StatusOr<BatEntry> Layout::Decode(const BatGeometry& geometry, uint64_t entry,
                                        uint64_t raw) const {
  BatEntry decoded{.state = static_cast<BlockState>(raw & kBatStateMask),
                   .offset = (raw >> kBatOffsetShift) * kMiB};
  const bool bitmap = geometry.IsBitmapEntry(entry);
  const bool allowed =
      decoded.state == BlockState::kNotPresent || decoded.state == BlockState::kFullyPresent ||
      (!bitmap && (decoded.state == BlockState::kUndefined || decoded.state == BlockState::kZero ||
                   decoded.state == BlockState::kUnmapped ||
                   (decoded.state == BlockState::kPartiallyPresent && metadata.has_parent)));
  if (!allowed || (raw & kBatReservedMask) != 0) {
    return InvalidArgument("VHDX: entry " + std::to_string(entry) +
                           " of the block allocation table is damaged");
  }
  const uint64_t length = bitmap ? kMiB : metadata.block_size;
  if (decoded.present() && (decoded.offset < kHeaderSectionSize || decoded.offset > file_size ||
                            length > file_size - decoded.offset)) {
    return InvalidArgument("VHDX: entry " + std::to_string(entry) +
                           " of the block allocation table points outside the file");
  }
  return decoded;
}

absl::StatusOr<Layout> ReadLayout(const ImageReader& file) {
  // Bounds the table of occupied places; the largest disk with all its bitmaps is smaller.
  constexpr uint64_t kMaxFileSize = 2 * kMaxDiskSize;
  Layout layout;
  layout.file_size = file.size();
  if (layout.file_size > kMaxFileSize) return InvalidArgument("VHDX: the file is too large");
  ASSIGN_OR_RETURN(layout.header, ReadCurrentHeader(file));
  ASSIGN_OR_RETURN(layout.regions, ReadRegions(file, layout.header.log()));
  ASSIGN_OR_RETURN(layout.metadata, ReadMetadata(file, layout.regions.metadata));
  RETURN_IF_ERROR(CheckBat(file, layout));
  return layout;
}

}  // namespace partita::vhdx
