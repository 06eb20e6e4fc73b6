// Message slots and event flags as the TLFS describes them ("Inter-Partition Communication"), on
// plain memory: what both backends share.
#include "synic/synic.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

namespace partita {
namespace {

class FakeSynic : public Synic {
 public:
  explicit FakeSynic(GuestMemory& memory) : Synic(memory) {
    vps_.push_back(std::make_unique<Vp>(vcpu_));
  }
  absl::Status AttachVp(const KvmVcpu&, AutoEoiInjector&) override { return absl::OkStatus(); }
  bool ReadMsr(uint32_t, uint32_t, uint64_t*) override { return false; }
  bool WriteMsr(uint32_t, uint32_t, uint64_t) override { return false; }
  void OnSynicExit(uint32_t, uint64_t, uint64_t, uint64_t) override {}
  absl::Status Bind(uint32_t, int) override { return absl::OkStatus(); }
  void Unbind(uint32_t, int) override {}

  bool Enable(uint64_t simp, uint64_t siefp) {
    Vp& vp = *vps_[0];
    MutexLock lock(vp.mutex);
    vp.enabled = true;
    const bool ok = SetMessagePage(vp, simp) && SetFlagPage(vp, siefp);
    Deliver(vp);
    return ok;
  }
  void EndOfMessage() {
    MutexLock lock(vps_[0]->mutex);
    Deliver(*vps_[0]);
  }
  using Synic::MakeMessage;
  using Synic::Publish;
  using Synic::PutOrAskForEnd;
  std::vector<uint32_t> raised;

 protected:
  void Raise(Vp&, uint32_t sint) override { raised.push_back(sint); }
  void QueueChanged(Vp&) override {}

 private:
  KvmVcpu vcpu_{UniqueFd(), Mapping(), 0};
};

class SynicTest : public testing::Test {
 protected:
  static constexpr uint64_t kSimp = 0x1000, kSiefp = 0x2000;
  hv::Message& Slot(uint32_t sint) {
    return *reinterpret_cast<hv::Message*>(ram.data() + kSimp + size_t{sint} * 256);
  }
  bool Post(uint32_t value, uint32_t sint = 2) {
    return synic.PostMessage(0, sint, 1, std::as_bytes(std::span(&value, 1)));
  }
  uint32_t Payload(uint32_t sint = 2) {
    uint32_t value = 0;
    std::memcpy(&value, Slot(sint).payload, sizeof(value));
    return value;
  }
  alignas(4096) std::array<std::byte, 0x4000> ram{};
  GuestMemory::Region region{.gpa = 0, .size = ram.size(), .host = ram.data()};
  GuestMemory memory{std::span(&region, 1)};
  FakeSynic synic{memory};
};

TEST_F(SynicTest, MessagesWaitForTheirSlotAndComeInOrder) {
  ASSERT_TRUE(Post(1));  // before the guest has a page: queued
  ASSERT_TRUE(synic.Enable(kSimp | 1, kSiefp | 1));
  EXPECT_EQ(Slot(2).type, 1u);
  EXPECT_EQ(Slot(2).payload_size, 4);
  EXPECT_EQ(Payload(), 1u);
  EXPECT_EQ(synic.raised.size(), 1u);
  ASSERT_TRUE(Post(2));
  ASSERT_TRUE(Post(3));
  EXPECT_EQ(Payload(), 1u);                           // not overwritten
  EXPECT_EQ(Slot(2).flags & hv::kMessagePending, 1);  // the guest is asked for EOM
  EXPECT_EQ(synic.raised.size(), 1u);
  synic.EndOfMessage();  // EOM with the slot still full changes nothing
  EXPECT_EQ(Payload(), 1u);
  for (const uint32_t expected : {2u, 3u}) {
    Slot(2).type = 0;
    synic.EndOfMessage();
    EXPECT_EQ(Slot(2).type, 1u);
    EXPECT_EQ(Payload(), expected);
  }
  EXPECT_EQ(synic.raised.size(), 3u);
  EXPECT_EQ(Slot(2).flags & hv::kMessagePending, 0);  // nothing waits behind the last one
}

// KVM's timers use the slot too (kernel backend, Linux 3.15 to 4.20): one that was taken between
// the look and the message keeps what is in it, and the guest is asked to report its end.
TEST_F(SynicTest, ASlotTakenMeanwhileIsNotOverwritten) {
  const hv::Message message = FakeSynic::MakeMessage(hv::kMessageTypeVmbus, {});
  auto* slot = reinterpret_cast<std::byte*>(&Slot(2));
  Slot(2).type = hv::kMessageTypeTimer;
  EXPECT_FALSE(FakeSynic::Publish(slot, message));
  EXPECT_EQ(Slot(2).type, hv::kMessageTypeTimer);
  EXPECT_FALSE(FakeSynic::PutOrAskForEnd(slot, message));
  EXPECT_EQ(Slot(2).type, hv::kMessageTypeTimer);
  EXPECT_EQ(Slot(2).flags & hv::kMessagePending, 1);
  Slot(2).type = 0;
  EXPECT_TRUE(FakeSynic::PutOrAskForEnd(slot, message));
  EXPECT_EQ(Slot(2).type, hv::kMessageTypeVmbus);
}

TEST_F(SynicTest, ABusySlotHoldsUpOnlyItsOwnSint) {
  ASSERT_TRUE(synic.Enable(kSimp | 1, kSiefp | 1));
  ASSERT_TRUE(Post(1, 2));
  ASSERT_TRUE(Post(2, 2));
  ASSERT_TRUE(Post(3, 5));
  EXPECT_EQ(Payload(2), 1u);
  EXPECT_EQ(Payload(5), 3u);
}

// What an earlier life of the guest left in the page must not block delivery for ever
// (openvmm#3720).
TEST_F(SynicTest, StaleMessagesAreClearedWhenThePageIsEnabled) {
  Slot(2).type = 77;
  ASSERT_TRUE(synic.Enable(kSimp | 1, kSiefp | 1));
  ASSERT_TRUE(Post(9));
  EXPECT_EQ(Payload(), 9u);
}

TEST_F(SynicTest, PagesOutsideRamAreRefused) {
  for (const uint64_t page : {uint64_t{0x4000}, uint64_t{0x3FFFF000}, ~uint64_t{0xFFF}}) {
    EXPECT_FALSE(synic.Enable(page | 1, kSiefp | 1)) << std::hex << page;
    EXPECT_FALSE(synic.Enable(kSimp | 1, page | 1)) << std::hex << page;
  }
  synic.SetEventFlag(0, 2, 5);  // no page: lost and counted, not a crash
  StatSink sink;
  synic.DescribeTo(sink);
  EXPECT_EQ(sink.values().at("synic.lost_events"), 1u);
  EXPECT_EQ(sink.values().at("synic.rejected"), 6u);
}

TEST_F(SynicTest, EventFlagsInterruptOnceUntilTaken) {
  ASSERT_TRUE(synic.Enable(kSimp | 1, kSiefp | 1));
  synic.SetEventFlag(0, 2, 70);
  synic.SetEventFlag(0, 2, 70);
  EXPECT_EQ(synic.raised.size(), 1u);
  EXPECT_EQ(ram[kSiefp + 0x200 + 8], std::byte{1 << 6});
  ram[kSiefp + 0x200 + 8] = std::byte{0};
  synic.SetEventFlag(0, 2, 70);
  EXPECT_EQ(synic.raised.size(), 2u);
  // Indices a guest may have chosen: refused, nothing outside the page is touched.
  synic.SetEventFlag(0, 2, 2048);
  synic.SetEventFlag(0, 16, 1);
  synic.SetEventFlag(1, 2, 1);
  EXPECT_EQ(synic.raised.size(), 2u);
}

// A guest that never takes its messages holds a bounded number of them.
TEST_F(SynicTest, TenThousandPostsWithoutEomStayBounded) {
  ASSERT_TRUE(synic.Enable(kSimp | 1, kSiefp | 1));
  size_t taken = 0;
  for (uint32_t i = 0; i < 10000; ++i) taken += Post(i) ? 1 : 0;
  EXPECT_EQ(taken, Synic::kMaxQueued + 1);  // one in the slot
  synic.DropMessages();
  Slot(2).type = 0;
  synic.EndOfMessage();
  EXPECT_EQ(Slot(2).type, 0u);
  const std::array<std::byte, 241> too_long{};
  EXPECT_FALSE(synic.PostMessage(0, 2, 1, too_long));
  EXPECT_FALSE(synic.PostMessage(0, 2, 0, {}));
  EXPECT_FALSE(synic.PostMessage(7, 2, 1, {}));
}

}  // namespace
}  // namespace partita
