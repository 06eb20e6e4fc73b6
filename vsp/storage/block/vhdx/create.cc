#include "vsp/storage/block/vhdx/create.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/utf16.h"
#include "vsp/storage/block/vhdx/layout.h"

namespace partita::vhdx {
namespace {

constexpr Extent kLog = {kHeaderSectionSize, kMiB};
constexpr Extent kMetadata = {2 * kMiB, kMiB};
constexpr uint64_t kBatOffset = 3 * kMiB;

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}
template <typename T>
void Store(std::vector<std::byte>& bytes, size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

absl::Status WriteIdentifierAndHeaders(storage::ImageFile& file, const CreateOptions& options) {
  FileIdentifier identifier{.signature = kFileSignature, .creator = {}};
  constexpr std::u16string_view kCreator = u"Partita";
  std::copy(kCreator.begin(), kCreator.end(), identifier.creator);
  RETURN_IF_ERROR(file.Write(kFileIdentifierOffset, BytesOf(identifier)));
  Header header{};
  header.signature = kHeaderSignature;
  header.file_write_guid = options.file_write_guid;
  header.data_write_guid = options.data_write_guid;
  header.version = 1;
  header.log_length = static_cast<uint32_t>(kLog.length);
  header.log_offset = kLog.offset;
  for (const uint64_t offset : kHeaderOffset) {
    ++header.sequence;
    RETURN_IF_ERROR(file.Write(offset, BytesOf(Sealed(header))));
  }
  return absl::OkStatus();
}

absl::Status WriteRegionTables(storage::ImageFile& file, const Extent& bat) {
  std::vector<std::byte> table(kRegionTableSize);
  RegionTableHeader header{.signature = kRegionSignature, .checksum = 0, .count = 2, .reserved = 0};
  Store(table, 0, header);
  const RegionEntry entries[] = {{.guid = kBatRegion,
                                  .offset = bat.offset,
                                  .length = static_cast<uint32_t>(bat.length),
                                  .required = 1},
                                 {.guid = kMetadataRegion,
                                  .offset = kMetadata.offset,
                                  .length = static_cast<uint32_t>(kMetadata.length),
                                  .required = 1}};
  Store(table, sizeof(header), entries);
  header.checksum = Crc32c(table);
  Store(table, 0, header);
  for (const uint64_t offset : kRegionTableOffset) RETURN_IF_ERROR(file.Write(offset, table));
  return absl::OkStatus();
}

std::vector<std::byte> EncodeParentLocator(const ParentReference& parent) {
  char linkage[39];
  vmbus::GuidText(parent.data_write_guid, linkage);
  const std::pair<std::string_view, std::string_view> values[] = {
      {"parent_linkage", linkage},
      {"relative_path", parent.relative_path},
      {"absolute_win32_path", parent.absolute_path}};
  ParentLocatorHeader header{.type = kVhdxLocatorType, .reserved = 0, .count = 0};
  std::vector<ParentLocatorEntry> entries;
  std::vector<std::byte> texts;
  const auto append = [&](std::string_view text) {
    const auto at = static_cast<uint32_t>(texts.size());
    const std::vector<std::byte> wide = Utf16FromUtf8(text);
    texts.insert(texts.end(), wide.begin(), wide.end());
    return std::pair(at, static_cast<uint16_t>(wide.size()));
  };
  for (const auto& [key, value] : values) {
    if (value.empty()) continue;
    const auto [key_at, key_length] = append(key);
    const auto [value_at, value_length] = append(value);
    entries.push_back({.key_offset = key_at,
                       .value_offset = value_at,
                       .key_length = key_length,
                       .value_length = value_length});
  }
  header.count = static_cast<uint16_t>(entries.size());
  const auto base =
      static_cast<uint32_t>(sizeof(header) + entries.size() * sizeof(ParentLocatorEntry));
  std::vector<std::byte> item(base);
  Store(item, 0, header);
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].key_offset += base;
    entries[i].value_offset += base;
    Store(item, sizeof(header) + i * sizeof(ParentLocatorEntry), entries[i]);
  }
  item.insert(item.end(), texts.begin(), texts.end());
  return item;
}

// The metadata region, growing item by item behind its table.
class MetadataBuilder {
 public:
  MetadataBuilder() : bytes_(kMetadataTableSize) {}
  void Add(const Guid& item, std::span<const std::byte> value, uint32_t flags) {
    const MetadataEntry entry{.item = item,
                              .offset = static_cast<uint32_t>(bytes_.size()),
                              .length = static_cast<uint32_t>(value.size()),
                              .flags = flags | kMetadataIsRequired,
                              .reserved = 0};
    Store(bytes_, sizeof(MetadataTableHeader) + count_++ * sizeof(entry), entry);
    bytes_.insert(bytes_.end(), value.begin(), value.end());
  }
  [[nodiscard]] std::vector<std::byte> Finish() && {
    MetadataTableHeader header{};
    header.signature = kMetadataSignature;
    header.count = count_;
    Store(bytes_, 0, header);
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
  uint16_t count_ = 0;
};

std::vector<std::byte> EncodeMetadata(const CreateOptions& options) {
  const FileParameters parameters{
      .block_size = options.block_size,
      .flags = (options.fixed ? kLeaveBlocksAllocated : 0) | (options.parent ? kHasParent : 0)};
  MetadataBuilder builder;
  builder.Add(kFileParametersItem, BytesOf(parameters), 0);
  builder.Add(kDiskSizeItem, BytesOf(options.disk_size), kMetadataIsVirtualDisk);
  builder.Add(kDiskIdItem, BytesOf(options.disk_id), kMetadataIsVirtualDisk);
  builder.Add(kLogicalSectorItem, BytesOf(options.logical_sector), kMetadataIsVirtualDisk);
  builder.Add(kPhysicalSectorItem, BytesOf(options.physical_sector), kMetadataIsVirtualDisk);
  if (options.parent) builder.Add(kParentLocatorItem, EncodeParentLocator(*options.parent), 0);
  return std::move(builder).Finish();
}

// Every payload block in its place, one behind the other. Returns the end of the file.
absl::StatusOr<uint64_t> AllocateAll(storage::ImageFile& file, const BatGeometry& geometry,
                                     const Extent& bat, uint64_t block_size) {
  std::vector<uint64_t> table(geometry.entries);
  uint64_t next = bat.end();
  for (uint64_t block = 0; block < geometry.blocks; ++block, next += block_size) {
    table[geometry.PayloadEntry(block)] =
        BatEntry{.state = BlockState::kFullyPresent, .offset = next}.Encode();
  }
  RETURN_IF_ERROR(file.Write(bat.offset, std::as_bytes(std::span(table))));
  return next;
}

}  // namespace

absl::Status Create(storage::ImageFile& file, const CreateOptions& options) {
  if (file.size() != 0) return FailedPrecondition("VHDX: the new file is not empty");
  if (options.fixed && options.parent) {
    return InvalidArgument("VHDX: a differencing disk cannot be a fixed one");
  }
  if (options.parent && options.parent->relative_path.empty() &&
      options.parent->absolute_path.empty()) {
    return InvalidArgument("VHDX: a differencing disk needs the path of its parent");
  }
  Metadata metadata;
  metadata.block_size = options.block_size;
  metadata.disk_size = options.disk_size;
  metadata.logical_sector = options.logical_sector;
  metadata.physical_sector = options.physical_sector;
  metadata.has_parent = options.parent.has_value();
  RETURN_IF_ERROR(CheckMetadata(metadata));
  const std::vector<std::byte> encoded = EncodeMetadata(options);
  if (encoded.size() > kMetadata.length)
    return InvalidArgument("VHDX: the parent's path is too long");
  const BatGeometry geometry(metadata);
  const Extent bat = {kBatOffset, RoundUp(geometry.entries * sizeof(uint64_t), kMiB)};
  RETURN_IF_ERROR(file.Extend(bat.end()));
  uint64_t end = bat.end();
  if (options.fixed) {
    ASSIGN_OR_RETURN(end, AllocateAll(file, geometry, bat, options.block_size));
  }
  RETURN_IF_ERROR(file.Extend(end));
  RETURN_IF_ERROR(file.Write(kMetadata.offset, encoded));
  RETURN_IF_ERROR(WriteRegionTables(file, bat));
  // What is above is durable before anything makes the file a VHDX.
  RETURN_IF_ERROR(file.Flush());
  RETURN_IF_ERROR(WriteIdentifierAndHeaders(file, options));
  return file.Flush();
}

}  // namespace partita::vhdx
