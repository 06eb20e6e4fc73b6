// Rules of the ring: 02-style references are to the public description of VMBus ring buffers
// (Linux, include/linux/hyperv.h and drivers/hv/ring_buffer.c).
#include "vmbus/ring/ring.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/unique_fd.h"

namespace partita::vmbus {
namespace {

enum class Access : uint8_t {
  kPaged,    // page by page
  kInARow,   // in one piece up to its end
  kAliased,  // through a double mapping
};

// A ring in this process.
class TestRing {
 public:
  TestRing(uint32_t data_pages, Access access) : fd_(memfd_create("ring", 0)) {
    const size_t size = size_t{data_pages} * kRingPage;
    EXPECT_EQ(ftruncate(fd_.get(), static_cast<off_t>(size + kRingPage)), 0);
    control_ = *Mapping::Map(kRingPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    data_ = *Mapping::Map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), kRingPage);
    for (uint32_t i = 0; i < data_pages; ++i) pages_.push_back(data_.data() + i * kRingPage);
    memory_.control = reinterpret_cast<RingControl*>(control_.data());
    memory_.pages = pages_;
    memory_.size = static_cast<uint32_t>(size);
    if (access == Access::kInARow) {
      memory_.linear = data_.data();
      memory_.linear_size = memory_.size;
    }
    if (access == Access::kAliased) {
      alias_ = *Mapping::Map(size * 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
      for (const size_t at : {size_t{0}, size}) {
        EXPECT_NE(mmap(alias_.data() + at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       fd_.get(), kRingPage),
                  MAP_FAILED);
      }
      memory_.linear = alias_.data();
      memory_.linear_size = 2 * memory_.size;
    }
  }
  [[nodiscard]] const RingMemory& memory() const { return memory_; }
  [[nodiscard]] RingControl& control() { return *memory_.control; }

 private:
  UniqueFd fd_;
  Mapping control_, data_, alias_;
  std::vector<std::byte*> pages_;
  RingMemory memory_;
};

std::vector<std::byte> Payload(size_t size, uint64_t seed) {
  std::vector<std::byte> out(size);
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>(seed * 131 + i * 7);
  return out;
}

bool SamePayload(std::span<const std::byte> got, const std::vector<std::byte>& want) {
  return got.size() >= want.size() && std::equal(want.begin(), want.end(), got.begin());
}

class RingTest : public testing::TestWithParam<Access> {};
INSTANTIATE_TEST_SUITE_P(Access, RingTest,
                         testing::Values(Access::kPaged, Access::kInARow, Access::kAliased),
                         [](const auto& param) {
                           return param.param == Access::kPaged    ? "Paged"
                                  : param.param == Access::kInARow ? "InARow"
                                                                   : "Aliased";
                         });

// A packet of every small size written at every position survives the wrap, in both access modes.
TEST_P(RingTest, EveryWrapPosition) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{8}, size_t{23}, size_t{64}}) {
    TestRing ring(1, GetParam());
    std::array<std::byte, 512> buffer{};
    RingWriter writer(ring.memory());
    RingReader reader(ring.memory(), buffer);
    uint32_t positions = 0;
    std::array<bool, kRingPage / 8> seen{};
    for (uint64_t i = 0; positions < kRingPage / 8 && i < 100000; ++i) {
      if (!seen[writer.write_index() / 8]) {
        seen[writer.write_index() / 8] = true;
        ++positions;
      }
      // Two sizes that differ by 8 advance by an odd number of 8-byte units together, and so visit
      // every position.
      const size_t this_size = i % 2 == 0 ? size : size + 8;
      const auto payload = Payload(this_size, i);
      ASSERT_EQ(writer.Write(kPacketInBand, 0, i, {}, payload), RingStatus::kOk);
      static_cast<void>(writer.Commit());
      Packet packet;
      ASSERT_EQ(reader.Next(&packet), RingStatus::kOk);
      ASSERT_EQ(packet.descriptor.transaction_id, i);
      ASSERT_TRUE(SamePayload(packet.payload, payload)) << "at " << i;
      static_cast<void>(reader.Commit());
      ASSERT_EQ(reader.Next(&packet), RingStatus::kEmpty);
    }
    EXPECT_EQ(positions, kRingPage / 8) << "size " << size;
  }
}

// Random batches against a plain queue as the model; headers and payload come back apart.
TEST_P(RingTest, RandomBatchesMatchAModel) {
  TestRing ring(3, GetParam());
  std::array<std::byte, 4096> buffer{};
  RingWriter writer(ring.memory());
  RingReader reader(ring.memory(), buffer);
  std::mt19937_64 random(42);
  std::deque<std::pair<uint64_t, size_t>> model;  // id, payload size
  uint64_t next = 0;
  for (int round = 0; round < 20000; ++round) {
    const uint64_t to_write = random() % 6;
    for (uint64_t i = 0; i < to_write; ++i) {
      const size_t size = random() % 1500;
      const auto headers = Payload((random() % 4) * 8, next);
      const RingStatus status =
          writer.Write(kPacketGpaDirect, 1, next, headers, Payload(size, next));
      if (status == RingStatus::kFull) break;
      ASSERT_EQ(status, RingStatus::kOk);
      model.emplace_back(next++, size);
    }
    static_cast<void>(writer.Commit());
    const uint64_t to_read = random() % 6;
    for (uint64_t i = 0; i < to_read; ++i) {
      Packet packet;
      const RingStatus status = reader.Next(&packet);
      ASSERT_EQ(status, model.empty() ? RingStatus::kEmpty : RingStatus::kOk);
      if (model.empty()) break;
      ASSERT_EQ(packet.descriptor.transaction_id, model.front().first);
      ASSERT_TRUE(SamePayload(packet.payload, Payload(model.front().second, model.front().first)));
      model.pop_front();
    }
    static_cast<void>(reader.Commit());
  }
  EXPECT_GT(next, 10000u);
}

// The reader never sees what was not committed, and the ring never becomes completely full.
TEST_P(RingTest, NothingIsVisibleBeforeCommitAndOneByteStaysFree) {
  TestRing ring(1, GetParam());
  std::array<std::byte, 4096> buffer{};
  RingWriter writer(ring.memory());
  RingReader reader(ring.memory(), buffer);
  Packet packet;
  ASSERT_EQ(writer.Write(kPacketInBand, 0, 1, {}, {}), RingStatus::kOk);
  EXPECT_EQ(reader.Next(&packet), RingStatus::kEmpty);
  EXPECT_TRUE(writer.Commit());
  EXPECT_EQ(reader.Next(&packet), RingStatus::kOk);
  uint64_t written = 1;
  while (writer.Write(kPacketInBand, 0, 2, {}, {}) == RingStatus::kOk) ++written;
  EXPECT_EQ(written, kRingPage / (sizeof(PacketDescriptor) + kTrailer));
  static_cast<void>(writer.Commit());
  EXPECT_NE(ring.control().write_index, ring.control().read_index);
  // What could never fit is refused as such, not as "full".
  EXPECT_EQ(writer.Write(kPacketInBand, 0, 3, {}, Payload(kRingPage, 0)), RingStatus::kTooLarge);
}

// Signal only on empty -> not empty, never while masked.
TEST_P(RingTest, SignalsOnlyWhenTheReaderHadCaughtUp) {
  TestRing ring(1, GetParam());
  std::array<std::byte, 256> buffer{};
  RingWriter writer(ring.memory());
  RingReader reader(ring.memory(), buffer);
  Packet packet;
  auto write = [&] {
    EXPECT_EQ(writer.Write(kPacketInBand, 0, 0, {}, {}), RingStatus::kOk);
    return writer.Commit();
  };
  EXPECT_TRUE(write());
  EXPECT_FALSE(write());  // the first is still unread
  EXPECT_EQ(reader.Next(&packet), RingStatus::kOk);
  static_cast<void>(reader.Commit());
  EXPECT_FALSE(write());  // not caught up yet
  while (reader.Next(&packet) == RingStatus::kOk) {
  }
  static_cast<void>(reader.Commit());
  reader.MaskInterrupts();
  EXPECT_FALSE(write());
  EXPECT_TRUE(reader.UnmaskAndCheck());
  EXPECT_EQ(ring.control().interrupt_mask, 1u);  // masked again: we look now
  EXPECT_EQ(reader.Next(&packet), RingStatus::kOk);
  static_cast<void>(reader.Commit());
  EXPECT_FALSE(reader.UnmaskAndCheck());
  EXPECT_TRUE(write());
  EXPECT_FALSE(writer.Commit());  // nothing new, nothing to say
}

// pending_send_size: the reader signals on the upward crossing only, and ignores the low three
// bits, which Linux before 3.11 sets (ring size minus one).
TEST_P(RingTest, RoomIsSignalledOnTheCrossingOnly) {
  TestRing ring(1, GetParam());
  std::array<std::byte, 4096> buffer{};
  RingWriter writer(ring.memory());
  RingReader reader(ring.memory(), buffer);
  constexpr uint32_t kPayload = 232;  // 256 bytes in the ring
  uint64_t count = 0;
  while (writer.Write(kPacketInBand, 0, count, {}, Payload(kPayload, count)) == RingStatus::kOk) {
    ++count;
  }
  static_cast<void>(writer.Commit());
  ASSERT_TRUE(writer.RequestRoom(kPayload));
  EXPECT_EQ(ring.control().pending_send_size, kRingPage / 4);  // at least a quarter
  ring.control().pending_send_size |= 7;
  Packet packet;
  int signals = 0;
  for (uint64_t i = 0; i < count; ++i) {
    ASSERT_EQ(reader.Next(&packet), RingStatus::kOk);
    if (reader.Commit()) {
      ++signals;
      EXPECT_EQ(i, 3u);  // the fourth packet took the free space from 1024 to 1280 bytes
    }
  }
  EXPECT_EQ(signals, 1);
  EXPECT_EQ(writer.Write(kPacketInBand, 0, 0, {}, {}), RingStatus::kOk);
  EXPECT_EQ(ring.control().pending_send_size, 0u);
  EXPECT_FALSE(writer.RequestRoom(kPayload));
}

// A peer that lies stops the ring, for good, and nothing outside is touched.
TEST_P(RingTest, CorruptIndicesAndDescriptorsStopTheRing) {
  struct Case {
    const char* what;
    uint32_t write_index;
    PacketDescriptor descriptor;
  };
  const Case cases[] = {
      {"index beyond the ring", kRingPage, {kPacketInBand, 2, 2, 0, 0}},
      {"index far beyond", 0xFFFFFFF8, {kPacketInBand, 2, 2, 0, 0}},
      {"unaligned index", 25, {kPacketInBand, 2, 2, 0, 0}},
      {"less than a descriptor", 8, {kPacketInBand, 2, 2, 0, 0}},
      {"length zero", 24, {kPacketInBand, 2, 0, 0, 0}},
      {"length beyond what is there", 24, {kPacketInBand, 2, 3, 0, 0}},
      {"longest length", 24, {kPacketInBand, 2, 0xFFFF, 0, 0}},
      {"payload inside the descriptor", 24, {kPacketInBand, 1, 2, 0, 0}},
      {"payload behind the end", 32, {kPacketInBand, 4, 3, 0, 0}},
  };
  for (const Case& c : cases) {
    TestRing ring(1, GetParam());
    std::array<std::byte, 256> buffer{};
    RingReader reader(ring.memory(), buffer);
    std::memcpy(ring.memory().pages[0], &c.descriptor, sizeof(c.descriptor));
    ring.control().write_index = c.write_index;
    Packet packet;
    EXPECT_EQ(reader.Next(&packet), RingStatus::kCorrupt) << c.what;
    ring.control().write_index = 0;
    EXPECT_EQ(reader.Next(&packet), RingStatus::kCorrupt) << c.what << ", afterwards";
  }
  for (const uint32_t index : {kRingPage, 0xFFFFFFFFu, 4u}) {
    TestRing ring(1, GetParam());
    RingWriter writer(ring.memory());
    while (writer.Write(kPacketInBand, 0, 0, {}, {}) == RingStatus::kOk) {
    }
    ring.control().read_index = index;
    EXPECT_EQ(writer.Write(kPacketInBand, 0, 0, {}, {}), RingStatus::kCorrupt);
  }
}

// A sound packet that is only longer than the reader takes is passed by, and the next one is read.
TEST_P(RingTest, ALongerPacketThanTheReaderTakesIsPassedBy) {
  TestRing ring(1, GetParam());
  std::array<std::byte, 256> buffer{};
  RingReader reader(ring.memory(), buffer);
  RingWriter writer(ring.memory());
  const std::vector<std::byte> large(1000, std::byte{1}), small(8, std::byte{2});
  ASSERT_EQ(writer.Write(kPacketInBand, 0, 7, {}, large), RingStatus::kOk);
  ASSERT_EQ(writer.Write(kPacketInBand, 0, 8, {}, small), RingStatus::kOk);
  static_cast<void>(writer.Commit());
  Packet packet;
  EXPECT_EQ(reader.Next(&packet), RingStatus::kTooLarge);
  EXPECT_EQ(packet.descriptor.transaction_id, 7u);
  EXPECT_TRUE(packet.payload.empty());
  ASSERT_EQ(reader.Next(&packet), RingStatus::kOk);
  EXPECT_EQ(packet.descriptor.transaction_id, 8u);
  EXPECT_EQ(packet.payload.size(), 8u);
}

// Our own read index is private: a peer that scribbles over the shared copy changes nothing.
TEST_P(RingTest, OwnIndicesAreNeverReadBack) {
  TestRing ring(1, GetParam());
  std::array<std::byte, 256> buffer{};
  RingWriter writer(ring.memory());
  RingReader reader(ring.memory(), buffer);
  Packet packet;
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(writer.Write(kPacketInBand, 0, i, {}, Payload(16, i)), RingStatus::kOk);
    static_cast<void>(writer.Commit());
    const uint32_t kept = ring.control().read_index;
    ring.control().read_index = 0x1234;
    ASSERT_EQ(reader.Next(&packet), RingStatus::kOk);
    ASSERT_EQ(packet.descriptor.transaction_id, i);
    ring.control().read_index = kept;
    static_cast<void>(reader.Commit());
  }
}

// Two threads, sleeping on a flag that only a signal sets: a lost signal hangs, so the count proves
// itself. ThreadSanitizer runs this too.
TEST_P(RingTest, NoSignalIsLostBetweenTwoThreads) {
  TestRing ring(2, GetParam());
  constexpr uint64_t kPackets = 50000;
  std::atomic<uint64_t> reader_bell = 0, writer_bell = 0;
  auto wait = [](std::atomic<uint64_t>& bell, uint64_t& seen) {
    bell.wait(seen);
    seen = bell.load();
  };
  auto ring_bell = [](std::atomic<uint64_t>& bell) {
    bell.fetch_add(1);
    bell.notify_one();
  };
  std::thread producer([&] {
    RingWriter writer(ring.memory());
    uint64_t seen = 0;
    for (uint64_t i = 0; i < kPackets;) {
      const auto payload = Payload(i % 200, i);
      const RingStatus status = writer.Write(kPacketInBand, 0, i, {}, payload);
      if (status == RingStatus::kOk) {
        ++i;
        if (i % 3 == 0 && writer.Commit()) ring_bell(reader_bell);
        continue;
      }
      ASSERT_EQ(status, RingStatus::kFull);
      if (writer.Commit()) ring_bell(reader_bell);
      if (writer.RequestRoom(200)) wait(writer_bell, seen);
    }
    if (writer.Commit()) ring_bell(reader_bell);
  });
  std::array<std::byte, 512> buffer{};
  RingReader reader(ring.memory(), buffer);
  uint64_t seen = 0;
  for (uint64_t i = 0; i < kPackets;) {
    Packet packet;
    const RingStatus status = reader.Next(&packet);
    if (status == RingStatus::kOk) {
      ASSERT_EQ(packet.descriptor.transaction_id, i);
      ASSERT_TRUE(SamePayload(packet.payload, Payload(i % 200, i)));
      ++i;
      continue;
    }
    ASSERT_EQ(status, RingStatus::kEmpty);
    if (reader.Commit()) ring_bell(writer_bell);
    if (!reader.UnmaskAndCheck()) wait(reader_bell, seen);
    reader.MaskInterrupts();
  }
  if (reader.Commit()) ring_bell(writer_bell);
  producer.join();
}

}  // namespace
}  // namespace partita::vmbus
