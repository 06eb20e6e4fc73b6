#include "vsp/storage/block/vhdx/vhdx_disk.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/log.h"
#include "vsp/storage/block/vhdx/log.h"

namespace partita::vhdx {
namespace {

using storage::BlockOp;
using storage::ImageReader;
using storage::MappedFile;
using storage::OverlayReader;

absl::StatusOr<Guid> NewGuid() {
  Guid guid{};
  if (getrandom(guid.bytes, sizeof(guid.bytes), 0) != sizeof(guid.bytes)) {
    return SystemError("getrandom");
  }
  guid.bytes[7] = static_cast<uint8_t>((guid.bytes[7] & 0x0F) | 0x40);  // version 4: random
  guid.bytes[8] = static_cast<uint8_t>((guid.bytes[8] & 0x3F) | 0x80);
  return guid;
}

int ErrnoOf(const absl::Status& status) {
  if (status.ok()) return 0;
  return absl::IsResourceExhausted(status) ? ENOSPC : EIO;
}

uint64_t RoundUpToMiB(uint64_t value) { return (value + kMiB - 1) / kMiB * kMiB; }

// A log that is replayed in memory covers the metadata only: data is read from the file itself.
absl::Status CheckOverlay(const OverlayReader& overlay, const BlockMap& map) {
  for (uint64_t block = 0; block < map.geometry().blocks; ++block) {
    const BatEntry entry = map.Payload(block);
    if (entry.present() && overlay.Covers(entry.offset, map.layout().metadata.block_size)) {
      return FailedPrecondition("VHDX: the log changes data; open the image for writing once");
    }
  }
  return absl::OkStatus();
}

// `file_write_guid` for a file that may be written, else null.
absl::StatusOr<std::unique_ptr<BlockMap>> OpenLayer(MappedFile& file, const Guid* file_write_guid) {
  if (file_write_guid != nullptr) {
    RETURN_IF_ERROR(ReplayIntoFile(*file.image, *file_write_guid));
    ASSIGN_OR_RETURN(const Layout layout, ReadLayout(*file.image));
    return BlockMap::Load(*file.image, layout);
  }
  OverlayReader content(*file.image);
  RETURN_IF_ERROR(ReplayInMemory(*file.image, content));
  ASSIGN_OR_RETURN(const Layout layout, ReadLayout(content));
  ASSIGN_OR_RETURN(std::unique_ptr<BlockMap> map, BlockMap::Load(content, layout));
  if (content.pieces() > 0) RETURN_IF_ERROR(CheckOverlay(content, *map));
  return map;
}

// Whether `parent` is what the child says it was made from.
absl::Status CheckParent(const Metadata& child, const Layout& parent) {
  if (parent.metadata.logical_sector != child.logical_sector) {
    return InvalidArgument("VHDX: the parent has another sector size");
  }
  char text[39];
  vmbus::GuidText(parent.header.header.data_write_guid, text);
  for (const char* key : {"parent_linkage", "parent_linkage2"}) {
    const auto found = child.parent.values.find(key);
    if (found == child.parent.values.end()) continue;
    std::string linkage = found->second;
    std::transform(linkage.begin(), linkage.end(), linkage.begin(),
                   [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
    if (linkage == text) return absl::OkStatus();
  }
  return FailedPrecondition("VHDX: the parent was changed after the differencing disk was made");
}

// Room for what a commit writes: a full host disk must meet the guest's writes, which can wait, and
// not a flush, which cannot.
absl::Status ReserveMetadata(storage::ImageFile& image, const BlockMap& map) {
  const Extent log = map.layout().header.log();
  RETURN_IF_ERROR(image.Reserve(log.offset, log.length));
  return image.Reserve(
      map.layout().regions.bat.offset,
      (map.geometry().entries * sizeof(uint64_t) + kLogSector - 1) / kLogSector * kLogSector);
}

}  // namespace

absl::StatusOr<std::unique_ptr<VhdxDisk>> VhdxDisk::Open(std::vector<MappedFile> chain,
                                                         bool read_only) {
  if (chain.empty()) return InvalidArgument("VHDX: no file");
  if (chain.size() > kMaxChain) return InvalidArgument("VHDX: the chain has more than 64 files");
  Identities identities;
  for (Guid* guid : {&identities.file_write, &identities.data_write, &identities.log}) {
    ASSIGN_OR_RETURN(*guid, NewGuid());
  }
  std::vector<std::unique_ptr<BlockMap>> maps;
  for (MappedFile& file : chain) {
    const bool written = !read_only && maps.empty();
    ASSIGN_OR_RETURN(std::unique_ptr<BlockMap> map,
                     OpenLayer(file, written ? &identities.file_write : nullptr));
    if (!maps.empty()) {
      RETURN_IF_ERROR(CheckParent(maps.back()->layout().metadata, map->layout()));
    }
    maps.push_back(std::move(map));
    const bool last = maps.size() == chain.size();
    if (maps.back()->layout().metadata.has_parent == last) {
      return last ? FailedPrecondition("VHDX: the parent of a differencing disk is missing")
                  : InvalidArgument("VHDX: a file that is no differencing disk has no parent");
    }
  }
  if (!read_only) RETURN_IF_ERROR(ReserveMetadata(*chain[0].image, *maps[0]));
  const Metadata& metadata = maps[0]->layout().metadata;
  storage::BlockProperties properties;
  properties.size = metadata.disk_size;
  properties.logical_block = metadata.logical_sector;
  properties.physical_block = metadata.physical_sector;
  properties.read_only = read_only;
  properties.discard = !read_only;
  for (const MappedFile& file : chain) {
    properties.memory_alignment =
        std::max(properties.memory_alignment, file.data->properties().memory_alignment);
  }
  return std::unique_ptr<VhdxDisk>(
      new VhdxDisk(std::move(chain), properties, identities, std::move(maps)));
}

VhdxDisk::VhdxDisk(std::vector<MappedFile> chain, const storage::BlockProperties& properties,
                   const Identities& identities, std::vector<std::unique_ptr<BlockMap>> maps)
    : MappedDisk(std::move(chain), properties), identities_(identities), maps_(std::move(maps)) {
  for (const MappedFile& file : chain_) file_sizes_.push_back(file.image->size());
  header_ = top().layout().header;
  end_ = RoundUpToMiB(file_sizes_[0]);
  durable_end_ = file_sizes_[0];
}

VhdxDisk::~VhdxDisk() {
  if (const absl::Status closed = Close(); !closed.ok()) {
    Log("closing a VHDX image (its log will be replayed): " + std::string(Message(closed)));
  }
}

// --- finding blocks ---

VhdxDisk::Piece VhdxDisk::MapRead(uint64_t offset, uint64_t length) const {
  for (size_t layer = 0; layer < maps_.size(); ++layer) {
    const BlockMap& map = *maps_[layer];
    const Metadata& metadata = map.layout().metadata;
    if (offset >= metadata.disk_size) break;  // a parent may be smaller
    length = std::min(length, metadata.disk_size - offset);
    const uint64_t in_block = offset & (metadata.block_size - 1);
    length = std::min(length, metadata.block_size - in_block);
    const BatEntry entry = map.Payload(offset / metadata.block_size);
    if (entry.state == BlockState::kPartiallyPresent) {
      const uint64_t sector = offset / metadata.logical_sector;
      length = (map.RunEnd(sector, sector + length / metadata.logical_sector) - sector) *
               metadata.logical_sector;
      if (!map.Has(sector)) continue;
    } else if (entry.state == BlockState::kNotPresent && metadata.has_parent) {
      continue;
    } else if (!entry.present()) {
      break;
    }
    Piece piece{.kind = Piece::Kind::kData,
                .layer = layer,
                .offset = entry.offset + in_block,
                .length = length};
    // What a log extends a file by is not there when it is replayed in memory.
    if (properties_.read_only || layer > 0) {
      if (piece.offset >= file_sizes_[layer]) break;
      piece.length = std::min(piece.length, file_sizes_[layer] - piece.offset);
    }
    return piece;
  }
  return {.kind = Piece::Kind::kZeroes, .length = length};
}

bool VhdxDisk::WholeBlock(uint64_t offset, uint64_t length) const {
  const uint64_t block_size = top().layout().metadata.block_size;
  return offset % block_size == 0 && (length == block_size || offset + length == properties_.size);
}

int VhdxDisk::MapWrite(uint64_t offset, uint64_t length, Piece* piece) {
  const uint64_t block_size = top().layout().metadata.block_size;
  const uint64_t in_block = offset & (block_size - 1);
  const uint64_t block = offset / block_size;
  BatEntry entry = top().Payload(block);
  if (!entry.present()) {
    if (const int error = Allocate(block); error != 0) return error;
    entry = top().Payload(block);
    // Another channel discards it at this moment: as if that had come first.
    if (!entry.present()) return MapWrite(offset, length, piece);
  }
  *piece = {.kind = Piece::Kind::kData,
            .tell = entry.state == BlockState::kPartiallyPresent,
            .layer = 0,
            .offset = entry.offset + in_block,
            .length = std::min(length, block_size - in_block)};
  return 0;
}

int VhdxDisk::MapZeroes(BlockOp op, uint64_t offset, uint64_t length, Piece* piece) {
  const Metadata& metadata = top().layout().metadata;
  const uint64_t block = offset / metadata.block_size;
  length = std::min(length, metadata.block_size - offset % metadata.block_size);
  const bool whole = WholeBlock(offset, length);
  const BatEntry entry = top().Payload(block);
  *piece = {.kind = Piece::Kind::kZeroes, .length = length};
  if (entry.present()) {
    const bool give_up = op == BlockOp::kDiscard && whole && !metadata.leave_allocated;
    *piece = {.kind = Piece::Kind::kData,
              .tell = give_up || entry.state == BlockState::kPartiallyPresent,
              .layer = 0,
              .offset = entry.offset + offset % metadata.block_size,
              .length = length};
    return 0;
  }
  if (entry.state != BlockState::kNotPresent || !metadata.has_parent) return 0;
  // The parent's data must not be seen any more.
  if (!whole) return MapWrite(offset, length, piece);
  MutexLock lock(mutex_);
  const uint64_t index = top().geometry().PayloadEntry(block);
  if (top().Entry(index).state == BlockState::kNotPresent) {
    Put(index, {.state = BlockState::kZero, .offset = 0});
  }
  return 0;
}

// --- changes ---

void VhdxDisk::Put(uint64_t entry, const BatEntry& value) {
  top().SetEntry(entry, value);
  changed_table_pages_.insert(entry / BlockMap::kEntriesPerPage);
}

int VhdxDisk::Take(uint64_t length, uint64_t* offset) {
  MutexLock lock(image_mutex_);
  if (const int error = ErrnoOf(chain_[0].image->Extend(end_ + length)); error != 0) return error;
  *offset = end_;
  end_ += length;
  return 0;
}

int VhdxDisk::MakeBitmap(uint64_t block) {
  const uint64_t index = top().geometry().BitmapEntry(block);
  if (top().Entry(index).present()) return 0;
  {
    MutexLock lock(image_mutex_);
    if (const int error = ErrnoOf(chain_[0].image->Reserve(end_, kMiB)); error != 0) return error;
  }
  BatEntry bitmap{.state = BlockState::kFullyPresent};
  if (const int error = Take(kMiB, &bitmap.offset); error != 0) return error;
  Put(index, bitmap);
  return 0;
}

int VhdxDisk::Allocate(uint64_t block) {
  MutexLock lock(mutex_);
  const Metadata& metadata = top().layout().metadata;
  const uint64_t index = top().geometry().PayloadEntry(block);
  const BatEntry old = top().Entry(index);
  if (old.present()) return 0;
  BatEntry entry{.state = BlockState::kFullyPresent};
  if (old.state == BlockState::kNotPresent && metadata.has_parent) {
    entry.state = BlockState::kPartiallyPresent;
    if (const int error = MakeBitmap(block); error != 0) return error;
    top().ClearBlock(block);
    const uint64_t sectors = metadata.block_size / metadata.logical_sector;
    const uint64_t first = block * sectors / BlockMap::kSectorsPerPage;
    const uint64_t last = ((block + 1) * sectors - 1) / BlockMap::kSectorsPerPage;
    for (uint64_t page = first; page <= last; ++page) changed_bitmap_pages_.insert(page);
  }
  if (const auto kept = kept_places_.find(block); kept != kept_places_.end()) {
    entry.offset = kept->second;
    kept_places_.erase(kept);
  } else if (const int error = Take(metadata.block_size, &entry.offset); error != 0) {
    return error;
  }
  Put(index, entry);
  allocated_.Add();
  return 0;
}

void VhdxDisk::Wrote(BlockOp op, uint64_t offset, uint64_t length) {
  if (op != BlockOp::kDiscard || !WholeBlock(offset, length)) return MarkWritten(offset, length);
  MutexLock lock(mutex_);
  const uint64_t block = offset / top().layout().metadata.block_size;
  const uint64_t index = top().geometry().PayloadEntry(block);
  const BatEntry entry = top().Entry(index);
  if (!entry.present()) return;
  kept_places_[block] = entry.offset;
  Put(index, {.state = BlockState::kZero, .offset = 0});
  discarded_.Add();
}

// Sectors of a partially present block are the disk's own now.
void VhdxDisk::MarkWritten(uint64_t offset, uint64_t length) {
  const Metadata& metadata = top().layout().metadata;
  const uint64_t first = offset / metadata.logical_sector;
  const uint64_t end = (offset + length) / metadata.logical_sector;
  if (!top().SetBits(first, end)) return;
  MutexLock lock(mutex_);
  for (uint64_t page = first / BlockMap::kSectorsPerPage;
       page <= (end - 1) / BlockMap::kSectorsPerPage; ++page) {
    changed_bitmap_pages_.insert(page);
  }
  // Looked at where writing in order comes to an end: a look costs as much as the block is long.
  const uint64_t block = offset / metadata.block_size;
  if ((offset + length) % metadata.block_size != 0 && offset + length != properties_.size) return;
  const uint64_t index = top().geometry().PayloadEntry(block);
  BatEntry entry = top().Entry(index);
  if (entry.state != BlockState::kPartiallyPresent || !top().BlockIsFull(block)) return;
  entry.state = BlockState::kFullyPresent;
  Put(index, entry);
  filled_.Add();
}

// --- commits ---

void VhdxDisk::RequestWritable() {
  MutexLock lock(mutex_);
  want_writable_ = true;
}

std::vector<VhdxDisk::Step> VhdxDisk::BeginCommit() {
  std::vector<Step> steps;
  if (properties_.read_only) return steps;
  MutexLock lock(mutex_);
  next_header_ = header_;
  {
    MutexLock image_lock(image_mutex_);
    commit_end_ = chain_[0].image->size();
  }
  if (want_writable_ && !writable()) StartLog(steps);
  if (!changed_table_pages_.empty() || !changed_bitmap_pages_.empty()) {
    // Bits may not become durable before the data that they speak of.
    if (top().layout().metadata.has_parent) steps.emplace_back();
    LogChanges(steps);
  } else if (steps.empty()) {
    steps.emplace_back();
  }
  return steps;
}

namespace {

storage::AlignedBytes Aligned(std::span<const std::byte> bytes) {
  storage::AlignedBytes aligned(bytes.size());
  std::copy(bytes.begin(), bytes.end(), aligned.span().begin());
  return aligned;
}

}  // namespace

// 2.2.2.1: each header update is the slot that is not current, flushed, and the other one, flushed.
// First the identities, then a log with one entry, then the headers that name it.
void VhdxDisk::StartLog(std::vector<Step>& steps) {
  Header header = header_.header;
  header.file_write_guid = identities_.file_write;
  header.data_write_guid = identities_.data_write;
  CurrentHeader next = header_;
  const auto put_header = [&] {
    ++header.sequence;
    next = {.header = Sealed(header), .slot = next.slot ^ 1};
    steps.push_back({.offset = kHeaderOffset[next.slot],
                     .bytes = Aligned(std::as_bytes(std::span(&next.header, 1)))});
  };
  put_header();
  steps.emplace_back();
  put_header();
  log_ = std::make_unique<LogRing>(header_.log(), identities_.log);
  for (const LogRing::Write& write : log_->Append({}, durable_end_, commit_end_)) {
    steps.push_back({.offset = write.offset, .bytes = Aligned(write.bytes)});
  }
  steps.emplace_back();
  header.log_guid = identities_.log;
  put_header();
  steps.emplace_back();
  put_header();
  steps.emplace_back();
  next_header_ = next;
}

// Pages in an order in which every beginning of it is a disk that opens: bits before the blocks
// that they belong to, and a bitmap's entry, which stands behind its blocks' entries, before those.
void VhdxDisk::LogChanges(std::vector<Step>& steps) {
  std::vector<Step> pages;
  for (const uint64_t page : changed_bitmap_pages_) {
    Step& step = pages.emplace_back(
        Step{.offset = top().BitmapPageOffset(page), .bytes = storage::AlignedBytes(kLogSector)});
    top().CopyBitmapPage(page, step.bytes.span());
  }
  for (auto page = changed_table_pages_.rbegin(); page != changed_table_pages_.rend(); ++page) {
    Step& step =
        pages.emplace_back(Step{.offset = top().layout().regions.bat.offset + *page * kLogSector,
                                .bytes = storage::AlignedBytes(kLogSector)});
    top().CopyTablePage(*page, step.bytes.span());
  }
  changed_bitmap_pages_.clear();
  changed_table_pages_.clear();
  for (size_t at = 0; at < pages.size();) {
    const size_t count = std::min(pages.size() - at, log_->capacity());
    std::vector<LogUpdate> updates;
    for (size_t i = at; i < at + count; ++i) {
      updates.push_back(
          {.file_offset = pages[i].offset, .sector = pages[i].bytes.span(), .zero_length = 0});
    }
    for (const LogRing::Write& write : log_->Append(updates, durable_end_, commit_end_)) {
      steps.push_back({.offset = write.offset, .bytes = Aligned(write.bytes)});
    }
    steps.emplace_back();
    for (const size_t end = at + count; at < end; ++at) steps.push_back(std::move(pages[at]));
    log_rounds_.Add();
  }
}

void VhdxDisk::EndCommit(int error) {
  MutexLock lock(mutex_);
  if (error != 0) {
    failed_ = true;
    return;
  }
  durable_end_ = commit_end_;
  header_ = next_header_;
  if (log_ != nullptr) writable_.store(true, std::memory_order_release);
}

absl::Status VhdxDisk::Close() {
  if (!writable()) return absl::OkStatus();
  {
    MutexLock lock(mutex_);
    if (failed_) return Unavailable("an earlier flush of the disk failed");
  }
  RETURN_IF_ERROR(Sync());
  RETURN_IF_ERROR(chain_[0].data->Sync());  // what the commit wrote last
  MutexLock lock(mutex_);
  MutexLock image_lock(image_mutex_);
  Header header = header_.header;
  header.log_guid = Guid{};
  return UpdateHeader(*chain_[0].image, header_, header);
}

void VhdxDisk::DescribeFormatTo(StatSink& sink) const {
  sink.Add("vhdx.allocated", allocated_);
  sink.Add("vhdx.discarded", discarded_);
  sink.Add("vhdx.filled", filled_);
  sink.Add("vhdx.log_rounds", log_rounds_);
}

}  // namespace partita::vhdx
