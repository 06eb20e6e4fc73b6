// A VHDX image under a guest's I/O: the same bytes as a flat disk, also after every power cut, and
// images that others open.
#include "vsp/storage/block/vhdx/vhdx_disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include "tests/fakes/crash_store.h"
#include "vsp/storage/block/open_image.h"
#include "vsp/storage/block/sync_disk.h"
#include "vsp/storage/block/vhdx/create.h"
#include "vsp/storage/block/vhdx/log.h"
#include "vsp/storage/block/vhdx/vhdx_reader.h"

namespace partita::vhdx {
namespace {

using storage::BlockOp;
using storage::CrashStore;
using storage::MemoryImage;
using storage::SyncDisk;

constexpr uint64_t kSector = 512;
using Bytes = std::vector<std::byte>;

CreateOptions Small(uint64_t mib = 6) {
  CreateOptions options;
  options.disk_size = mib * kMiB + 3 * 4096;
  options.block_size = kMiB;
  options.data_write_guid = ParseGuid("00000000-0000-0000-0000-00000000000a");
  options.disk_id = ParseGuid("00000000-0000-0000-0000-000000000003");
  return options;
}
ParentReference ChildOf(const CreateOptions& parent) {
  return {
      .data_write_guid = parent.data_write_guid, .relative_path = ".\\p.vhdx", .absolute_path = ""};
}

Bytes Pattern(size_t size, uint32_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (size_t at = 0; at + 8 <= size; at += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + at, &word, 8);
  }
  return bytes;
}

// Files with images, as the worker gets them.
class Files {
 public:
  // Its number.
  size_t Add(const CreateOptions& options) {
    fds_.emplace_back(memfd_create("image", MFD_CLOEXEC));
    auto file = storage::DescriptorFile::Create(fds_.back().get());
    const absl::Status made = file.ok() ? Create(*file, options) : file.status();
    EXPECT_TRUE(made.ok()) << Message(made);
    return fds_.size() - 1;
  }
  [[nodiscard]] int fd(size_t number) const { return fds_[number].get(); }
  [[nodiscard]] std::string Path(size_t number) const {
    return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fd(number));
  }
  // `chain`: the disk first.
  [[nodiscard]] absl::StatusOr<std::unique_ptr<storage::BlockBackend>> Open(
      const std::vector<size_t>& chain, bool read_only = false) const {
    std::vector<UniqueFd> fds;
    for (const size_t number : chain) fds.emplace_back(fcntl(fd(number), F_DUPFD_CLOEXEC, 0));
    return storage::OpenImage(std::move(fds),
                              {.format = storage::ImageFormat::kVhdx, .read_only = read_only});
  }
  // By the other reader, which knows nothing of the disk's tables.
  [[nodiscard]] Bytes Content(const std::vector<size_t>& chain) const {
    std::vector<std::unique_ptr<storage::DescriptorFile>> files;
    std::vector<std::unique_ptr<VhdxReader>> readers;
    for (size_t i = chain.size(); i-- > 0;) {
      files.push_back(std::make_unique<storage::DescriptorFile>(
          *storage::DescriptorFile::Create(fd(chain[i]))));
      auto reader =
          VhdxReader::Open(*files.back(), readers.empty() ? nullptr : readers.back().get());
      EXPECT_TRUE(reader.ok()) << Message(reader.status());
      if (!reader.ok()) return {};
      readers.push_back(*std::move(reader));
    }
    Bytes content(readers.back()->disk_size());
    EXPECT_TRUE(readers.back()->ReadDisk(0, content).ok());
    return content;
  }

 private:
  std::vector<UniqueFd> fds_;
};

std::unique_ptr<SyncDisk> Queue(storage::BlockBackend& disk) {
  auto queue = SyncDisk::Open(disk);
  EXPECT_TRUE(queue.ok()) << Message(queue.status());
  return *std::move(queue);
}

bool QemuImg(const std::string& arguments) {
  return system(("qemu-img " + arguments + " > /dev/null 2>&1").c_str()) == 0;
}
bool HaveQemuImg() { return system("command -v qemu-img > /dev/null") == 0; }

// Random reads, writes, zeroes and discards, with reopening, on every kind of image.
class VhdxDiskProperty : public ::testing::TestWithParam<int> {};

TEST_P(VhdxDiskProperty, IsAFlatDisk) {
  const bool fixed = GetParam() == 1, differencing = GetParam() >= 2;
  const uint32_t sector = GetParam() == 3 ? 4096 : 512;
  Files files;
  std::vector<size_t> chain;
  Bytes flat;
  CreateOptions options = Small();
  options.logical_sector = sector;
  options.fixed = fixed;
  if (differencing) {
    CreateOptions parent = options;
    parent.disk_size -= kMiB;  // smaller than its child
    chain.push_back(files.Add(parent));
    {
      // A parent that has a block, lacks one, has one, ...; its own identity is kept by hand.
      const auto disk = files.Open(chain);
      ASSERT_TRUE(disk.ok()) << Message(disk.status());
      for (uint64_t at = 0; at < parent.disk_size; at += 2 * kMiB) {
        const Bytes data =
            Pattern(std::min(kMiB, parent.disk_size - at), static_cast<uint32_t>(at));
        ASSERT_EQ(Queue(**disk)->Write(at, data), 0);
      }
    }
    const auto file = storage::DescriptorFile::Create(files.fd(chain[0]));
    const auto header = ReadCurrentHeader(*file);
    ASSERT_TRUE(header.ok());
    options.parent = ParentReference{.data_write_guid = header->header.data_write_guid,
                                     .relative_path = "p",
                                     .absolute_path = ""};
    flat = files.Content(chain);
  }
  chain.insert(chain.begin(), files.Add(options));
  flat.resize(options.disk_size);
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  auto disk = files.Open(chain);
  ASSERT_TRUE(disk.ok()) << Message(disk.status());
  auto queue = Queue(**disk);
  for (int step = 0; step < 400; ++step) {
    const uint64_t sectors = flat.size() / sector;
    const uint64_t most = random() % 8 == 0 ? 3 * kMiB / sector : 40;
    const uint64_t first = random() % 4 == 0 ? random() % 6 * (kMiB / sector) : random() % sectors;
    const uint64_t count = std::min(sectors - first, 1 + random() % most);
    const uint64_t offset = first * sector, length = count * sector;
    const auto range = std::span(flat).subspan(offset, length);
    switch (random() % 10) {
      case 0:
      case 1:
      case 2: {
        Bytes data = Pattern(length, static_cast<uint32_t>(random()));
        ASSERT_EQ(queue->Write(offset, data, random() % 8 == 0), 0);
        std::copy(data.begin(), data.end(), range.begin());
        break;
      }
      case 3: {
        const BlockOp op = random() % 2 == 0 ? BlockOp::kDiscard : BlockOp::kWriteZeroes;
        ASSERT_EQ(queue->Zero(op, offset, length), 0);
        std::fill(range.begin(), range.end(), std::byte{0});
        break;
      }
      case 4:
        ASSERT_EQ(queue->Flush(), 0);
        break;
      default: {
        Bytes seen(length, std::byte{0x77});
        ASSERT_EQ(queue->Read(offset, seen), 0);
        ASSERT_TRUE(std::equal(seen.begin(), seen.end(), range.begin())) << "step " << step;
      }
    }
    if (step % 100 == 99) {
      queue.reset();
      disk->reset();
      ASSERT_EQ(files.Content(chain), flat) << "closed after step " << step;
      disk = files.Open(chain);
      ASSERT_TRUE(disk.ok()) << Message(disk.status());
      queue = Queue(**disk);
    }
  }
  queue.reset();
  disk->reset();
  if (HaveQemuImg() && !differencing) {
    EXPECT_TRUE(QemuImg("check -f vhdx " + files.Path(chain[0])));
  }
}
INSTANTIATE_TEST_SUITE_P(Kinds, VhdxDiskProperty, ::testing::Values(0, 1, 2, 3));

// Several channels on one disk: each writes every fourth sector of the same blocks, flushes in
// between, and sees what it wrote.
TEST(VhdxDiskTest, ChannelsShareADisk) {
  Files files;
  CreateOptions base = Small();
  const size_t parent = files.Add(base);
  CreateOptions options = Small();
  options.parent = ChildOf(base);
  const std::vector<size_t> chain = {files.Add(options), parent};
  auto disk = files.Open(chain);
  ASSERT_TRUE(disk.ok()) << Message(disk.status());
  constexpr uint64_t kChannels = 3, kSectors = 3000;
  std::vector<std::thread> channels;
  for (uint64_t channel = 0; channel < kChannels; ++channel) {
    channels.emplace_back([&disk, channel] {
      const auto queue = Queue(**disk);
      const Bytes data(kSector, static_cast<std::byte>(channel + 1));
      for (uint64_t sector = channel; sector < kSectors; sector += 4) {
        ASSERT_EQ(queue->Write(sector * kSector * 3, data), 0);
        if (sector % 64 < 4) {
          ASSERT_EQ(queue->Flush(), 0);
        }
        Bytes seen(kSector);
        ASSERT_EQ(queue->Read(sector * kSector * 3, seen), 0);
        ASSERT_EQ(seen, data);
      }
    });
  }
  for (std::thread& channel : channels) channel.join();
  disk->reset();
  const Bytes content = files.Content(chain);
  for (uint64_t sector = 0; sector < kSectors; ++sector) {
    const std::byte expected{static_cast<uint8_t>(sector % 4 < kChannels ? sector % 4 + 1 : 0)};
    ASSERT_EQ(content[sector * kSector * 3], expected) << sector;
  }
}

// Who opens an image and changes nothing leaves every byte as it was; the first change gives the
// file new identities, and closing ends the log.
TEST(VhdxDiskTest, IdentitiesChangeWithTheFirstChange) {
  Files files;
  const std::vector<size_t> chain = {files.Add(Small())};
  const auto header = [&] {
    const auto file = storage::DescriptorFile::Create(files.fd(chain[0]));
    return *ReadCurrentHeader(*file);
  };
  const CurrentHeader made = header();
  Bytes sector(kSector);
  {
    const auto disk = files.Open(chain);
    ASSERT_TRUE(disk.ok());
    const auto queue = Queue(**disk);
    ASSERT_EQ(queue->Read(0, sector), 0);
    ASSERT_EQ(queue->Flush(), 0);
  }
  EXPECT_EQ(header().header.sequence, made.header.sequence);
  {
    const auto disk = files.Open(chain);
    const auto queue = Queue(**disk);
    ASSERT_EQ(queue->Write(0, sector), 0);
    EXPECT_TRUE(header().needs_replay()) << "a log stands before anything is changed";
    EXPECT_FALSE(header().header.file_write_guid == made.header.file_write_guid);
    EXPECT_FALSE(header().header.data_write_guid == made.header.data_write_guid);
  }
  EXPECT_FALSE(header().needs_replay());
}

TEST(VhdxDiskTest, WhatDoesNotFitTogetherIsRefused) {
  Files files;
  CreateOptions base = Small();
  const size_t parent = files.Add(base);
  CreateOptions options = Small();
  options.parent = ChildOf(base);
  const size_t child = files.Add(options);
  base.data_write_guid = ParseGuid("00000000-0000-0000-0000-00000000000b");
  const size_t stranger = files.Add(base);
  const auto refusal = [&](const std::vector<size_t>& chain) {
    return std::string(Message(files.Open(chain).status()));
  };
  EXPECT_EQ(refusal({child, parent}), "");
  EXPECT_NE(refusal({child}).find("parent of a differencing disk is missing"), std::string::npos);
  EXPECT_NE(refusal({child, stranger}).find("the parent was changed"), std::string::npos);
  EXPECT_NE(refusal({parent, stranger}).find("no differencing disk"), std::string::npos);
  EXPECT_NE(refusal(std::vector<size_t>(65, child)).find("more than 64"), std::string::npos);
  auto disk = files.Open({parent}, true);
  ASSERT_TRUE(disk.ok());
  EXPECT_EQ(Queue(**disk)->Write(0, Bytes(kSector)), EROFS);
}

// A chain of 64 files; each ninth has a sector of its own.
TEST(VhdxDiskTest, TheLongestChain) {
  Files files;
  std::vector<size_t> chain;
  CreateOptions options = Small();
  for (size_t i = 0; i < VhdxDisk::kMaxChain; ++i) {
    chain.insert(chain.begin(), files.Add(options));
    if (i % 9 == 0) {
      auto disk = files.Open(chain);
      ASSERT_TRUE(disk.ok()) << i << Message(disk.status());
      const Bytes data(kSector, static_cast<std::byte>(i + 1));
      ASSERT_EQ(Queue(**disk)->Write(i * kSector, data), 0);
    }
    const auto file = storage::DescriptorFile::Create(files.fd(chain[0]));
    options.parent =
        ParentReference{.data_write_guid = ReadCurrentHeader(*file)->header.data_write_guid,
                        .relative_path = "p",
                        .absolute_path = ""};
  }
  auto disk = files.Open(chain, true);
  ASSERT_TRUE(disk.ok()) << Message(disk.status());
  Bytes seen(66 * kSector);
  ASSERT_EQ(Queue(**disk)->Read(0, seen), 0);
  for (size_t i = 0; i < 66; ++i) {
    EXPECT_EQ(seen[i * kSector], static_cast<std::byte>(i % 9 == 0 && i < 64 ? i + 1 : 0)) << i;
  }
}

// --- with the power cut ---

// One disk over a CrashStore, and what a guest may expect of each sector after a cut.
class Crash {
 public:
  explicit Crash(CreateOptions options, bool differencing) : sectors_(options.disk_size / kSector) {
    if (differencing) {
      // The parent: stamps everywhere.
      CreateOptions fixed = options;
      fixed.fixed = true;
      EXPECT_TRUE(Create(parent_.image, fixed).ok());
      const uint64_t at = parent_.image.size() - (options.disk_size + kMiB - 1) / kMiB * kMiB;
      for (uint64_t sector = 0; sector < sectors_.size(); ++sector) {
        Stamp(std::span(parent_.image.bytes).subspan(at + sector * kSector, kSector), 1);
        sectors_[sector] = {1};
      }
      options.parent = ChildOf(options);
    } else {
      for (auto& allowed : sectors_) allowed = {0};
    }
    EXPECT_TRUE(Create(store.image, options).ok());
    base_.bytes = store.image.bytes;
    std::vector<storage::MappedFile> chain;
    chain.push_back(store.Open());
    if (differencing) chain.push_back(parent_.Open());
    auto disk = VhdxDisk::Open(std::move(chain), false);
    EXPECT_TRUE(disk.ok()) << Message(disk.status());
    disk_ = *std::move(disk);
    queue_ = Queue(*disk_);
  }

  void Write(uint64_t first, uint64_t count) {
    const uint64_t stamp = ++stamp_;
    Bytes data(count * kSector);
    for (uint64_t i = 0; i < count; ++i)
      Stamp(std::span(data).subspan(i * kSector, kSector), stamp);
    Mark({.first = first, .count = count, .stamp = stamp});
    ASSERT_EQ(queue_->Write(first * kSector, data), 0);
  }
  void Zero(BlockOp op, uint64_t first, uint64_t count) {
    Mark({.first = first, .count = count, .stamp = 0});
    ASSERT_EQ(queue_->Zero(op, first * kSector, count * kSector), 0);
  }
  void Flush() {
    ASSERT_EQ(queue_->Flush(), 0);
    Mark({.flushed = true});
  }
  int TryWrite(uint64_t first, uint64_t count) {
    return queue_->Write(first * kSector, Bytes(count * kSector));
  }
  int TryFlush() { return queue_->Flush(); }
  void Close() {
    queue_.reset();
    disk_.reset();
    Mark({.flushed = true});
  }

  // Cuts the power behind every event, in several ways each. Returns how many cuts there were.
  size_t CutEverywhere(uint32_t seed, size_t ways) {
    std::mt19937 random(seed);
    size_t cuts = 0;
    size_t epoch = 0;  // the first event that no flush covers
    for (size_t i = 0; i < store.events.size() && !::testing::Test::HasFailure(); ++i) {
      const CrashStore::Event& event = store.events[i];
      if (event.kind == CrashStore::Event::Kind::kFlush) {
        for (; epoch <= i; ++epoch) EXPECT_TRUE(CrashStore::Apply(base_, store.events[epoch]).ok());
        continue;
      }
      if (event.kind == CrashStore::Event::Kind::kMark) {
        Take(marks_[event.offset]);
        continue;
      }
      for (size_t way = 0; way < ways; ++way, ++cuts) Cut(epoch, i, way, random);
    }
    return cuts;
  }

  CrashStore store;

 private:
  struct MarkOf {
    uint64_t first = 0, count = 0, stamp = 0;
    bool flushed = false;
  };
  static void Stamp(std::span<std::byte> sector, uint64_t stamp) {
    for (size_t at = 0; at < kSector; at += sizeof(stamp)) {
      std::memcpy(sector.data() + at, &stamp, sizeof(stamp));
    }
  }
  void Mark(const MarkOf& mark) {
    marks_.push_back(mark);
    store.Record(
        {.kind = CrashStore::Event::Kind::kMark, .offset = marks_.size() - 1, .bytes = {}});
  }
  void Take(const MarkOf& mark) {
    for (uint64_t s = mark.first; s < mark.first + mark.count; ++s) {
      sectors_[s].push_back(mark.stamp);
      touched_.insert(s);
    }
    if (!mark.flushed) return;
    for (const uint64_t s : touched_) sectors_[s] = {sectors_[s].back()};
  }

  // Of the events from `epoch` to `last`, some arrive: all, all but one, the last alone, or any;
  // the last one may be torn.
  void Cut(size_t epoch, size_t last, size_t way, std::mt19937& random) {
    std::vector<std::pair<uint64_t, Bytes>> undo;
    const uint64_t size = base_.size();
    const size_t dropped = epoch + random() % (last - epoch + 1);
    for (size_t i = epoch; i <= last; ++i) {
      const bool arrives = way == 0   ? true
                           : way == 1 ? i != dropped
                           : way == 2 ? i == last
                                      : random() % 2 == 0;
      const CrashStore::Event& event = store.events[i];
      if (!arrives || event.kind == CrashStore::Event::Kind::kMark) continue;
      const uint64_t length = std::max<uint64_t>(event.length, event.bytes.size());
      if (event.kind != CrashStore::Event::Kind::kExtend && event.offset < base_.size()) {
        const auto part = std::span(base_.bytes)
                              .subspan(event.offset, std::min(length, base_.size() - event.offset));
        undo.emplace_back(event.offset, Bytes(part.begin(), part.end()));
      }
      const bool torn = way > 2 && i == last;
      const size_t keep = torn ? random() % (event.bytes.size() / kSector + 1) * kSector : SIZE_MAX;
      ASSERT_TRUE(CrashStore::Apply(base_, event, keep).ok());
    }
    Check("cut behind event " + std::to_string(last) + ", way " + std::to_string(way));
    for (size_t i = undo.size(); i-- > 0;) {
      std::copy(undo[i].second.begin(), undo[i].second.end(),
                base_.bytes.begin() + static_cast<ptrdiff_t>(undo[i].first));
    }
    base_.bytes.resize(size);
  }

  void Check(const std::string& where) {
    if (parent_.image.size() > 0 && parent_reader_ == nullptr) {
      parent_reader_ = *VhdxReader::Open(parent_.image, nullptr);
    }
    const auto reader = VhdxReader::Open(base_, parent_reader_.get());
    ASSERT_TRUE(reader.ok()) << where << ": " << Message(reader.status());
    for (const uint64_t s : touched_) {
      for (const uint64_t sector : {s, std::min<uint64_t>(s + 1, sectors_.size() - 1)}) {
        std::array<uint64_t, kSector / 8> seen{};
        ASSERT_TRUE(
            (*reader)->ReadDisk(sector * kSector, std::as_writable_bytes(std::span(seen))).ok());
        const auto& allowed = sectors_[sector];
        ASSERT_NE(std::find(allowed.begin(), allowed.end(), seen[0]), allowed.end())
            << where << ": sector " << sector << " has stamp " << seen[0] << " and not "
            << allowed.front() << " or " << allowed.size() - 1 << " younger ones";
      }
    }
  }

  CrashStore parent_;
  std::unique_ptr<VhdxReader> parent_reader_;
  std::vector<std::vector<uint64_t>> sectors_;  // what each may be; the first was flushed
  std::set<uint64_t> touched_;
  MemoryImage base_;  // what no cut can take any more
  std::vector<MarkOf> marks_;
  uint64_t stamp_ = 1;
  std::unique_ptr<VhdxDisk> disk_;
  std::unique_ptr<SyncDisk> queue_;
};

// Nothing that was flushed is lost and nothing that was not is anything but old or new, wherever
// the power is cut, in whatever order what was not flushed arrives, torn in any sector.
class VhdxCrash : public ::testing::TestWithParam<bool> {};

TEST_P(VhdxCrash, WhatWasFlushedIsThereWhateverIsCut) {
  Crash crash(Small(3), GetParam());
  std::mt19937 random(7);
  constexpr uint64_t kInBlock = kMiB / kSector;
  constexpr uint64_t kPlaces[] = {0, 5, kInBlock - 2, kInBlock, 2 * kInBlock - 1, 3 * kInBlock + 7};
  for (int step = 0; step < 90; ++step) {
    const uint64_t place = kPlaces[random() % std::size(kPlaces)];
    switch (random() % 8) {
      case 0:
        crash.Zero(BlockOp::kDiscard, random() % 3 * kInBlock, kInBlock);
        break;
      case 1:
        crash.Zero(random() % 2 == 0 ? BlockOp::kDiscard : BlockOp::kWriteZeroes, place, 3);
        break;
      case 2:
      case 3:
      case 4:
        crash.Flush();
        break;
      default:
        crash.Write(place, 1 + random() % 4);
    }
    if (HasFatalFailure()) return;
  }
  crash.Close();
  EXPECT_GT(crash.CutEverywhere(1, 6), 400u);
}
INSTANTIATE_TEST_SUITE_P(Kinds, VhdxCrash, ::testing::Bool());

// The ring goes round many times, with entries of every length that it allows; after each one the
// newest is found, and it needs no more than the one before it.
TEST(VhdxLogRing, GoesRound) {
  MemoryImage image;
  ASSERT_TRUE(Create(image, Small()).ok());
  const auto current = ReadCurrentHeader(image);
  ASSERT_TRUE(current.ok());
  CurrentHeader header = *current;
  header.header.log_guid = ParseGuid("11111111-2222-3333-4444-555555555555");
  LogRing ring(header.log(), header.header.log_guid);
  ASSERT_LE(LogEntrySize(ring.capacity(), ring.capacity()), header.log().length / 2);
  std::mt19937 random(3);
  const Bytes sector = Pattern(kLogSector, 4);
  for (uint64_t round = 1; round <= 60; ++round) {
    const size_t count = round == 1 ? 0 : round % 3 == 0 ? ring.capacity() : random() % 100;
    const std::vector<LogUpdate> updates(count, {3 * kMiB, sector, 0});
    for (const LogRing::Write& write : ring.Append(updates, image.size(), image.size())) {
      ASSERT_TRUE(write.offset >= header.log().offset &&
                  write.offset + write.bytes.size() <= header.log().end());
      ASSERT_TRUE(image.Write(write.offset, write.bytes).ok());
    }
    const auto entries = FindActiveSequence(image, header);
    ASSERT_TRUE(entries.ok()) << round << ": " << Message(entries.status());
    EXPECT_EQ(entries->back().header.sequence, round);
    EXPECT_EQ(entries->size(), round == 1 ? 1u : 2u) << round;
  }
}

TEST(VhdxDiskTest, DirectIsRefusedByName) {
  Files files;
  std::vector<UniqueFd> chain;
  chain.emplace_back(fcntl(files.fd(files.Add(Small())), F_DUPFD_CLOEXEC, 0));
  const auto disk =
      storage::OpenImage(std::move(chain), {.format = storage::ImageFormat::kVhdx, .direct = true});
  EXPECT_NE(std::string(Message(disk.status())).find("cache=none"), std::string::npos);
}

// What a flush of the guest costs: one of the host where nothing or only the table changed, two
// where a differencing disk names sectors that have to be durable first.
TEST(VhdxDiskTest, FlushesOfTheHost) {
  for (const bool differencing : {false, true}) {
    Crash crash(Small(3), differencing);
    crash.Write(0, 1);
    const uint64_t flushed_before = crash.store.flushes;
    crash.Flush();
    EXPECT_EQ(crash.store.flushes - flushed_before, differencing ? 2u : 1u) << "a new block";
    crash.Write(0, 1);
    crash.Flush();
    EXPECT_EQ(crash.store.flushes - flushed_before, differencing ? 3u : 2u) << "one that is there";
  }
}

// No room on the host: the guest's write fails as such, may come again, and then arrives; a flush
// in between does not fail.
TEST(VhdxDiskTest, AFullHostDisk) {
  for (const bool differencing : {false, true}) {
    Crash crash(Small(3), differencing);
    crash.Write(0, 1);
    crash.store.full = true;
    EXPECT_EQ(crash.TryWrite(5000, 2), ENOSPC);
    EXPECT_EQ(crash.TryWrite(2, 1), ENOSPC);
    crash.store.full = false;
    crash.Flush();
    crash.Write(5000, 2);
    crash.Write(2, 1);
    crash.Flush();
    crash.Close();
    crash.CutEverywhere(2, 1);
  }
}

// After a flush that failed none succeeds, and closing leaves the log for the next opening.
TEST(VhdxDiskTest, AFailedFlushIsFinal) {
  Crash crash(Small(3), false);
  crash.Write(0, 1);
  crash.Flush();
  crash.Write(5000, 1);
  crash.store.flush_error = EIO;
  EXPECT_EQ(crash.TryFlush(), EIO);
  crash.store.flush_error = 0;
  EXPECT_EQ(crash.TryFlush(), EIO);
  crash.Close();
  EXPECT_TRUE(ReadCurrentHeader(crash.store.image)->needs_replay());
}

}  // namespace
}  // namespace partita::vhdx
