// How rings in guest memory are reached, and that every byte the parent writes there is reported to
// whoever listens.
#include "vmbus/server/ring_mapping.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>

#include "partition/memory/guest_ram.h"
#include "vmbus/server/server_channel.h"

namespace partita::vmbus {
namespace {

constexpr uint64_t kMemory = 64 << 20;

// A ring of contiguous frames, one of scattered frames, on both kinds of memory.
struct Shape {
  PageKind kind;
  std::vector<uint64_t> pfns;
  bool aliased, in_a_row;
};

TEST(RingMapping, EveryKindOfMemoryIsReachedInItsBestWay) {
  const Shape shapes[] = {
      {PageKind::kAuto, {100, 101, 102, 103, 104}, false, true},
      {PageKind::kAuto, {100, 500, 501, 502, 503}, false, true},  // the control page is apart
      {PageKind::kAuto, {100, 101, 103, 102, 104}, false, false},
      {PageKind::kShared, {100, 101, 102, 103, 104}, true, true},
      {PageKind::kShared, {100, 101, 103, 102, 104}, true, true},
  };
  for (const Shape& shape : shapes) {
    auto ram = *GuestRam::Create(kMemory, shape.kind);
    MappingBudget budget;
    auto mapping = RingMapping::Create(ram->memory(), shape.pfns, budget);
    ASSERT_NE(mapping, nullptr);
    EXPECT_EQ(mapping->aliased(), shape.aliased);
    EXPECT_EQ(mapping->memory().linear != nullptr, shape.in_a_row);
    // The same bytes, wherever they are looked at.
    const uint32_t size = mapping->memory().size;
    std::array<std::byte, 9000> in{}, out{};
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::byte>(i * 7 + i / 256);
    for (const uint32_t index : {0u, 8u, 4088u, 8000u, size - 8, size - 4096}) {
      mapping->memory().CopyIn(index, in.data(), in.size());
      mapping->memory().CopyOut(index, out.data(), out.size());
      EXPECT_EQ(in, out);
      for (uint32_t i = 0; i < in.size(); ++i) {
        const uint32_t at = (index + i) % size;
        ASSERT_EQ(ram->memory().Page(shape.pfns[1 + at / kRingPage])[at % kRingPage], in[i]);
      }
    }
  }
}

TEST(RingMapping, RefusesWhatIsNoRam) {
  auto ram = *GuestRam::Create(kMemory, PageKind::kAuto, 2 * kMemory);
  MappingBudget budget;
  const uint64_t added = ram->memory().regions().back().gpa >> kPageShift;
  for (const uint64_t bad : {kMemory >> kPageShift, added, UINT64_MAX}) {
    const uint64_t pfns[] = {100, 101, bad};
    EXPECT_EQ(RingMapping::Create(ram->memory(), pfns, budget), nullptr);
  }
}

class NoInterrupt : public Interrupt {
 public:
  void SetEventFlag(uint32_t, uint32_t, uint32_t) override {}
  bool PostMessage(uint32_t, uint32_t, uint32_t, std::span<const std::byte>) override {
    return true;
  }
  void DropMessages() override {}
};
class NoDoorbell : public Doorbell {
 public:
  absl::Status Bind(uint32_t, int) override { return absl::OkStatus(); }
  void Unbind(uint32_t, int) override {}
};

// Compares what was reported with what changed.
class Watch : public DirtySink {
 public:
  Watch(GuestMemory& memory, std::vector<uint64_t> pfns) : memory_(memory), pfns_(std::move(pfns)) {
    memory_.SetDirtySink(this);
    Remember();
  }
  ~Watch() override { memory_.SetDirtySink(nullptr); }
  void Mark(uint64_t gpa, uint64_t length) override {
    for (uint64_t at = gpa; at < gpa + length; ++at) marked_.insert(at);
  }
  // Since the last look: bytes that changed unreported, and whether any changed.
  struct Seen {
    size_t holes = 0, changed = 0;
  };
  Seen Look() {
    Seen seen;
    for (size_t i = 0; i < pfns_.size(); ++i) {
      const std::byte* now = memory_.Page(pfns_[i]);
      for (uint64_t at = 0; at < kPageSize; ++at) {
        if (now[at] == before_[i][at]) continue;
        ++seen.changed;
        if (!marked_.contains((pfns_[i] << kPageShift) + at)) ++seen.holes;
      }
    }
    marked_.clear();
    Remember();
    return seen;
  }

 private:
  void Remember() {
    before_.resize(pfns_.size());
    for (size_t i = 0; i < pfns_.size(); ++i) {
      std::memcpy(before_[i].data(), memory_.Page(pfns_[i]), kPageSize);
    }
  }
  GuestMemory& memory_;
  const std::vector<uint64_t> pfns_;
  std::vector<std::array<std::byte, kPageSize>> before_;
  std::set<uint64_t> marked_;
};

// Indices, packets, the interrupt mask, and the request for room.
TEST(ServerChannel, EveryByteWrittenIsReported) {
  auto ram = *GuestRam::Create(kMemory, PageKind::kAuto);
  GuestMemory& memory = ram->memory();
  MappingBudget budget;
  const uint64_t in[] = {100, 101, 102}, out[] = {200, 301, 203};
  NoInterrupt interrupt;
  NoDoorbell doorbell;
  PerLoop<ChannelCounters> counters;
  auto channel = ServerChannel::Create({.relid = 1}, memory, interrupt, doorbell,
                                       RingMapping::Create(memory, in, budget),
                                       RingMapping::Create(memory, out, budget), 4096, counters);
  ASSERT_NE(channel, nullptr);
  // The guest's end, over the same pages.
  const auto guest_out = RingMapping::Create(memory, in, budget);
  const auto guest_in = RingMapping::Create(memory, out, budget);
  RingWriter writer(guest_out->memory());
  std::array<std::byte, 4096> buffer{};
  RingReader reader(guest_in->memory(), buffer);
  const std::array<std::byte, 1000> payload{std::byte{1}, std::byte{2}};
  // Before anybody listens: nothing is lost by what was not reported then.
  ASSERT_EQ(channel->Send(kPacketInBand, 0, 1, payload), RingStatus::kOk);
  Watch watch(memory, {100, 101, 102, 200, 203, 301});
  channel->Commit();
  Watch::Seen seen = watch.Look();
  EXPECT_GT(seen.changed, 0u);
  EXPECT_EQ(seen.holes, 0u);

  channel->MaskDoorbell();
  seen = watch.Look();
  EXPECT_EQ(seen.changed, 1u);
  EXPECT_EQ(seen.holes, 0u);
  EXPECT_FALSE(channel->UnmaskDoorbell());
  seen = watch.Look();
  EXPECT_EQ(seen.changed, 1u);
  EXPECT_EQ(seen.holes, 0u);

  ASSERT_EQ(writer.Write(kPacketInBand, 0, 7, {}, payload), RingStatus::kOk);
  static_cast<void>(writer.Commit());
  static_cast<void>(watch.Look());
  Packet packet;
  ASSERT_EQ(channel->Next(&packet), RingStatus::kOk);
  channel->Commit();
  seen = watch.Look();
  EXPECT_GT(seen.changed, 0u);
  EXPECT_EQ(seen.holes, 0u);

  // Around the end of the ring, until it is full; then the request for room, and its end.
  for (int round = 0; round < 3; ++round) {
    while (channel->Send(kPacketInBand, 0, 1, payload) == RingStatus::kOk) {
    }
    channel->Commit();
    EXPECT_EQ(watch.Look().holes, 0u);
    EXPECT_TRUE(channel->RequestRoom(payload.size()));
    seen = watch.Look();
    EXPECT_GT(seen.changed, 0u);
    EXPECT_EQ(seen.holes, 0u);
    while (reader.Next(&packet) == RingStatus::kOk) {
    }
    static_cast<void>(reader.Commit());
    static_cast<void>(watch.Look());
    ASSERT_EQ(channel->Send(kPacketInBand, 0, 1, payload), RingStatus::kOk);
    channel->Commit();
    seen = watch.Look();
    EXPECT_GT(seen.changed, 0u);
    EXPECT_EQ(seen.holes, 0u);
  }
}

}  // namespace
}  // namespace partita::vmbus
