// VHDX: the layout and what is refused, the log to the letter of [MS-VHDX] 2.3, and qemu-img as an
// oracle.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "base/crc32c.h"
#include "tests/fakes/memory_image.h"
#include "vsp/storage/block/vhdx/create.h"
#include "vsp/storage/block/vhdx/layout.h"
#include "vsp/storage/block/vhdx/log.h"
#include "vsp/storage/block/vhdx/vhdx_reader.h"

namespace partita::vhdx {
namespace {

using storage::MemoryImage;

constexpr Guid kLogGuid = ParseGuid("11111111-2222-3333-4444-555555555555");
constexpr Guid kOtherGuid = ParseGuid("99999999-2222-3333-4444-555555555555");
constexpr uint64_t kLogOffset = kMiB, kMetadataOffset = 2 * kMiB, kBat = 3 * kMiB;

CreateOptions Small() {
  CreateOptions options;
  options.disk_size = 4 * kMiB;
  options.block_size = kMiB;
  options.file_write_guid = ParseGuid("00000000-0000-0000-0000-000000000001");
  options.data_write_guid = ParseGuid("00000000-0000-0000-0000-000000000002");
  options.disk_id = ParseGuid("00000000-0000-0000-0000-000000000003");
  return options;
}

MemoryImage Made(const CreateOptions& options) {
  MemoryImage image;
  const absl::Status made = Create(image, options);
  EXPECT_TRUE(made.ok()) << Message(made);
  return image;
}

std::vector<std::byte> Pattern(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

std::string Refusal(const MemoryImage& image) {
  const auto reader = VhdxReader::Open(image, nullptr);
  return reader.ok() ? "" : std::string(Message(reader.status()));
}

// Changes the current header in place, with its checksum.
void ChangeHeader(MemoryImage& image, const std::function<void(Header&)>& change) {
  auto current = ReadCurrentHeader(image);
  ASSERT_TRUE(current.ok());
  change(current->header);
  image.Store(kHeaderOffset[current->slot], Sealed(current->header));
}

void SealRegionTables(MemoryImage& image) {
  for (const uint64_t at : kRegionTableOffset) {
    image.Store<uint32_t>(at + 4, 0);
    image.Store<uint32_t>(at + 4, Crc32c(std::span(image.bytes).subspan(at, kRegionTableSize)));
  }
}

TEST(VhdxCreate, IsReadBackAsItWasMade) {
  for (const uint32_t sector : {512u, 4096u}) {
    for (const bool fixed : {false, true}) {
      CreateOptions options = Small();
      options.logical_sector = sector;
      options.fixed = fixed;
      const MemoryImage image = Made(options);
      const auto reader = VhdxReader::Open(image, nullptr);
      ASSERT_TRUE(reader.ok()) << Message(reader.status());
      const Metadata& metadata = (*reader)->layout().metadata;
      EXPECT_EQ(metadata.disk_size, options.disk_size);
      EXPECT_EQ(metadata.logical_sector, sector);
      EXPECT_EQ(metadata.leave_allocated, fixed);
      EXPECT_TRUE(metadata.disk_id == options.disk_id);
      EXPECT_FALSE((*reader)->was_dirty());
      std::vector<std::byte> content(options.disk_size, std::byte{1});
      ASSERT_TRUE((*reader)->ReadDisk(0, content).ok());
      EXPECT_EQ(content, std::vector<std::byte>(options.disk_size));
      std::byte beyond[4096];
      EXPECT_FALSE((*reader)->ReadDisk(options.disk_size, beyond).ok());
      EXPECT_FALSE((*reader)->ReadDisk(1, std::span(beyond).first(sector)).ok());
    }
  }
}

TEST(VhdxCreate, SizesThatTheFormatDoesNotAllow) {
  const std::function<void(CreateOptions&)> wrong[] = {
      [](auto& o) { o.disk_size = 0; },
      [](auto& o) { o.disk_size += 1; },
      [](auto& o) { o.disk_size = kMaxDiskSize + 512; },
      [](auto& o) { o.block_size = 3 * kMiB; },
      [](auto& o) { o.block_size = kMiB / 2; },
      [](auto& o) { o.block_size = 512 * kMiB; },
      [](auto& o) { o.logical_sector = 1024; },
      [](auto& o) { o.physical_sector = 0; },
      [](auto& o) { o.parent.emplace(); },
      [](auto& o) {
        o.fixed = true;
        o.parent.emplace().relative_path = "p.vhdx";
      },
  };
  for (const auto& change : wrong) {
    CreateOptions options = Small();
    change(options);
    MemoryImage image;
    EXPECT_TRUE(absl::IsInvalidArgument(Create(image, options)));
    EXPECT_EQ(image.size(), 0u) << "nothing is made half";
  }
}

// The chunk arithmetic of 2.5 at its edges.
TEST(VhdxLayout, BatGeometry) {
  Metadata metadata;
  metadata.block_size = kMiB;
  metadata.logical_sector = 512;
  metadata.disk_size = 4096 * kMiB;  // exactly one chunk
  BatGeometry geometry(metadata);
  EXPECT_EQ(geometry.chunk_ratio, 4096u);
  EXPECT_EQ(geometry.entries, 4096u) << "no bitmap entry behind the last block";
  EXPECT_EQ(geometry.BitmapEntry(4095), 4096u);
  metadata.disk_size += 512;
  geometry = BatGeometry(metadata);
  EXPECT_EQ(geometry.blocks, 4097u);
  EXPECT_EQ(geometry.PayloadEntry(4096), 4097u);
  EXPECT_EQ(geometry.entries, 4098u);
  metadata.has_parent = true;
  EXPECT_EQ(BatGeometry(metadata).entries, 2 * 4097u) << "ends at a bitmap entry";
  metadata.logical_sector = 4096;
  EXPECT_EQ(BatGeometry(metadata).chunk_ratio, 32768u);
}

struct Damage {
  const char* expected;  // part of the sentence
  std::function<void(MemoryImage&)> make;
};

RegionEntry Region(const MemoryImage& image, int index) {
  return image.Load<RegionEntry>(kRegionTableOffset[0] + 16 + 32 * index);
}
void PutRegion(MemoryImage& image, int index, const RegionEntry& entry) {
  for (const uint64_t at : kRegionTableOffset) image.Store(at + 16 + 32 * index, entry);
  SealRegionTables(image);
}
void AddThirdRegion(MemoryImage& image, const RegionEntry& entry) {
  for (const uint64_t at : kRegionTableOffset) image.Store<uint32_t>(at + 8, 3);
  PutRegion(image, 2, entry);
}
void ChangeMetadata(MemoryImage& image, int index,
                    const std::function<void(MetadataEntry&)>& change) {
  const uint64_t at = kMetadataOffset + 32 + 32 * index;
  auto entry = image.Load<MetadataEntry>(at);
  change(entry);
  image.Store(at, entry);
}
// The value of metadata item `index`.
template <typename T>
void PutValue(MemoryImage& image, int index, const T& value) {
  image.Store(kMetadataOffset + image.Load<MetadataEntry>(kMetadataOffset + 32 + 32 * index).offset,
              value);
}
void PutBat(MemoryImage& image, uint64_t entry, uint64_t raw) {
  image.Store(kBat + 8 * entry, raw);
}
uint64_t Present(uint64_t mib) { return mib << kBatOffsetShift | 6; }

const std::vector<Damage>& Damages() {
  using M = MemoryImage;
  static const std::vector<Damage> kDamages = {
      {"not a VHDX", [](M& i) { i.Store<uint64_t>(0, 1); }},
      {"not a VHDX", [](M& i) { i.bytes.resize(4); }},
      {"neither of the two headers",
       [](M& i) {
         i.bytes[kHeaderOffset[0] + 100] ^= std::byte{1};
         i.bytes[kHeaderOffset[1] + 100] ^= std::byte{1};
       }},
      {"contradict",
       [](M& i) {
         auto other = i.Load<Header>(kHeaderOffset[1]);
         other.sequence = i.Load<Header>(kHeaderOffset[0]).sequence;
         other.data_write_guid = kOtherGuid;
         other.checksum = 0;
         i.Store(kHeaderOffset[1], Sealed(other));
       }},
      {"version 2", [](M& i) { ChangeHeader(i, [](Header& h) { h.version = 2; }); }},
      {"log version 1",
       [](M& i) {
         ChangeHeader(i, [](Header& h) {
           h.log_version = 1;
           h.log_guid = kLogGuid;
         });
       }},
      {"the log lies outside",
       [](M& i) { ChangeHeader(i, [](Header& h) { h.log_offset = 100 * kMiB; }); }},
      {"the log lies outside", [](M& i) { ChangeHeader(i, [](Header& h) { h.log_offset = 0; }); }},
      {"the log lies outside", [](M& i) { ChangeHeader(i, [](Header& h) { h.log_length = 0; }); }},
      {"the log lies outside",
       [](M& i) { ChangeHeader(i, [](Header& h) { h.log_offset = ~uint64_t{0} - kMiB + 1; }); }},
      {"neither of the two region tables",
       [](M& i) {
         for (const uint64_t at : kRegionTableOffset) i.bytes[at + 4000] ^= std::byte{1};
       }},
      {"neither of the two region tables",
       [](M& i) {
         for (const uint64_t at : kRegionTableOffset) i.Store<uint32_t>(at + 8, 2048);
         SealRegionTables(i);
       }},
      {"is not listed",
       [](M& i) {
         for (const uint64_t at : kRegionTableOffset) i.Store<uint32_t>(at + 8, 1);
         SealRegionTables(i);
       }},
      {"two regions overlap",
       [](M& i) {
         AddThirdRegion(i, {kOtherGuid, kBat, kMiB, 0});
       }},
      {"two regions overlap",
       [](M& i) {
         AddThirdRegion(i, {kOtherGuid, kLogOffset, kMiB, 0});
       }},
      {"region of an unknown kind",
       [](M& i) {
         i.bytes.resize(5 * kMiB);
         AddThirdRegion(i, {kOtherGuid, 4 * kMiB, kMiB, 1});
       }},
      {"a region is listed twice",
       [](M& i) {
         i.bytes.resize(5 * kMiB);
         AddThirdRegion(i, {kBatRegion, 4 * kMiB, kMiB, 1});
       }},
      {"a region lies outside",
       [](M& i) {
         RegionEntry entry = Region(i, 0);
         entry.offset = ~uint64_t{0} - kMiB + 1;
         PutRegion(i, 0, entry);
       }},
      {"the metadata table is damaged", [](M& i) { i.Store<uint64_t>(kMetadataOffset, 0); }},
      {"the metadata table is damaged",
       [](M& i) { i.Store<uint16_t>(kMetadataOffset + 10, 2048); }},
      {"no file parameters",
       [](M& i) { ChangeMetadata(i, 0, [](auto& e) { e.item = kOtherGuid, e.flags = 0; }); }},
      {"no disk size", [](M& i) { ChangeMetadata(i, 1, [](auto& e) { e.length = 4; }); }},
      {"outside its region", [](M& i) { ChangeMetadata(i, 1, [](auto& e) { e.offset = 8; }); }},
      {"outside its region",
       [](M& i) { ChangeMetadata(i, 1, [](auto& e) { e.offset = kMiB - 4; }); }},
      {"listed twice", [](M& i) { ChangeMetadata(i, 1, [](auto& e) { e.item = kDiskIdItem; }); }},
      {"items overlap", [](M& i) { ChangeMetadata(i, 1, [](auto& e) { e.offset -= 4; }); }},
      {"metadata of an unknown kind",
       [](M& i) { ChangeMetadata(i, 2, [](auto& e) { e.item = kOtherGuid; }); }},
      {"metadata of an unknown kind",
       [](M& i) { ChangeMetadata(i, 2, [](auto& e) { e.flags |= kMetadataIsUser; }); }},
      {"a block size of",
       [](M& i) { PutValue(i, 0, FileParameters{.block_size = 3 << 20, .flags = 0}); }},
      {"a disk size of", [](M& i) { PutValue<uint64_t>(i, 1, 513); }},
      {"a sector size of", [](M& i) { PutValue<uint32_t>(i, 3, 520); }},
      {"without a parent",
       [](M& i) { PutValue(i, 0, FileParameters{.block_size = 1 << 20, .flags = kHasParent}); }},
      {"too short for the disk", [](M& i) { PutValue<uint64_t>(i, 1, uint64_t{1} << 40); }},
      {"entry 2 of the block allocation table is damaged", [](M& i) { PutBat(i, 2, 4); }},
      {"entry 2 of the block allocation table is damaged", [](M& i) { PutBat(i, 2, 1 << 5); }},
      {"entry 1 of the block allocation table is damaged",
       [](M& i) { PutBat(i, 1, Present(3) | 1); }},  // partially present without a parent
      {"points outside the file", [](M& i) { PutBat(i, 0, Present(4)); }},
      {"points outside the file", [](M& i) { PutBat(i, 0, Present(0)); }},
      {"points outside the file", [](M& i) { PutBat(i, 0, Present(uint64_t{1} << 43)); }},
      {"share a place", [](M& i) { PutBat(i, 0, Present(1)); }},
      {"share a place",
       [](M& i) {
         i.bytes.resize(5 * kMiB);
         PutBat(i, 0, Present(4));
         PutBat(i, 3, Present(4));
       }},
  };
  return kDamages;
}

TEST(VhdxLayout, EachDamageIsOneClearLine) {
  int number = 0;
  for (const Damage& damage : Damages()) {
    MemoryImage image = Made(Small());
    damage.make(image);
    EXPECT_NE(Refusal(image).find(damage.expected), std::string::npos)
        << "damage " << number << " (" << damage.expected << "): " << Refusal(image);
    ++number;
  }
}

TEST(VhdxLayout, WhatOthersWriteAndIsAllowed) {
  using M = MemoryImage;
  const std::function<void(M&)> allowed[] = {
      // Disk2vhd: both headers with the same number, and equal.
      [](M& i) { i.Store(kHeaderOffset[0], i.Load<Header>(kHeaderOffset[1])); },
      // One header, one region table torn.
      [](M& i) { i.bytes[kHeaderOffset[1] + 9] ^= std::byte{1}; },
      [](M& i) { i.bytes[kRegionTableOffset[0] + 9] ^= std::byte{1}; },
      // An optional region and an optional item that nobody knows; an empty item.
      [](M& i) {
        i.bytes.resize(5 * kMiB);
        AddThirdRegion(i, {kOtherGuid, 4 * kMiB, kMiB, 0});
      },
      [](M& i) {
        i.Store(kMetadataOffset + 32 + 32 * 5, MetadataEntry{kOtherGuid, 0, 0, 0, 0});
        i.Store<uint16_t>(kMetadataOffset + 10, 6);
      },
      // Blocks that were given up keep their old place as a hint.
      [](M& i) { PutBat(i, 0, uint64_t{77} << kBatOffsetShift | 3); },
  };
  int number = 0;
  for (const auto& change : allowed) {
    MemoryImage image = Made(Small());
    change(image);
    EXPECT_EQ(Refusal(image), "") << "case " << number++;
  }
}

// --- the log ---

// An image with a log written by a generator: entries in a row from a position, wrapping.
class LogWriter {
 public:
  explicit LogWriter(MemoryImage& image, uint64_t position = 0, uint64_t sequence = 1)
      : image_(image), position_(position), tail_(position), sequence_(sequence) {
    ChangeHeader(image, [](Header& h) { h.log_guid = kLogGuid; });
  }
  // One entry; returns its position.
  uint64_t Append(std::span<const LogUpdate> updates,
                  const std::function<void(LogEntryFields&)>& change = nullptr) {
    LogEntryFields fields{.log_guid = kLogGuid,
                          .sequence = sequence_++,
                          .tail = static_cast<uint32_t>(tail_),
                          .flushed_file_offset = image_.size(),
                          .last_file_offset = image_.size()};
    if (change) change(fields);
    const std::vector<std::byte> entry = EncodeLogEntry(fields, updates);
    for (size_t at = 0; at < entry.size(); at += kLogSector) {
      std::copy_n(
          entry.begin() + static_cast<ptrdiff_t>(at), kLogSector,
          image_.bytes.begin() + static_cast<ptrdiff_t>(kLogOffset + (position_ + at) % kMiB));
    }
    return std::exchange(position_, (position_ + entry.size()) % kMiB);
  }
  void set_tail(uint64_t tail) { tail_ = tail; }
  [[nodiscard]] uint64_t position() const { return position_; }

 private:
  MemoryImage& image_;
  uint64_t position_, tail_, sequence_;
};

// Sectors to be changed: a part of the table's region that no block uses.
constexpr uint64_t kTarget = kBat + 512 * 1024;

// Replays in memory and into the file, which must agree, and gives the sector at kTarget + at.
std::vector<std::byte> Replayed(const MemoryImage& dirty, uint64_t at = 0) {
  storage::OverlayReader overlay(dirty);
  const absl::Status in_memory = ReplayInMemory(dirty, overlay);
  EXPECT_TRUE(in_memory.ok()) << Message(in_memory);
  MemoryImage file;
  file.bytes = dirty.bytes;
  const absl::Status into_file = ReplayIntoFile(file, kOtherGuid);
  EXPECT_TRUE(into_file.ok()) << Message(into_file);
  std::vector<std::byte> seen(overlay.size());
  EXPECT_TRUE(overlay.Read(0, seen).ok());
  EXPECT_EQ(seen.size(), file.bytes.size());
  // Equal but for the headers.
  EXPECT_TRUE(std::equal(seen.begin() + static_cast<ptrdiff_t>(kRegionTableOffset[0]), seen.end(),
                         file.bytes.begin() + static_cast<ptrdiff_t>(kRegionTableOffset[0])));
  const auto header = ReadCurrentHeader(file);
  EXPECT_TRUE(header.ok() && !header->needs_replay());
  EXPECT_TRUE(header->header.file_write_guid == kOtherGuid) << "replay is a modification";
  const auto from = file.bytes.begin() + static_cast<ptrdiff_t>(kTarget + at);
  return {from, from + kLogSector};
}

TEST(VhdxLog, DataAndZeroesInOrder) {
  MemoryImage image = Made(Small());
  const auto a = Pattern(kLogSector, 1), b = Pattern(kLogSector, 2), c = Pattern(kLogSector, 3);
  LogWriter log(image);
  const LogUpdate first[] = {{kTarget, a, 0}, {kTarget + kLogSector, b, 0}};
  const LogUpdate second[] = {{kTarget, {}, kLogSector}, {kTarget + kLogSector, c, 0}};
  log.Append(first);
  log.Append(second);
  EXPECT_EQ(Replayed(image), std::vector<std::byte>(kLogSector));
  EXPECT_EQ(Replayed(image, kLogSector), c);
}

// 126 descriptors fit into the first sector, 128 into each other.
TEST(VhdxLog, ManyDescriptors) {
  for (const size_t count : {126u, 127u, 240u}) {
    MemoryImage image = Made(Small());
    const auto a = Pattern(kLogSector * count, 4);
    std::vector<LogUpdate> updates;
    for (size_t i = 0; i < count / 2; ++i) {
      updates.push_back(
          {kTarget + i * kLogSector, std::span(a).subspan(i * kLogSector, kLogSector), 0});
    }
    for (size_t i = count / 2; i < count; ++i) {
      updates.push_back({kBat + 256 * 1024, {}, kLogSector});
    }
    LogWriter log(image);
    log.Append(updates);
    const size_t last = (count / 2 - 1) * kLogSector;
    EXPECT_EQ(Replayed(image, last),
              std::vector<std::byte>(a.begin() + static_cast<ptrdiff_t>(last),
                                     a.begin() + static_cast<ptrdiff_t>(last + kLogSector)));
  }
}

// Entries wrap at the end of the log, also in the middle of one.
TEST(VhdxLog, Wraps) {
  const auto a = Pattern(kLogSector, 5), b = Pattern(kLogSector, 6);
  for (uint64_t from_end = 1; from_end <= 5; ++from_end) {
    MemoryImage image = Made(Small());
    LogWriter log(image, kMiB - from_end * kLogSector, 100);
    const LogUpdate first[] = {{kTarget, a, 0}}, second[] = {{kTarget + kLogSector, b, 0}};
    log.Append(first);
    log.Append(second);
    EXPECT_EQ(Replayed(image), a);
    EXPECT_EQ(Replayed(image, kLogSector), b);
  }
}

// Every cut of the newest entry: with all of it, it counts; with any sector missing, the older one
// does.
TEST(VhdxLog, ATornEntryEndsItsSequence) {
  const auto a = Pattern(kLogSector, 7), b = Pattern(kLogSector * 3, 8);
  for (int torn = 0; torn < 4; ++torn) {
    MemoryImage image = Made(Small());
    LogWriter log(image);
    const LogUpdate first[] = {{kTarget, a, 0}};
    LogUpdate second[3];
    for (size_t i = 0; i < 3; ++i)
      second[i] = {kTarget, std::span(b).subspan(i * kLogSector, kLogSector), 0};
    log.Append(first);
    const uint64_t at = log.Append(second);
    const uint64_t sector = kLogOffset + at + static_cast<uint64_t>(torn) * kLogSector;
    std::fill_n(image.bytes.begin() + static_cast<ptrdiff_t>(sector), kLogSector, std::byte{0});
    EXPECT_EQ(Replayed(image), a) << "sector " << torn;
  }
}

// What Windows writes: a first entry without descriptors, FlushedFileOffset 0, any first sequence
// number.
TEST(VhdxLog, AsWindowsBeginsALog) {
  MemoryImage image = Made(Small());
  LogWriter log(image, 8 * kLogSector, 0x123456789abcdef0);
  log.Append({}, [](LogEntryFields& f) { f.flushed_file_offset = 0; });
  const auto a = Pattern(kLogSector, 9);
  const LogUpdate update[] = {{kTarget, a, 0}};
  log.Append(update, [](LogEntryFields& f) { f.flushed_file_offset = 0; });
  EXPECT_EQ(Replayed(image), a);
}

// An entry as long as the log.
TEST(VhdxLog, AnEntryThatFillsTheLog) {
  MemoryImage image = Made(Small());
  constexpr size_t kUpdates = 254;  // two sectors of descriptors, and a data sector for each
  const auto a = Pattern(kLogSector, 10);
  std::vector<LogUpdate> updates(kUpdates, LogUpdate{kTarget, a, 0});
  ASSERT_EQ(LogEntrySize(updates.size(), updates.size()), kMiB);
  LogWriter log(image, 16 * kLogSector);
  log.Append(updates);
  EXPECT_EQ(Replayed(image), a);
}

// The sequence with the highest head counts, not the one that is found first or is the longest;
// entries before the head's tail are done with.
TEST(VhdxLog, TheHighestHeadAndItsTailDecide) {
  const auto old_bytes = Pattern(kLogSector, 11), a = Pattern(kLogSector, 12),
             b = Pattern(kLogSector, 13);
  MemoryImage image = Made(Small());
  const LogUpdate old_update[] = {{kTarget, old_bytes, 0}};
  LogWriter old_log(image, 0, 5);
  for (int i = 0; i < 5; ++i) old_log.Append(old_update);
  LogWriter log(image, 64 * kLogSector, 50);
  const LogUpdate first[] = {{kTarget, a, 0}}, second[] = {{kTarget + kLogSector, b, 0}};
  log.Append(first);
  log.set_tail(log.position());
  log.Append(second);
  EXPECT_EQ(Replayed(image), std::vector<std::byte>(kLogSector)) << "the first is before the tail";
  EXPECT_EQ(Replayed(image, kLogSector), b);
}

TEST(VhdxLog, WhatCannotBeReplayed) {
  const auto a = Pattern(kLogSector, 14);
  struct Case {
    const char* expected;
    std::function<void(MemoryImage&)> make;
  };
  const auto with = [&a](uint64_t target, std::function<void(LogEntryFields&)> change) {
    return [&a, target, change](MemoryImage& image) {
      const LogUpdate update[] = {{target, a, 0}};
      LogWriter(image).Append(update, change);
    };
  };
  const Case cases[] = {
      {"nothing that can be replayed", [](MemoryImage& i) { LogWriter log(i); }},
      {"nothing that can be replayed", with(kTarget, [](auto& f) { f.tail = 5 * kLogSector; })},
      {"nothing that can be replayed", with(kTarget, [](auto& f) { f.log_guid = kOtherGuid; })},
      {"nothing that can be replayed", with(kTarget, [](auto& f) { f.sequence = 0; })},
      {"was cut off", with(kTarget, [](auto& f) { f.flushed_file_offset += 1; })},
      {"must not", with(kHeaderOffset[0], nullptr)},
      {"must not", with(kLogOffset, nullptr)},
      {"must not", with(100 * kMiB, nullptr)},
      {"must not", with(~uint64_t{0} - kLogSector + 1, nullptr)},
      {"the log is damaged", with(kTarget, [](auto& f) { f.last_file_offset = ~uint64_t{0}; })},
  };
  for (const Case& c : cases) {
    MemoryImage image = Made(Small());
    c.make(image);
    EXPECT_NE(Refusal(image).find(c.expected), std::string::npos)
        << c.expected << ": " << Refusal(image);
    MemoryImage file;
    file.bytes = image.bytes;
    EXPECT_FALSE(ReplayIntoFile(file, kOtherGuid).ok());
  }
}

// The log says that the file was longer: it becomes so again.
TEST(VhdxLog, ExtendsTheFile) {
  MemoryImage image = Made(Small());
  const auto a = Pattern(kLogSector, 15);
  const LogUpdate update[] = {{kTarget, a, 0}};
  LogWriter(image).Append(update, [](LogEntryFields& f) { f.last_file_offset += 8 * kMiB; });
  const uint64_t before = image.size();
  storage::OverlayReader overlay(image);
  ASSERT_TRUE(ReplayInMemory(image, overlay).ok());
  EXPECT_EQ(overlay.size(), before + 8 * kMiB);
  EXPECT_EQ(Replayed(image), a);
}

// The power goes at every operation of a replay, in the middle of it: the next replay ends the
// same.
TEST(VhdxLog, AReplayThatIsCutOffIsDoneAgain) {
  MemoryImage image = Made(Small());
  const auto a = Pattern(kLogSector * 4, 16);
  LogWriter log(image);
  for (size_t i = 0; i < 4; ++i) {
    const LogUpdate update[] = {
        {kTarget + i * kLogSector, std::span(a).subspan(i * kLogSector, kLogSector), 0}};
    log.Append(update);
  }
  int cuts = 0;
  for (int fuse = 1;; ++fuse) {
    MemoryImage file;
    file.bytes = image.bytes;
    file.fuse = fuse;
    const bool whole = ReplayIntoFile(file, kOtherGuid).ok();
    file.fuse = -1;
    const absl::Status again = ReplayIntoFile(file, kOtherGuid);
    ASSERT_TRUE(again.ok()) << "fuse " << fuse << ": " << Message(again);
    ASSERT_TRUE(
        std::equal(a.begin(), a.end(), file.bytes.begin() + static_cast<ptrdiff_t>(kTarget)))
        << "fuse " << fuse;
    if (whole) break;
    ++cuts;
  }
  EXPECT_GE(cuts, 12) << "two header updates of two writes and flushes, four sectors, a flush";
}

// --- differencing disks ---

TEST(VhdxDifferencing, SectorsOfParentAndChild) {
  MemoryImage parent_image = Made([] {
    CreateOptions options = Small();
    options.fixed = true;
    return options;
  }());
  const auto of_parent = Pattern(4 * kMiB, 20), of_child = Pattern(kMiB, 21);
  std::copy(of_parent.begin(), of_parent.end(), parent_image.bytes.begin() + 4 * kMiB);
  const auto parent = VhdxReader::Open(parent_image, nullptr);
  ASSERT_TRUE(parent.ok());
  CreateOptions options = Small();
  options.disk_size = 6 * kMiB;  // larger than the parent: zeroes behind it
  options.parent = ParentReference{.data_write_guid = Small().data_write_guid,
                                   .relative_path =
                                       ".\\gr\xc3\xbc\xc3\x9f"
                                       "e.vhdx",
                                   .absolute_path = ""};
  MemoryImage image = Made(options);
  // Block 1 partially present, block 2 whole, block 3 zero; the others are the parent's.
  image.bytes.resize(7 * kMiB);
  const BatGeometry geometry([] {
    Metadata m;
    m.block_size = kMiB, m.disk_size = 6 * kMiB, m.logical_sector = 512, m.has_parent = true;
    return m;
  }());
  PutBat(image, geometry.PayloadEntry(1), uint64_t{4} << kBatOffsetShift | 7);
  PutBat(image, geometry.PayloadEntry(2), Present(5));
  PutBat(image, geometry.PayloadEntry(3), 2);
  PutBat(image, geometry.BitmapEntry(0), Present(6));
  std::copy(of_child.begin(), of_child.end(), image.bytes.begin() + 4 * kMiB);
  std::copy(of_child.begin(), of_child.end(), image.bytes.begin() + 5 * kMiB);
  std::vector<std::byte> expected = of_parent;
  expected.resize(6 * kMiB);
  std::mt19937 random(22);
  for (uint64_t sector = 0; sector < kMiB / 512; ++sector) {
    if (random() % 3 != 0) continue;
    const uint64_t bit = kMiB / 512 + sector;  // block 1 of its chunk
    image.bytes[6 * kMiB + bit / 8] |= static_cast<std::byte>(1u << (bit % 8));
    std::copy_n(of_child.begin() + static_cast<ptrdiff_t>(sector * 512), 512,
                expected.begin() + static_cast<ptrdiff_t>(kMiB + sector * 512));
  }
  std::copy(of_child.begin(), of_child.end(), expected.begin() + 2 * kMiB);
  std::fill_n(expected.begin() + 3 * kMiB, kMiB, std::byte{0});

  const auto child = VhdxReader::Open(image, parent->get());
  ASSERT_TRUE(child.ok()) << Message(child.status());
  std::vector<std::byte> content(6 * kMiB);
  ASSERT_TRUE((*child)->ReadDisk(0, content).ok());
  EXPECT_EQ(content, expected);
  for (int i = 0; i < 200; ++i) {  // parts, across blocks
    const uint64_t from = random() % 12000 * 512;
    std::vector<std::byte> part((1 + random() % std::min<uint64_t>(500, 12288 - from / 512)) * 512);
    ASSERT_TRUE((*child)->ReadDisk(from, part).ok());
    ASSERT_TRUE(
        std::equal(part.begin(), part.end(), expected.begin() + static_cast<ptrdiff_t>(from)));
  }
  const auto& locator = (*child)->layout().metadata.parent.values;
  EXPECT_EQ(locator.at("relative_path"),
            ".\\gr\xc3\xbc\xc3\x9f"
            "e.vhdx");
  EXPECT_EQ(locator.at("parent_linkage"), "{00000000-0000-0000-0000-000000000002}");
  const auto orphan = VhdxReader::Open(image, nullptr);
  ASSERT_TRUE(orphan.ok());
  std::byte sector[512];
  EXPECT_TRUE(absl::IsFailedPrecondition((*orphan)->ReadDisk(0, sector)));
  EXPECT_TRUE((*orphan)->ReadDisk(2 * kMiB, sector).ok()) << "what is the child's own";
}

// --- the oracle ---

class QemuImg : public ::testing::Test {
 protected:
  void SetUp() override {
    if (system("command -v qemu-img > /dev/null") != 0) {
      GTEST_SKIP() << "qemu-img is missing (package qemu-utils)";
    }
    std::string name = (std::filesystem::temp_directory_path() / "partita-vhdx-XXXXXX").string();
    directory_ = mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  [[nodiscard]] std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  static bool Run(const std::string& command) {
    return system((command + " > /dev/null").c_str()) == 0;
  }
  std::string directory_;
};

void WriteFile(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}
MemoryImage ReadImage(const std::string& path) {
  MemoryImage image;
  image.bytes.resize(std::filesystem::file_size(path));
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(image.bytes.data()),
            static_cast<std::streamsize>(image.bytes.size()));
  return image;
}

TEST_F(QemuImg, FindsNothingWrongWithWhatWeMake) {
  for (const bool fixed : {false, true}) {
    CreateOptions options = Small();
    options.fixed = fixed;
    options.disk_size = 5 * kMiB + 512 * 3;
    WriteFile(Path("made.vhdx"), Made(options).bytes);
    EXPECT_TRUE(Run("qemu-img check -f vhdx " + Path("made.vhdx")));
    EXPECT_TRUE(Run("qemu-img convert -f vhdx -O raw " + Path("made.vhdx") + " " + Path("raw")));
    EXPECT_EQ(std::filesystem::file_size(Path("raw")), options.disk_size);
  }
}

TEST_F(QemuImg, WhatItWritesWeRead) {
  // Data, zeroes, and data that ends within a block.
  std::vector<std::byte> raw = Pattern(9 * kMiB + 512, 30);
  std::fill_n(raw.begin() + 2 * kMiB, 3 * kMiB, std::byte{0});
  WriteFile(Path("raw"), raw);
  for (const char* how : {"subformat=dynamic,block_size=1M", "subformat=dynamic,block_size=8M",
                          "subformat=fixed,block_size=1M"}) {
    ASSERT_TRUE(Run("qemu-img convert -f raw -O vhdx -o " + std::string(how) + " " + Path("raw") +
                    " " + Path("theirs.vhdx")));
    const MemoryImage image = ReadImage(Path("theirs.vhdx"));
    const auto reader = VhdxReader::Open(image, nullptr);
    ASSERT_TRUE(reader.ok()) << how << ": " << Message(reader.status());
    std::vector<std::byte> content((*reader)->disk_size());
    ASSERT_TRUE((*reader)->ReadDisk(0, content).ok());
    EXPECT_EQ(content, raw) << how;
  }
}

// A log that we wrote is replayed by qemu-img to the same table.
TEST_F(QemuImg, ReplaysWhatOurGeneratorWrites) {
  MemoryImage image = Made(Small());
  image.bytes.resize(5 * kMiB);
  const auto block = Pattern(kMiB, 31);
  std::copy(block.begin(), block.end(), image.bytes.begin() + 4 * kMiB);
  std::vector<std::byte> table(kLogSector);
  const uint64_t entry = Present(4);
  std::memcpy(table.data() + 8, &entry, sizeof(entry));  // block 1
  const LogUpdate update[] = {{kBat, table, 0}};
  LogWriter(image).Append(update);
  WriteFile(Path("dirty.vhdx"), image.bytes);
  ASSERT_TRUE(Run("qemu-img check -r all -f vhdx " + Path("dirty.vhdx")));
  const MemoryImage theirs = ReadImage(Path("dirty.vhdx"));
  const auto reader = VhdxReader::Open(theirs, nullptr), ours = VhdxReader::Open(image, nullptr);
  ASSERT_TRUE(reader.ok() && ours.ok());
  EXPECT_FALSE((*reader)->was_dirty());
  EXPECT_TRUE((*ours)->was_dirty());
  std::vector<std::byte> a(4 * kMiB), b(4 * kMiB);
  ASSERT_TRUE((*reader)->ReadDisk(0, a).ok() && (*ours)->ReadDisk(0, b).ok());
  EXPECT_EQ(a, b);
  EXPECT_TRUE(std::equal(block.begin(), block.end(), a.begin() + kMiB));
}

}  // namespace
}  // namespace partita::vhdx
