#include "vsp/storage/block/vhdx/vhdx_reader.h"

#include <algorithm>
#include <utility>

#include "vsp/storage/block/vhdx/log.h"

namespace partita::vhdx {

absl::StatusOr<std::unique_ptr<VhdxReader>> VhdxReader::Open(const storage::ImageReader& file,
                                                             const storage::DiskReader* parent) {
  std::unique_ptr<VhdxReader> reader(new VhdxReader(file, parent));
  RETURN_IF_ERROR(ReplayInMemory(file, reader->content_));
  ASSIGN_OR_RETURN(reader->layout_, ReadLayout(reader->content_));
  reader->geometry_ = std::make_unique<BatGeometry>(reader->layout_.metadata);
  if (parent != nullptr && parent->logical_sector() != reader->logical_sector()) {
    return InvalidArgument("VHDX: the parent has another sector size");
  }
  return reader;
}

absl::StatusOr<BatEntry> VhdxReader::Entry(uint64_t index) const {
  ASSIGN_OR_RETURN(const uint64_t raw, content_.ReadStruct<uint64_t>(layout_.regions.bat.offset +
                                                                     index * sizeof(uint64_t)));
  return layout_.Decode(*geometry_, index, raw);
}

absl::Status VhdxReader::ReadDisk(uint64_t offset, std::span<std::byte> bytes) const {
  const uint64_t sector = layout_.metadata.logical_sector;
  if (offset > disk_size() || bytes.size() > disk_size() - offset || offset % sector != 0 ||
      bytes.size() % sector != 0) {
    return absl::OutOfRangeError("reading beyond the end of the disk, or not in whole sectors");
  }
  const uint64_t block_size = layout_.metadata.block_size;
  while (!bytes.empty()) {
    const uint64_t chunk = std::min<uint64_t>(bytes.size(), block_size - offset % block_size);
    RETURN_IF_ERROR(ReadInBlock(offset, bytes.first(chunk)));
    bytes = bytes.subspan(chunk);
    offset += chunk;
  }
  return absl::OkStatus();
}

absl::Status VhdxReader::ReadInBlock(uint64_t offset, std::span<std::byte> bytes) const {
  const uint64_t block_size = layout_.metadata.block_size;
  ASSIGN_OR_RETURN(const BatEntry entry, Entry(geometry_->PayloadEntry(offset / block_size)));
  switch (entry.state) {
    case BlockState::kFullyPresent:
      return content_.Read(entry.offset + offset % block_size, bytes);
    case BlockState::kPartiallyPresent:
      return ReadPartial(entry, offset, bytes);
    case BlockState::kNotPresent:
      if (layout_.metadata.has_parent) return ReadParent(offset, bytes);
      break;
    case BlockState::kUndefined:
    case BlockState::kZero:
    case BlockState::kUnmapped:
      break;
  }
  std::fill(bytes.begin(), bytes.end(), std::byte{0});
  return absl::OkStatus();
}

absl::Status VhdxReader::ReadPartial(const BatEntry& entry, uint64_t offset,
                                     std::span<std::byte> bytes) const {
  const uint64_t sector = layout_.metadata.logical_sector;
  const uint64_t block_size = layout_.metadata.block_size;
  const uint64_t block = offset / block_size;
  ASSIGN_OR_RETURN(const BatEntry bitmap, Entry(geometry_->BitmapEntry(block)));
  if (!bitmap.present()) return InvalidArgument("VHDX: a block's sector bitmap is missing");
  // The chunk's sectors, in a row, one bit each, lowest first.
  const uint64_t chunk_start = block / geometry_->chunk_ratio * geometry_->chunk_ratio * block_size;
  const uint64_t first = (offset - chunk_start) / sector;
  const uint64_t last = first + bytes.size() / sector - 1;
  std::vector<std::byte> bits(last / 8 - first / 8 + 1);
  RETURN_IF_ERROR(content_.Read(bitmap.offset + first / 8, bits));
  const auto ours = [&](uint64_t number) {
    return (std::to_integer<unsigned>(bits[number / 8 - first / 8]) >> (number % 8) & 1) != 0;
  };
  for (uint64_t at = first; at <= last;) {
    uint64_t end = at + 1;
    while (end <= last && ours(end) == ours(at)) ++end;
    const std::span<std::byte> part = bytes.subspan((at - first) * sector, (end - at) * sector);
    const uint64_t part_offset = chunk_start + at * sector;
    RETURN_IF_ERROR(ours(at) ? content_.Read(entry.offset + part_offset % block_size, part)
                             : ReadParent(part_offset, part));
    at = end;
  }
  return absl::OkStatus();
}

absl::Status VhdxReader::ReadParent(uint64_t offset, std::span<std::byte> bytes) const {
  if (parent_ == nullptr) return FailedPrecondition("VHDX: the parent is not open");
  const uint64_t there = offset < parent_->disk_size()
                             ? std::min<uint64_t>(bytes.size(), parent_->disk_size() - offset)
                             : 0;
  std::fill(bytes.begin() + static_cast<ptrdiff_t>(there), bytes.end(), std::byte{0});
  return there == 0 ? absl::OkStatus() : parent_->ReadDisk(offset, bytes.first(there));
}

}  // namespace partita::vhdx
