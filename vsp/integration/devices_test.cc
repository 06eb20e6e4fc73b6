// Dynamic memory and the keyboard against a guest that behaves and one that does not. The guest is
// the test: packets go straight into the device, and what it sends is read from the ring.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsp/integration/dynamic_memory.h"
#include "vsp/integration/keyboard.h"

namespace partita::integration {
namespace {

using vmbus::client::Result;

constexpr size_t kRingPages = 10;

class DeviceTest : public testing::Test {
 protected:
  void Open(const vmbus::Guid& type) {
    ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(connection.RequestOffers(), Result::kOk);
    const vmbus::Offer* offer = connection.Find(type, 0);
    ASSERT_NE(offer, nullptr);
    auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
    ASSERT_EQ(channel.Open(connection, transport, *offer, partition.Allocate(kRingPages * 4096),
                           kRingPages, list, {partition.Allocate(8192), 8192}, 0),
              Result::kOk);
  }
  void TearDown() override { partition.Shutdown(); }
  void Send(std::span<const std::byte> bytes) {
    ASSERT_EQ(channel.writer().Write(vmbus::kPacketInBand, 0, 0, {}, bytes),
              vmbus::RingStatus::kOk);
    channel.Commit();
  }
  template <typename... Words>
  void SendWords(Words... words) {
    const uint32_t all[] = {static_cast<uint32_t>(words)...};
    Send(std::as_bytes(std::span(all)));
  }
  // The next packet of the host, as 32-bit words.
  std::vector<uint32_t> Receive() {
    vmbus::Packet packet;
    while (channel.reader().Next(&packet) == vmbus::RingStatus::kEmpty) {
      channel.Commit();
      if (channel.reader().UnmaskAndCheck()) continue;
      if (!transport.Wait()) {
        ADD_FAILURE() << "nothing came";
        return std::vector<uint32_t>(8);
      }
    }
    std::vector<uint32_t> words(packet.payload.size() / 4);
    std::memcpy(words.data(), packet.payload.data(), words.size() * 4);
    channel.Commit();
    return words;
  }
  testing_support::HostedPartition partition;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  vmbus::client::Channel channel;
};

class MemoryTest : public DeviceTest {
 protected:
  static constexpr uint64_t kMib = 1 << 20;
  void SetUp() override {
    DynamicMemory::Host host;
    host.start_pages = 16384;  // 64 MiB
    host.max_pages = 16384 + 65536;
    host.add_gpa = 1ull << 32;
    host.find_usable = [this](std::function<void(const DynamicMemory::Host::Usable&)> found) {
      auto answer = [this, found = std::move(found)] {
        found([this](uint64_t pfn) { return pfn < 16384 && !in_use.contains(pfn); });
      };
      if (hold) {
        held.push_back(std::move(answer));
      } else {
        partition.loop().Post(std::move(answer));
      }
    };
    host.discard = [this](uint64_t pfn, uint64_t count) {
      for (uint64_t i = 0; i < count; ++i) discarded.insert(pfn + i);
      return true;
    };
    host.add = [this](uint64_t gpa, uint64_t bytes) {
      added = {gpa, bytes};
      return absl::OkStatus();
    };
    partition.OnControl([&] {
      memory = std::make_unique<DynamicMemory>(partition.loop(), std::move(host), patience_ms);
      ASSERT_NE(partition.server().AddDevice(*memory), 0u);
    });
    Open(vmbus::kDynamicMemoryClass);
  }
  void Start(uint32_t capabilities = 3 | 7 << 2) {
    SendWords(1 | 16 << 16, 1, 0x00020000, 0);
    const auto version = Receive();
    EXPECT_EQ(version[0] & 0xFFFF, 2u);
    EXPECT_EQ(version[2], 1u);
    SendWords(3 | 32 << 16, 2, capabilities, 0, 0, 0, 0, 0);
    const auto answer = Receive();
    EXPECT_EQ(answer[0] & 0xFFFF, 4u);
    EXPECT_EQ(answer[2], 1u);
  }
  void Target(uint64_t mib) {
    result.reset();
    partition.OnControl([&] { memory->SetTarget(mib * kMib, [this](auto r) { result = r; }); });
  }
  // Ranges of the guest, {first page, count}.
  void Taken(const std::vector<std::pair<uint64_t, uint64_t>>& ranges, bool more = false) {
    std::vector<uint32_t> words = {0, 3, 0, static_cast<uint32_t>(ranges.size() << 1 | more)};
    for (const auto& [first, count] : ranges) {
      const uint64_t packed = first | count << 40;
      words.push_back(static_cast<uint32_t>(packed));
      words.push_back(static_cast<uint32_t>(packed >> 32));
    }
    words[0] = 7 | static_cast<uint32_t>(words.size() * 4) << 16;
    Send(std::as_bytes(std::span(words)));
  }
  absl::StatusOr<uint64_t> Result() {
    for (int i = 0; i < 2000; ++i) {
      bool there = false;
      partition.OnControl([&] { there = result.has_value(); });
      if (there) return *result;
      usleep(1000);
    }
    return absl::DeadlineExceededError("no result");
  }
  uint64_t Stat(const std::string& name) {
    StatSink sink;
    partition.OnControl([&] { memory->DescribeTo(sink); });
    return sink.values().at(name);
  }
  uint32_t patience_ms = DynamicMemory::kPatienceMs;
  bool hold = false;
  std::vector<std::function<void()>> held;
  std::set<uint64_t> in_use, discarded;
  std::pair<uint64_t, uint64_t> added{};
  std::optional<absl::StatusOr<uint64_t>> result;
  std::unique_ptr<DynamicMemory> memory;
};

TEST_F(MemoryTest, TakesAndGivesBack) {
  Target(32);
  EXPECT_FALSE(Result().ok()) << "before the guest has a driver";
  Start();
  Target(60);
  auto request = Receive();
  EXPECT_EQ(request[0] & 0xFFFF, 6u);
  EXPECT_EQ(request[2], 1024u);
  Taken({{1000, 500}}, true);
  Taken({{2000, 524}});
  EXPECT_EQ(*Result(), 60 * kMib);
  EXPECT_EQ(discarded.size(), 1024u);
  Target(62);
  request = Receive();
  EXPECT_EQ(request[0] & 0xFFFF, 8u);
  EXPECT_EQ(request[2], 0u) << "no more to come";
  EXPECT_EQ(request[3], 1u);
  EXPECT_EQ(request[5] >> 8, 512u) << "pages";
  EXPECT_EQ(request[4], 2000u + 12) << "from the end of the last range";
  SendWords(9 | 8 << 16, 4);
  EXPECT_EQ(*Result(), 62 * kMib);
}

TEST_F(MemoryTest, AGuestKeepsWhatItNeeds) {
  Start();
  Target(32);
  EXPECT_EQ(Receive()[2], 8192u);
  Taken({{0, 100}});
  EXPECT_EQ(Receive()[2], 8092u) << "asked once more";
  Taken({});
  EXPECT_EQ(*Result(), 64 * kMib - 100 * 4096);
}

TEST_F(MemoryTest, PagesInUseAndPagesThatAreNoneAreRefusedAndGivenBack) {
  Start();
  in_use = {505};
  Target(60);
  Receive();
  Taken({{500, 10}, {16380, 10}, {100, 10}, {105, 2}, {200, 0}, {1ull << 39, 4}});
  const auto back = Receive();
  EXPECT_EQ(back[0] & 0xFFFF, 8u);
  EXPECT_EQ(back[3], 4u) << "in use, beyond the end, taken already, nowhere";
  EXPECT_EQ(discarded.size(), 10u);
  EXPECT_EQ(Stat("memory.refused_pages"), 26u);
  SendWords(9 | 8 << 16, 4);
  EXPECT_EQ(Receive()[0] & 0xFFFF, 6u) << "and asked for others";
  Taken({});
  EXPECT_EQ(*Result(), 64 * kMib - 10 * 4096);
}

TEST_F(MemoryTest, WhatComesWhileTheLoopsAreAskedWaits) {
  Start();
  hold = true;
  Target(60);
  EXPECT_EQ(Receive()[2], 1024u);
  Taken({{1000, 500}}, true);
  Taken({{2000, 300}}, true);
  Taken({{3000, 224}});
  Taken({{4000, 1}});  // the answer was complete
  for (int i = 0; i < 2000 && Stat("memory.rejected") == 0; ++i) usleep(1000);
  EXPECT_EQ(Stat("memory.rejected"), 1u);
  partition.OnControl([&] {
    EXPECT_EQ(held.size(), 1u) << "one at a time";
    EXPECT_TRUE(discarded.empty());
    in_use = {2299};
    std::exchange(held, {}).front()();
    EXPECT_EQ(discarded.size(), 500u);
    ASSERT_EQ(held.size(), 1u);
    EXPECT_FALSE(result.has_value());
    std::exchange(held, {}).front()();
    EXPECT_EQ(discarded.size(), 724u);
  });
  const auto back = Receive();
  EXPECT_EQ(back[0] & 0xFFFF, 8u);
  EXPECT_EQ(back[4], 2000u) << "the range that a transfer used came back";
  EXPECT_EQ(Stat("memory.refused_pages"), 300u);
}

TEST_F(MemoryTest, MoreThanWasAskedForIsGivenBack) {
  Start();
  Target(60);
  EXPECT_EQ(Receive()[2], 1024u);
  Taken({{1000, 1000}, {3000, 100}, {4000, 24}, {5000, 1}});
  const auto back = Receive();
  EXPECT_EQ(back[3], 2u);
  EXPECT_EQ(back[4], 3000u);
  EXPECT_EQ(back[6], 5000u);
  EXPECT_EQ(discarded.size(), 1024u);
  SendWords(9 | 8 << 16, 4);
  EXPECT_EQ(*Result(), 60 * kMib);
}

class SlowMemoryTest : public MemoryTest {
 protected:
  SlowMemoryTest() { patience_ms = 200; }  // long enough for a busy machine to answer in time
  void ExpectAssigned(uint64_t bytes) {
    for (int i = 0; i < 5000 && Stat("memory.assigned_bytes") != bytes; ++i) usleep(1000);
    EXPECT_EQ(Stat("memory.assigned_bytes"), bytes);
  }
};

// Nobody waits any more when the guest gives its pages: they are the host's all the same.
TEST_F(SlowMemoryTest, PagesThatComeLateAreDiscardedOrGivenBack) {
  Start();
  in_use = {2000};
  Target(60);
  Receive();
  EXPECT_EQ(Result().status().code(), absl::StatusCode::kDeadlineExceeded);
  Taken({{1000, 500}}, true);
  Taken({{1500, 424}, {2000, 100}});
  const auto back = Receive();
  EXPECT_EQ(back[0] & 0xFFFF, 8u);
  EXPECT_EQ(back[4], 2000u);
  SendWords(9 | 8 << 16, 3);
  ExpectAssigned(64 * kMib - 924 * 4096);
  partition.OnControl([&] { EXPECT_EQ(discarded.size(), 924u); });
  EXPECT_EQ(Stat("memory.rejected"), 0u);
  Target(64);
  EXPECT_EQ(Receive()[3], 1u) << "all of it is known";
  SendWords(9 | 8 << 16, 4);
  EXPECT_EQ(*Result(), 64 * kMib);
}

// The address of memory that the guest has not answered for is not used again.
TEST_F(SlowMemoryTest, AnAddThatIsAnsweredLateKeepsItsAddress) {
  Start();
  Target(192);
  Receive();
  EXPECT_EQ(Result().status().code(), absl::StatusCode::kDeadlineExceeded);
  added = {};
  Target(192);
  EXPECT_EQ(Result().status().code(), absl::StatusCode::kDeadlineExceeded) << "still under way";
  EXPECT_EQ(added.second, 0u);
  SendWords(11 | 16 << 16, 5, 32768, 1);
  ExpectAssigned(192 * kMib);
  Target(320);
  Receive();
  EXPECT_EQ(added.first, (1ull << 32) + 128 * kMib);
  ASSERT_EQ(channel.Close(connection), Result::kOk) << "without an answer";
  ExpectAssigned(320 * kMib);
}

// A target set while the guest has not answered for the last one is gone for afterwards.
TEST_F(MemoryTest, ATargetSetDuringAnAdd) {
  Start();
  Target(192);
  Receive();
  Target(320);
  EXPECT_EQ(added.first, 1ull << 32);
  SendWords(11 | 16 << 16, 5, 32768, 1);
  Receive();
  SendWords(11 | 16 << 16, 6, 32768, 1);
  EXPECT_EQ(*Result(), 320 * kMib);
  EXPECT_EQ(added.first, (1ull << 32) + 128 * kMib);
}

// More ranges than one message holds: none is lost to a full ring.
TEST_F(MemoryTest, EverythingThatIsRefusedIsGivenBack) {
  Start();
  for (uint64_t page = 0; page < 2048; ++page) in_use.insert(page);
  Target(60);
  Receive();
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (uint64_t i = 0; i < 1020; ++i) ranges.emplace_back(2 * i, 1);
  for (size_t at = 0; at < ranges.size(); at += 255) {
    Taken({ranges.begin() + at, ranges.begin() + at + 255}, at + 255 < ranges.size());
  }
  std::set<uint64_t> back;
  while (back.size() < ranges.size()) {
    const auto message = Receive();
    ASSERT_EQ(message[0] & 0xFFFF, 8u);
    ASSERT_EQ(message[2], 0u) << "answered before the next one is sent";
    for (uint32_t i = 0; i < message[3]; ++i) back.insert(message[4 + 2 * i]);
    SendWords(9 | 8 << 16, 3);
  }
  EXPECT_TRUE(discarded.empty());
}

TEST_F(MemoryTest, AnExaminationEndsWithTheChannel) {
  Start();
  hold = true;
  Target(60);
  Receive();
  Taken({{1000, 10}});
  for (int i = 0; i < 2000; ++i) {
    bool there = false;
    partition.OnControl([&] { there = !held.empty(); });
    if (there) break;
    usleep(1000);
  }
  ASSERT_EQ(channel.Close(connection), Result::kOk);
  partition.OnControl([&] {
    ASSERT_EQ(held.size(), 1u);
    held.front()();
    EXPECT_TRUE(discarded.empty());
  });
}

TEST_F(MemoryTest, Adds) {
  Start();
  Target(192);
  auto request = Receive();
  EXPECT_EQ(request[0] & 0xFFFF, 10u);
  EXPECT_EQ(request[0] >> 16, 24u);
  EXPECT_EQ(added, (std::pair<uint64_t, uint64_t>{1ull << 32, 128 * kMib}));
  SendWords(11 | 16 << 16, 5, 32768, 1);
  EXPECT_EQ(*Result(), 192 * kMib);
  Target(320);
  Receive();
  EXPECT_EQ(added.first, (1ull << 32) + 128 * kMib);
  SendWords(11 | 16 << 16, 5, 0, 1);
  EXPECT_FALSE(Result().ok()) << "it took nothing";
  Target(321);
  EXPECT_FALSE(Result().ok()) << "more than the maximum";
}

TEST_F(MemoryTest, AGuestThatCannotAdd) {
  Start(1);
  Target(192);
  EXPECT_FALSE(Result().ok());
}

TEST_F(MemoryTest, LyingMessagesAreCounted) {
  Start();
  SendWords(7 | 16 << 16, 3, 0, 0);   // nothing was asked
  SendWords(9 | 8 << 16, 3);          // the same
  SendWords(11 | 16 << 16, 3, 0, 1);  // the same
  SendWords(99 | 8 << 16, 3);         // unknown
  SendWords(5 | 200 << 16, 3);        // longer than it is
  SendWords(5 | 4 << 16, 3);          // shorter than a header
  SendWords(5 | 12 << 16, 3, 1);      // cut off
  Target(60);
  Receive();
  SendWords(7 | 24 << 16, 3, 0, 500 << 1, 1, 2);  // claims 500 ranges
  EXPECT_FALSE(Result().ok());
  EXPECT_EQ(Stat("memory.rejected"), 8u);
  EXPECT_TRUE(discarded.empty());
}

class KeyboardTest : public DeviceTest {
 protected:
  void SetUp() override {
    partition.OnControl([&] {
      keyboard = std::make_unique<Keyboard>(partition.loop());
      ASSERT_NE(partition.server().AddDevice(*keyboard), 0u);
    });
    Open(vmbus::kKeyboardClass);
  }
  absl::Status Type(const std::string& text) {
    absl::Status status;
    partition.OnControl([&] { status = keyboard->Type(text); });
    return status;
  }
  std::unique_ptr<Keyboard> keyboard;
};

TEST_F(KeyboardTest, TypesWithShift) {
  EXPECT_FALSE(Type("a").ok()) << "no driver yet";
  SendWords(1, 0x00020000);
  EXPECT_EQ(Receive(), (std::vector<uint32_t>{2, 0})) << "a version that there is not";
  EXPECT_FALSE(Type("a").ok());
  SendWords(1, 0x00010000);
  EXPECT_EQ(Receive(), (std::vector<uint32_t>{2, 1}));
  ASSERT_TRUE(Type("a?").ok());
  using Event = std::vector<uint32_t>;  // padded to 8 bytes
  EXPECT_EQ(Receive(), (Event{3, 0x1E, 0, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x1E, 2, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x2A, 0, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x35, 0, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x35, 2, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x2A, 2, 0}));
  absl::Status chord;
  partition.OnControl([&] { chord = keyboard->Chord("Ctrl+Del"); });
  ASSERT_TRUE(chord.ok());
  EXPECT_EQ(Receive(), (Event{3, 0x1D, 0, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x53, 4, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x53, 6, 0}));
  EXPECT_EQ(Receive(), (Event{3, 0x1D, 2, 0}));
}

TEST_F(KeyboardTest, RefusesWhatHasNoKey) {
  SendWords(1, 0x00010000);
  Receive();
  EXPECT_FALSE(Type("\x01").ok());
  EXPECT_FALSE(Type("a\xC3\xA9").ok());
  EXPECT_FALSE(Type(std::string(300, 'a')).ok());
  EXPECT_FALSE(Type(std::string(1, '\0')).ok());
  absl::Status chord;
  for (const char* bad : {"", "ctrl+", "nokey", "ctrl++"}) {
    partition.OnControl([&] { chord = keyboard->Chord(bad); });
    EXPECT_FALSE(chord.ok()) << bad;
  }
  // A guest that does not read is not waited for.
  bool full = false;
  for (int i = 0; i < 2000 && !full; ++i) full = !Type("Aaaaaaaaaa").ok();
  EXPECT_TRUE(full);
}

}  // namespace
}  // namespace partita::integration
