// The whole storage path without a hypervisor: the vsc driver at one end, VMBus between, the SCSI
// controller and a real file at the other.
#include "vsp/storage/storage_vsp.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsc/storage_vsc.h"
#include "vsp/storage/fault_backend.h"
#include "vsp/storage/raw_file.h"
#include "vsp/storage/recording_backend.h"
#include "vsp/storage/storage_test_base.h"

namespace partita::storage {
namespace {

class TwoDisksTest : public StorageTest {
 protected:
  void SetUp() override { Build(2); }
};

TEST_F(StorageTest, BytesGoThroughAndBack) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  EXPECT_EQ(driver->max_subchannels(), 2);
  vsc::DiskGeometry geometry;
  ASSERT_EQ(driver->ReadCapacity(0, partition.Allocate(4096), &geometry), Result::kOk);
  EXPECT_EQ(geometry.blocks * geometry.block_size, kDiskSize);
  // Offsets and lengths that cross pages, batched; then read back into other memory.
  constexpr uint32_t kSizes[] = {512, 4096, 65536, 262144, 1024, 8192};
  std::vector<std::byte*> written, read;
  uint64_t lba = 3;
  for (const bool write : {true, false}) {
    lba = 3;
    uint64_t tag = 1;
    for (const uint32_t size : kSizes) {
      std::byte* buffer = partition.Allocate(size + 4096) + 512;  // not at a page's start
      if (write) {
        for (uint32_t i = 0; i < size; ++i) buffer[i] = static_cast<std::byte>(i * 31 + size + lba);
      }
      (write ? written : read).push_back(buffer);
      ASSERT_EQ(driver->SubmitReadWrite(primary, 0, write, lba, size / 512, buffer, size, tag++),
                Result::kOk);
      lba += size / 512;
    }
    primary.Commit();
    for (const Completion& c : Collect(primary, std::size(kSizes))) EXPECT_TRUE(c.ok) << c.tag;
  }
  uint64_t offset = uint64_t{3} * 512;
  for (size_t i = 0; i < std::size(kSizes); ++i) {
    EXPECT_EQ(std::memcmp(written[i], read[i], kSizes[i]), 0) << kSizes[i];
    std::vector<std::byte> on_disk(kSizes[i]);
    ASSERT_EQ(pread(files[0].get(), on_disk.data(), kSizes[i], static_cast<off_t>(offset)),
              static_cast<ssize_t>(kSizes[i]));
    EXPECT_EQ(std::memcmp(written[i], on_disk.data(), kSizes[i]), 0) << kSizes[i];
    offset += kSizes[i];
  }
}

TEST_F(StorageTest, IoBeforeInitialisationIsRefused) {
  Completion completion;
  const std::array<uint8_t, 6> test_unit_ready{};
  ASSERT_EQ(driver->Execute(0, test_unit_ready, {}, true, &completion), Result::kOk);
  EXPECT_FALSE(completion.ok);
  EXPECT_EQ(driver->Initialize(), Result::kOk);
  ASSERT_EQ(driver->Execute(0, test_unit_ready, {}, true, &completion), Result::kOk);
  EXPECT_TRUE(completion.ok);
}

TEST_F(StorageTest, AbsentLunsSayItInTheData) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  std::byte* page = partition.Allocate(4096);
  Completion completion;
  const std::array<uint8_t, 6> inquiry = {0x12, 0, 0, 0, 36};
  ASSERT_EQ(driver->Execute(5, inquiry, {page, 36}, true, &completion), Result::kOk);
  EXPECT_TRUE(completion.ok);  // Linux takes every INQUIRY for a success
  EXPECT_EQ(page[0], std::byte{0x7F});
  const std::array<uint8_t, 6> test_unit_ready{};
  ASSERT_EQ(driver->Execute(5, test_unit_ready, {}, true, &completion), Result::kOk);
  EXPECT_EQ(completion.srb_status, vmbus::storage::kSrbInvalidLun);
  const std::array<uint8_t, 12> report = {0xA0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0};
  ASSERT_EQ(driver->Execute(0, report, {page, 4096}, true, &completion), Result::kOk);
  EXPECT_EQ(completion.transferred, 16u);
}

TEST_F(StorageTest, SubChannelsCarryIo) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  EXPECT_NE(driver->RequestSubChannels(3), Result::kOk);  // more than offered
  ASSERT_EQ(driver->RequestSubChannels(2), Result::kOk);
  for (uint16_t i = 1; i <= 2; ++i) {
    vmbus::client::Channel channel;
    OpenChannel(channel, i);
    std::byte* buffer = partition.Allocate(4096);
    ASSERT_EQ(driver->SubmitReadWrite(channel, 0, true, uint64_t{i} * 8, 8, buffer, 4096, 1),
              Result::kOk);
    channel.Commit();
    EXPECT_TRUE(Collect(channel, 1).at(0).ok);
    ASSERT_EQ(channel.Close(connection), Result::kOk);
  }
}

size_t Threads() {
  size_t threads = 0;
  for ([[maybe_unused]] const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    ++threads;
  }
  return threads;
}

// Asking again and again brings no more channels, and neither does closing and opening.
TEST_F(StorageTest, AFloodOfSubChannelRequests) {
  const size_t before = Threads();
  for (int open = 0; open < 20; ++open) {
    ASSERT_EQ(driver->Initialize(), Result::kOk);
    ASSERT_EQ(driver->RequestSubChannels(2), Result::kOk);
    for (int i = 0; i < 500; ++i) ASSERT_NE(driver->RequestSubChannels(2), Result::kOk);
    EXPECT_LE(Stats()["vmbus.channels"], 1 + 2 * 2u);  // the primary; those of now and of before
    ASSERT_EQ(primary.Close(connection), Result::kOk);
    OpenChannel(primary, 0);
  }
  EXPECT_LE(Threads(), before);
}

// A host at its limit of threads fails this channel, not the partition.
TEST_F(StorageTest, AThreadThatCannotBeStartedFailsTheOpen) {
  ASSERT_EQ(primary.Close(connection), Result::kOk);
  pthread_attr_t usual, huge;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(pthread_attr_init(&huge), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&huge, size_t{1} << 46), 0);
  ASSERT_EQ(pthread_setattr_default_np(&huge), 0);
  const vmbus::Offer* offer = connection.Await(vmbus::kScsiClass, 0);
  auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
  const Result result =
      primary.Open(connection, transport, *offer, partition.Allocate(kRingPages * 4096), kRingPages,
                   list, {partition.Allocate(4096), 4096}, 0);
  ASSERT_EQ(pthread_setattr_default_np(&usual), 0);
  EXPECT_NE(result, Result::kOk);
  OpenChannel(primary, 0);
  EXPECT_EQ(driver->Initialize(), Result::kOk);
}

// A recorded disk: every write with its data, FUA as the guest said it, and a flush that is done
// only after the writes answered before it.
TEST(RecordingTest, TheRecordTellsWhatIsDurable) {
  testing_support::HostedPartition partition;
  StorageVsp storage({.instance = {{9}}}, {.space = [](bool) {}, .poisoned = [](uint32_t) {}});
  UniqueFd disk(memfd_create("disk", MFD_CLOEXEC)), record(memfd_create("record", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(disk.get(), kDiskSize), 0);
  auto raw = RawFile::Create(std::move(disk), {});
  ASSERT_TRUE(raw.ok());
  storage.AddDisk(std::make_unique<ScsiDisk>(
      std::make_unique<RecordingBackend>(*std::move(raw), UniqueFd(dup(record.get()))),
      ScsiDisk::Identity{.serial = "1"}));
  storage.Connect(partition.server());
  partition.OnControl([&] { ASSERT_NE(partition.server().AddDevice(storage), 0u); });
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  vmbus::client::Channel channel;
  ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
  ASSERT_EQ(connection.RequestOffers(), Result::kOk);
  const vmbus::Offer* offer = connection.Await(vmbus::kScsiClass, 0);
  ASSERT_NE(offer, nullptr);
  auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
  ASSERT_EQ(channel.Open(connection, transport, *offer, partition.Allocate(kRingPages * 4096),
                         kRingPages, list, {partition.Allocate(4096), 4096}, 0),
            Result::kOk);
  vsc::StorageVsc driver(transport, channel);
  ASSERT_EQ(driver.Initialize(), Result::kOk);
  std::byte* data = partition.Allocate(4096);
  std::memset(data, 0x5A, 1024);
  Completion completion;
  const std::array<uint8_t, 10> write = {0x2A, 0, 0, 0, 0, 7, 0, 0, 2};
  const std::array<uint8_t, 10> write_fua = {0x2A, 8, 0, 0, 0, 9, 0, 0, 2};
  const std::array<uint8_t, 10> flush = {0x35};
  const std::array<uint8_t, 10> read = {0x28, 0, 0, 0, 0, 7, 0, 0, 2};
  ASSERT_TRUE(driver.Execute(0, write, {data, 1024}, false, &completion) == Result::kOk &&
              completion.ok);
  ASSERT_TRUE(driver.Execute(0, flush, {}, true, &completion) == Result::kOk && completion.ok);
  ASSERT_TRUE(driver.Execute(0, write_fua, {data, 1024}, false, &completion) == Result::kOk &&
              completion.ok);
  ASSERT_TRUE(driver.Execute(0, read, {data + 2048, 1024}, true, &completion) == Result::kOk &&
              completion.ok);
  EXPECT_EQ(std::memcmp(data, data + 2048, 1024), 0);
  partition.Shutdown();

  std::array<std::byte, 8192> bytes{};
  const ssize_t size = pread(record.get(), bytes.data(), bytes.size(), 0);
  ASSERT_EQ(size, static_cast<ssize_t>(6 * sizeof(RecordHeader) + 2 * 1024));
  size_t at = 0;
  auto expect = [&](BlockOp op, int flags, uint64_t offset, uint64_t id) {
    RecordHeader header;
    std::memcpy(&header, bytes.data() + at, sizeof(header));
    at += sizeof(header);
    EXPECT_EQ(header.op, static_cast<uint8_t>(op)) << at;
    EXPECT_EQ(header.flags, flags) << at;
    EXPECT_EQ(header.offset, offset) << at;
    EXPECT_EQ(header.id, id) << at;
    if (op != BlockOp::kWrite) return;
    EXPECT_EQ(header.length, 1024u);
    if ((flags & kRecordDone) != 0) return;
    for (size_t i = 0; i < header.length; ++i) ASSERT_EQ(bytes[at + i], std::byte{0x5A});
    at += header.length;
  };
  expect(BlockOp::kWrite, 0, 7 * 512, 1);
  expect(BlockOp::kWrite, kRecordDone, 7 * 512, 1);
  expect(BlockOp::kFlush, 0, 0, 2);
  expect(BlockOp::kFlush, kRecordDone, 0, 2);
  expect(BlockOp::kWrite, kRecordFua, 9 * 512, 3);
  expect(BlockOp::kWrite, kRecordFua | kRecordDone, 9 * 512, 3);
}

TEST_F(StorageTest, ClosesAndOpensFiftyTimes) {
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(driver->Initialize(), Result::kOk) << i;
    std::byte* buffer = partition.Allocate(4096);
    ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, 0, 8, buffer, 4096, 1), Result::kOk);
    primary.Commit();
    EXPECT_TRUE(Collect(primary, 1).at(0).ok);
    ASSERT_EQ(primary.Close(connection), Result::kOk);
    OpenChannel(primary, 0);
  }
  EXPECT_EQ(Stats()["vmbus.rejected.state"], 0u);
}

TEST_F(StorageTest, ErrorsBecomeSense) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  std::byte* buffer = partition.Allocate(4096);
  plan->Fail(BlockOp::kRead, EIO);
  Completion c = Command({0x28, 0, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096);
  EXPECT_EQ(c.scsi_status, kScsiCheckCondition);
  EXPECT_EQ(c.srb_status, 0x84);
  EXPECT_EQ(c.sense_key, 3);
  EXPECT_EQ(c.sense_code, 0x11);
  plan->Fail(BlockOp::kWrite, EIO);
  c = Command({0x2A, 0, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096, false);
  EXPECT_EQ(c.sense_key, 3);
  EXPECT_EQ(c.sense_code, 0x0C);
  plan->Fail(BlockOp::kRead, 0);
  EXPECT_TRUE(Command({0x28, 0, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096).ok);
}

// What fsync dropped once is lost: no later flush or write may be answered with success.
TEST_F(StorageTest, AFailedFlushPoisonsTheDisk) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  std::byte* buffer = partition.Allocate(4096);
  plan->Fail(BlockOp::kFlush, EIO);
  EXPECT_FALSE(Command({0x35}).ok);
  plan->Fail(BlockOp::kFlush, 0);
  EXPECT_FALSE(Command({0x35}).ok);
  EXPECT_FALSE(Command({0x2A, 0, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096, false).ok);
  EXPECT_TRUE(Command({0x28, 0, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096).ok);
  EXPECT_EQ(poisoned_events.load(), 1);
  EXPECT_TRUE(storage->any_poisoned());
}

// ENOSPC holds the write, says so once, and goes on by itself; nothing is lost or repeated.
TEST_F(StorageTest, AFullDiskHoldsWritesUntilThereIsRoom) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  plan->Fail(BlockOp::kWrite, ENOSPC);
  std::byte* buffer = partition.Allocate(64 * 4096);
  for (uint64_t i = 0; i < 20; ++i) {
    std::memset(buffer + i * 4096, static_cast<int>(i + 1), 4096);
    ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, i * 8, 8, buffer + i * 4096, 4096, i + 1),
              Result::kOk);
  }
  primary.Commit();
  while (full_events.load() == 0) std::this_thread::yield();
  Completion completion;
  EXPECT_EQ(driver->Poll(primary, &completion), RingStatus::kEmpty);
  // Reads are not held up.
  ASSERT_EQ(driver->SubmitReadWrite(primary, 0, false, 4096, 8, buffer + 30 * 4096, 4096, 99),
            Result::kOk);
  primary.Commit();
  EXPECT_EQ(Collect(primary, 1).at(0).tag, 99u);
  EXPECT_EQ(room_events.load(), 0);
  plan->Fail(BlockOp::kWrite, 0);
  std::set<uint64_t> tags;
  for (const Completion& c : Collect(primary, 20)) {
    EXPECT_TRUE(c.ok);
    tags.insert(c.tag);
  }
  EXPECT_EQ(tags.size(), 20u);
  while (room_events.load() == 0) std::this_thread::yield();
  EXPECT_EQ(full_events.load(), 1);
  for (uint64_t i = 0; i < 20; ++i) {
    char byte = 0;
    ASSERT_EQ(pread(files[0].get(), &byte, 1, static_cast<off_t>(i * 4096 + 17)), 1);
    EXPECT_EQ(byte, static_cast<char>(i + 1));
  }
}

// Whoever takes memory from the guest is told what transfers still use.
TEST_F(StorageTest, PagesOfTransfersAreCounted) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  EXPECT_TRUE(partition.PagesInFlight(*storage).empty());
  plan->Fail(BlockOp::kWrite, ENOSPC);
  std::byte* buffer = partition.Allocate(8 * 4096);
  const uint64_t first = partition.Pfn(buffer);
  ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, 0, 24, buffer, 3 * 4096, 1), Result::kOk);
  ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, 80, 8, buffer + 5 * 4096, 4096, 2),
            Result::kOk);
  primary.Commit();
  while (plan->seen.load() < 2) std::this_thread::yield();
  EXPECT_EQ(partition.PagesInFlight(*storage),
            (std::vector<uint64_t>{first, first + 1, first + 2, first + 5}));
  plan->Fail(BlockOp::kWrite, 0);
  Collect(primary, 2);
  EXPECT_TRUE(partition.PagesInFlight(*storage).empty());
  ASSERT_EQ(primary.Close(connection), Result::kOk);
  EXPECT_TRUE(partition.PagesInFlight(*storage).empty()) << "a loop that has ended";
}

// A disk that answers nothing has neither all requests nor the ring.
TEST_F(TwoDisksTest, ASlowDiskLeavesTheOtherOneItsPart) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  plan->Fail(BlockOp::kWrite, ENOSPC);  // the first disk's writes stay with the controller
  std::byte* buffer = partition.Allocate(2 * 4096);
  constexpr uint64_t kFlood = 700;  // more than a channel has in flight
  for (uint64_t i = 0; i < kFlood; ++i) {
    while (driver->SubmitReadWrite(primary, 0, true, i * 8, 8, buffer, 4096, i + 1) ==
           Result::kNoRoom) {
      primary.Commit();
      std::this_thread::yield();
    }
  }
  primary.Commit();
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_EQ(
        driver->SubmitReadWrite(primary, 1, i % 2 == 0, i * 8, 8, buffer + 4096, 4096, 10000 + i),
        Result::kOk);
    primary.Commit();
    const auto done = Collect(primary, 1);
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].tag, 10000 + i);
    EXPECT_TRUE(done[0].ok);
  }
  EXPECT_LT(plan->seen.load(), uint64_t{kRequestsPerChannel});
  plan->Fail(BlockOp::kWrite, 0);
  std::set<uint64_t> tags;
  for (const Completion& c : Collect(primary, kFlood)) tags.insert(c.tag);
  EXPECT_EQ(tags.size(), kFlood);
}

// Packets are taken as long as their answers find room: a guest that reads none costs no memory.
TEST_F(StorageTest, AGuestThatReadsNoAnswersIsNotReadEither) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  vmbus::storage::Packet packet{};
  packet.operation = vmbus::storage::kQueryProtocolVersion;
  packet.version.version = vmbus::storage::kVersion6_2;
  const size_t sent = testing_support::FillRing(primary, 20000, [&](size_t i) {
    return primary.writer().Write(vmbus::kPacketInBand, 1, i + 1, {},
                                  std::as_bytes(std::span(&packet, 1)));
  });
  EXPECT_LT(sent, 3000u) << "two rings hold about a thousand each";
  const auto all = Collect(primary, sent);
  ASSERT_EQ(all.size(), sent);
  for (size_t i = 0; i < sent; ++i) EXPECT_EQ(all[i].tag, i + 1);
  std::byte* buffer = partition.Allocate(4096);
  EXPECT_TRUE(Command({0x28, 0, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096).ok);
}

// Requests that the kernel holds until the test lets them end: each reads 512 bytes from a pipe.
class PipeBackend : public BlockBackend {
 public:
  explicit PipeBackend(UniqueFd pipe) : pipe_(std::move(pipe)) {}
  [[nodiscard]] const BlockProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files() const override { return {pipe_.get()}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return {IORING_OP_READ}; }
  absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing& ring, int first,
                                                        LoopPoster) override {
    return std::make_unique<Queue>(*this, ring, first);
  }
  [[nodiscard]] absl::Status Sync() override { return absl::OkStatus(); }
  void DescribeTo(StatSink&) const override {}
  std::atomic<uint64_t> seen = 0;

 private:
  struct Read final : IoRing::Op {
    void OnComplete(int32_t result, uint32_t) override {
      request->owner->OnBlockDone(*request, result == 512 ? 0 : EIO);
    }
    BlockRequest* request = nullptr;
    std::array<std::byte, 512> scratch;  // of what has no data
  };
  class Queue : public BlockQueue {
   public:
    Queue(PipeBackend& backend, IoRing& ring, int file)
        : backend_(backend), ring_(ring), file_(file) {}
    void Submit(std::span<BlockRequest* const> requests) override {
      for (BlockRequest* request : requests) {
        auto& read = reads_.emplace_back(std::make_unique<Read>());
        read->request = request;
        io_uring_sqe* sqe = ring_.Prepare(read.get());
        sqe->opcode = IORING_OP_READ;
        sqe->fd = file_;
        sqe->addr = reinterpret_cast<uintptr_t>(
            request->iovecs.empty() ? read->scratch.data() : request->iovecs[0].iov_base);
        sqe->len = static_cast<uint32_t>(read->scratch.size());
        backend_.seen.fetch_add(1);
      }
    }

   private:
    PipeBackend& backend_;
    IoRing& ring_;
    const int file_;
    std::vector<std::unique_ptr<Read>> reads_;
  };
  UniqueFd pipe_;
  BlockProperties properties_{.size = kDiskSize, .discard = true};
};

class PipeTest : public StorageTest {
 protected:
  std::unique_ptr<BlockBackend> MakeBackend() override {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    write_end = UniqueFd(ends[1]);
    auto backend = std::make_unique<PipeBackend>(UniqueFd(ends[0]));
    pipe_backend = backend.get();
    return backend;
  }
  UniqueFd write_end;
  PipeBackend* pipe_backend = nullptr;
};

// A reset waits for what the kernel has: it is answered after the last of it, each exactly once.
TEST_F(PipeTest, ResetWith256InFlight) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  std::byte* buffer = partition.Allocate(4096);
  for (uint64_t i = 0; i < 256; ++i) {
    ASSERT_EQ(driver->SubmitReadWrite(primary, 0, false, i, 1, buffer, 512, i + 1), Result::kOk);
    if (i % 16 == 15) primary.Commit();
  }
  while (pipe_backend->seen.load() < 256) std::this_thread::yield();
  vmbus::storage::Packet packet{};
  packet.operation = vmbus::storage::kResetBus;
  packet.flags = 1;
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 1, vmbus::storage::kResetTransaction, {},
                                   std::as_bytes(std::span(&packet, 1))),
            RingStatus::kOk);
  primary.Commit();
  while (Stats()["storage.resets"] == 0) std::this_thread::yield();
  Completion early;
  EXPECT_EQ(driver->Poll(primary, &early), RingStatus::kEmpty);
  const std::array<std::byte, 512> sector{};
  for (int i = 0; i < 256; ++i) {
    ASSERT_EQ(write(write_end.get(), sector.data(), sector.size()), 512);
  }
  const auto all = Collect(primary, 257);
  ASSERT_EQ(all.size(), 257u);
  std::set<uint64_t> tags;
  for (size_t i = 0; i < 256; ++i) tags.insert(all[i].tag);
  EXPECT_EQ(tags.size(), 256u);
  EXPECT_EQ(all[256].tag, vmbus::storage::kResetTransaction);
}

// One UNMAP of two ranges and a reset behind its first: the second range must not wait behind the
// reset that waits for the command (over its disk's share it did, for ever). It ends as aborted.
TEST_F(PipeTest, AResetEndsAnUnmapOfSeveralRanges) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  std::byte* list = partition.Allocate(4096);
  std::memset(list, 0, 4096);
  list[1] = std::byte{38}, list[3] = std::byte{32};
  list[8 + 7] = std::byte{16}, list[8 + 11] = std::byte{16};
  list[24 + 7] = std::byte{64}, list[24 + 11] = std::byte{16};
  std::array<uint8_t, 16> unmap = {0x42, 0, 0, 0, 0, 0, 0, 0, 40};
  ASSERT_EQ(driver->Submit(primary, 0, unmap, list, 40, false, 1), Result::kOk);
  primary.Commit();
  while (pipe_backend->seen.load() < 1) std::this_thread::yield();
  vmbus::storage::Packet packet{};
  packet.operation = vmbus::storage::kResetBus;
  packet.flags = 1;
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 1, vmbus::storage::kResetTransaction, {},
                                   std::as_bytes(std::span(&packet, 1))),
            RingStatus::kOk);
  primary.Commit();
  while (Stats()["storage.resets"] == 0) std::this_thread::yield();
  const std::array<std::byte, 512> sector{};
  ASSERT_EQ(write(write_end.get(), sector.data(), sector.size()), 512);
  const auto all = Collect(primary, 2);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].tag, 1u);
  EXPECT_EQ(all[0].srb_status, vmbus::storage::kSrbAborted);
  EXPECT_EQ(all[1].tag, vmbus::storage::kResetTransaction);
  EXPECT_EQ(pipe_backend->seen.load(), 1u) << "the second range was not begun";
}

// Linux 5.13 to 5.18 sends 512 KiB whatever the controller says.
TEST_F(StorageTest, LongTransfersAndLongerPackets) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  constexpr uint32_t kLong = 1 << 20;
  std::byte* buffer = partition.Allocate(kLong + 4096) + 512;
  for (const uint32_t size : {512u << 10, kLong}) {
    const int blocks = static_cast<int>(size / 512);
    std::memset(buffer, static_cast<int>(size >> 19), size);
    EXPECT_TRUE(Command({0x2A, 0, 0, 0, 0, 0, 0, blocks >> 8, 0}, buffer, size, false).ok);
    std::memset(buffer, 0, size);
    EXPECT_TRUE(Command({0x28, 0, 0, 0, 0, 0, 0, blocks >> 8, 0}, buffer, size).ok);
    EXPECT_EQ(buffer[size - 1], static_cast<std::byte>(size >> 19));
  }
  // Longer than anything we take, but sound: answered, and the channel goes on.
  const std::vector<std::byte> huge(20000);
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 1, 55, {}, huge), RingStatus::kOk);
  primary.Commit();
  EXPECT_EQ(Collect(primary, 1).at(0).tag, 55u);
  EXPECT_EQ(Stats()["channel.too_long"], 1u);
  EXPECT_EQ(Stats()["channel.corrupt"], 0u);
  EXPECT_TRUE(Command({0x00}).ok);
}

// VERIFY compares piece by piece; a difference in the last byte of the last piece is found.
TEST_F(StorageTest, VerifyOfALongTransfer) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  constexpr uint32_t kLength =
      (160 << 10) + 512;  // two whole pieces and a part, from within a page
  constexpr int kBlocks = kLength / 512;
  std::byte* buffer = partition.Allocate(kLength + 4096) + 512;
  for (uint32_t i = 0; i < kLength; ++i) buffer[i] = static_cast<std::byte>(i * 7 + i / 4096);
  ASSERT_TRUE(
      Command({0x2A, 0, 0, 0, 0, 3, 0, kBlocks >> 8, kBlocks & 0xFF}, buffer, kLength, false).ok);
  const auto verify = [&] {
    return Command({0x2F, 2, 0, 0, 0, 3, 0, kBlocks >> 8, kBlocks & 0xFF}, buffer, kLength, false);
  };
  const Completion same = verify();
  EXPECT_TRUE(same.ok);
  EXPECT_EQ(same.transferred, kLength);
  for (const uint32_t at : {0u, (64u << 10) - 1, 64u << 10, kLength - 1}) {
    buffer[at] ^= std::byte{1};
    EXPECT_EQ(verify().sense_key, 0xE) << at;
    buffer[at] ^= std::byte{1};
  }
}

// fstrim on a host without holes: "invalid operation code", and not offered again.
TEST_F(StorageTest, DiscardThatTheHostCannotDoIsNotOfferedAgain) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  std::byte* list = partition.Allocate(4096);
  std::memset(list, 0, 4096);
  list[1] = std::byte{22}, list[3] = std::byte{16}, list[8 + 11] = std::byte{16};
  plan->Fail(BlockOp::kDiscard, EOPNOTSUPP);
  const Completion c = Command({0x42, 0, 0, 0, 0, 0, 0, 0, 24}, list, 24, false);
  EXPECT_EQ(c.sense_key, 5);
  EXPECT_EQ(c.sense_code, 0x20);
  ASSERT_TRUE(Command({0x12, 1, 0xB2, 0, 64}, list, 64).ok);
  EXPECT_EQ(list[5], std::byte{0});
}

// WRITE SAME needs room as a write does.
TEST_F(StorageTest, WriteSameWaitsForRoom) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  plan->Fail(BlockOp::kWriteZeroes, ENOSPC);
  std::byte* zeroes = partition.Allocate(4096);
  std::memset(zeroes, 0, 512);
  const std::array<uint8_t, 16> same = {0x93, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8};
  ASSERT_EQ(driver->Submit(primary, 0, same, zeroes, 512, false, 1), Result::kOk);
  primary.Commit();
  while (full_events.load() == 0) std::this_thread::yield();
  plan->Fail(BlockOp::kWriteZeroes, 0);
  EXPECT_TRUE(Collect(primary, 1).at(0).ok);
}

// Writes that wait for room are aborted by a reset.
TEST_F(StorageTest, AResetAbortsWhatWaitsForRoom) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  plan->Fail(BlockOp::kWrite, ENOSPC);  // writes stay with the controller
  std::byte* buffer = partition.Allocate(4096);
  for (uint64_t i = 0; i < 256; ++i) {
    ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, i * 8, 8, buffer, 4096, i + 1),
              Result::kOk);
    if (i % 16 == 15) primary.Commit();
  }
  while (plan->seen.load() < 256) std::this_thread::yield();
  vmbus::storage::Packet packet{};
  packet.operation = vmbus::storage::kResetBus;
  packet.flags = 1;
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 1, vmbus::storage::kResetTransaction, {},
                                   std::as_bytes(std::span(&packet, 1))),
            RingStatus::kOk);
  primary.Commit();
  const auto all = Collect(primary, 257);
  ASSERT_EQ(all.size(), 257u);
  std::set<uint64_t> tags;
  for (size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(all[i].srb_status, vmbus::storage::kSrbAborted);
    tags.insert(all[i].tag);
  }
  EXPECT_EQ(tags.size(), 256u);
  EXPECT_EQ(all[256].tag, vmbus::storage::kResetTransaction);
  plan->Fail(BlockOp::kWrite, 0);
  EXPECT_TRUE(Command({0x2A, 0, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096, false).ok);
}

// Discards and zeroes reach the file.
TEST_F(StorageTest, UnmapAndWriteSame) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  std::byte* buffer = partition.Allocate(65536);
  std::memset(buffer, 0x5A, 65536);
  ASSERT_TRUE(Command({0x2A, 0, 0, 0, 0, 0, 0, 0, 128}, buffer, 65536, false).ok);
  std::byte* list = partition.Allocate(4096);
  std::memset(list, 0, 4096);
  list[1] = std::byte{22}, list[3] = std::byte{16};
  list[8 + 7] = std::byte{16}, list[8 + 11] = std::byte{16};
  EXPECT_TRUE(Command({0x42, 0, 0, 0, 0, 0, 0, 0, 24}, list, 24, false).ok);
  std::memset(list, 0, 4096);
  EXPECT_TRUE(Command({0x93, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 16}, list, 512, false).ok);
  ASSERT_TRUE(Command({0x28, 0, 0, 0, 0, 0, 0, 0, 128}, buffer, 65536).ok);
  for (size_t block = 0; block < 128; ++block) {
    const bool zero = (block >= 16 && block < 32) || (block >= 64 && block < 80);
    EXPECT_EQ(buffer[block * 512 + 5], zero ? std::byte{0} : std::byte{0x5A}) << block;
  }
  // VERIFY with bytes: equal, then not.
  EXPECT_TRUE(Command({0x2F, 2, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096, false).ok);
  buffer[100] = std::byte{1};
  const Completion c = Command({0x2F, 2, 0, 0, 0, 0, 0, 0, 8}, buffer, 4096, false);
  EXPECT_EQ(c.sense_key, 0xE);
}

// Packets that lie: each is answered or dropped and counted, and the channel goes on.
TEST_F(StorageTest, HostilePackets) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  vmbus::storage::Packet packet{};
  packet.operation = vmbus::storage::kExecuteSrb;
  packet.srb.length = 52;
  packet.srb.cdb_length = 10;
  packet.srb.cdb_or_sense[0] = 0x28;
  packet.srb.cdb_or_sense[8] = 8;
  packet.srb.data_length = 4096;
  const auto payload = std::as_bytes(std::span(&packet, 1));
  struct Range {
    vmbus::GpaDirectHeader header;
    vmbus::GpaRange range;
    uint64_t pfns[2];
  };
  const uint64_t good = partition.Pfn(partition.Allocate(4096));
  const Range ranges[] = {
      {{0, 0}, {4096, 0}, {good, good}},           // no range
      {{0, 2}, {4096, 0}, {good, good}},           // two
      {{0, 0xFFFFFFFF}, {4096, 0}, {good, good}},  // very many
      {{0, 1}, {4096, 4096}, {good, good}},        // offset beyond the page
      {{0, 1}, {0xFFFFFFFF, 0}, {good, good}},     // count that wraps
      {{0, 1}, {0x40000000, 0xFFF}, {good, good}},
      {{0, 1}, {16384, 0}, {good, good}},            // more pages than it lists
      {{0, 1}, {4096, 0}, {0x7FFFFFFFFFFFF, good}},  // not RAM
      {{0, 1}, {4096, 0}, {UINT64_MAX, good}},
      {{0, 1}, {100, 0}, {good, good}},  // buffer shorter than the command
  };
  uint64_t tag = 1;
  for (const Range& range : ranges) {
    ASSERT_EQ(primary.writer().Write(vmbus::kPacketGpaDirect, 1, tag,
                                     std::as_bytes(std::span(&range, 1)), payload),
              RingStatus::kOk);
    primary.Commit();
    const auto completions = Collect(primary, 1);
    ASSERT_EQ(completions.size(), 1u);
    EXPECT_EQ(completions[0].tag, tag);
    EXPECT_FALSE(completions[0].ok) << tag;
    ++tag;
  }
  // In-band although data is claimed; a CDB length beyond the field.
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 1, tag, {}, payload), RingStatus::kOk);
  primary.Commit();
  EXPECT_FALSE(Collect(primary, 1).at(0).ok);
  packet.srb.cdb_length = 200;
  packet.srb.data_length = 0;
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 1, tag, {}, payload), RingStatus::kOk);
  primary.Commit();
  EXPECT_FALSE(Collect(primary, 1).at(0).ok);
  // Too short to be a storage packet, an unknown packet type, an unknown operation.
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 0, 1, {}, payload.first(16)),
            RingStatus::kOk);
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketTransferPages, 0, 1, {}, payload),
            RingStatus::kOk);
  packet.operation = 999;
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 1, 77, {}, payload), RingStatus::kOk);
  primary.Commit();
  EXPECT_EQ(Collect(primary, 1).at(0).tag, 77u);
  const auto stats = Stats();
  EXPECT_EQ(stats.at("storage.rejected.ranges"), 11u);  // all but the short buffer
  EXPECT_EQ(stats.at("storage.rejected.packets"), 3u);
  EXPECT_TRUE(Command({0x00}).ok);
}

// A guest that breaks its ring loses that channel, nothing else: it can close it and open it again.
TEST_F(StorageTest, ABrokenRingStopsOnlyItsChannel) {
  ASSERT_EQ(driver->Initialize(), Result::kOk);
  // The write index of the guest's ring, which is the first word of its control page.
  std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(primary_ring)).store(0x1001);
  transport.Signal(vmbus::kChannelConnectionBase + primary.relid());
  while (Stats()["channel.corrupt"] == 0) std::this_thread::yield();
  ASSERT_EQ(primary.Close(connection), Result::kOk);
  OpenChannel(primary, 0);
  EXPECT_EQ(driver->Initialize(), Result::kOk);
}

}  // namespace
}  // namespace partita::storage
