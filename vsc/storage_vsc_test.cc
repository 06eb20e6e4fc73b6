// What the storage driver promises the kernels that use it, against our own parent and against ones
// that know less or misbehave.
#include "vsc/storage_vsc.h"

#include <cstring>

#include "tests/fakes/scripted_device.h"
#include "vsp/storage/storage_test_base.h"

namespace partita::storage {
namespace {

namespace proto = vmbus::storage;
constexpr std::array<uint8_t, 6> kTestUnitReady = {};

class StorageVscTest : public StorageTest {
 protected:
  void SetUp() override {
    StorageTest::SetUp();
    ASSERT_EQ(driver->Initialize(), Result::kOk);
    data = partition.Allocate(64 << 10);
  }
  std::byte* data = nullptr;
};

TEST_F(StorageVscTest, WaitingCallsWorkOnAMaskedRing) {
  primary.reader().MaskInterrupts();
  Completion completion;
  ASSERT_EQ(driver->Execute(0, kTestUnitReady, {}, true, &completion), Result::kOk);
  vsc::DiskGeometry geometry;
  ASSERT_EQ(driver->ReadCapacity(0, data, &geometry), Result::kOk);
  EXPECT_EQ(geometry.blocks * geometry.block_size, kDiskSize);
  EXPECT_EQ(driver->Reset(), Result::kOk);
  EXPECT_TRUE(primary.reader().masked()) << "as the caller had it";
}

TEST_F(StorageVscTest, CompletionsOfOthersAreKeptWhileACallWaits) {
  constexpr uint64_t kRequests = 40;
  for (uint64_t i = 1; i <= kRequests; ++i) {
    ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, i * 8, 8, data, 4096, i), Result::kOk);
  }
  Completion completion;
  ASSERT_EQ(driver->Execute(0, kTestUnitReady, {}, true, &completion), Result::kOk);
  EXPECT_TRUE(completion.ok || completion.sense_key == 6);
  EXPECT_EQ(driver->Reset(), Result::kOk) << "waits for all of them";
  uint64_t sum = 0;
  for (const Completion& one : Collect(primary, kRequests)) sum += one.tag;
  EXPECT_EQ(sum, kRequests * (kRequests + 1) / 2) << "each once";
  EXPECT_EQ(driver->Poll(primary, &completion), RingStatus::kEmpty);
}

TEST_F(StorageVscTest, WhatCanNeverBeSentIsRefusedAndNotSent) {
  const std::array<uint8_t, 17> long_cdb = {};
  const uint32_t too_much = driver->max_transfer() + 512;
  Completion completion;
  EXPECT_EQ(driver->Submit(primary, 0, long_cdb, nullptr, 0, true, 1), Result::kInvalid);
  EXPECT_EQ(driver->Submit(primary, 0, {}, nullptr, 0, true, 1), Result::kInvalid);
  EXPECT_EQ(driver->Submit(primary, 0, kTestUnitReady, data, too_much, true, 1), Result::kInvalid);
  EXPECT_EQ(driver->Submit(primary, 0, kTestUnitReady, nullptr, 0, true, 0), Result::kInvalid);
  EXPECT_EQ(
      driver->Submit(primary, 0, kTestUnitReady, nullptr, 0, true, vsc::StorageVsc::kReservedTags),
      Result::kInvalid);
  EXPECT_EQ(driver->Execute(0, long_cdb, {}, true, &completion), Result::kInvalid);
  EXPECT_EQ(driver->Execute(0, kTestUnitReady, {data, too_much}, true, &completion),
            Result::kInvalid);
  const uint64_t before = Stats().at("channel.packets_in");
  ASSERT_EQ(driver->Execute(0, kTestUnitReady, {}, true, &completion), Result::kOk);
  EXPECT_EQ(Stats().at("channel.packets_in"), before + 1);
}

TEST_F(StorageVscTest, TheLargestTransferIsOneThatWorks) {
  std::byte* much = partition.Allocate(driver->max_transfer() + 4096);
  const uint32_t blocks = driver->max_transfer() / 512;
  // In the middle of a page, so that it touches one page more.
  ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, 0, blocks, much + 512, blocks * 512, 1),
            Result::kOk);
  primary.Commit();
  EXPECT_TRUE(Collect(primary, 1)[0].ok);
}

TEST_F(StorageVscTest, AFullRingIsNoRoomAndNothingElse) {
  uint64_t sent = 0;
  Result result = Result::kOk;
  while (result == Result::kOk && sent < 10'000) {  // not published, so nobody makes room
    result = driver->SubmitReadWrite(primary, 0, true, 0, 8, data, 4096, sent + 1);
    if (result == Result::kOk) ++sent;
  }
  EXPECT_EQ(result, Result::kNoRoom);
  primary.Commit();
  Collect(primary, sent);
  EXPECT_EQ(driver->SubmitReadWrite(primary, 0, true, 0, 8, data, 4096, 1), Result::kOk);
  primary.Commit();
  Collect(primary, 1);
}

TEST_F(StorageVscTest, ABrokenRingIsToldFromAnEmptyOne) {
  // The parent's index, out of range.
  auto* control = reinterpret_cast<vmbus::RingControl*>(primary_ring + kRingPages / 2 * 4096);
  std::atomic_ref<uint32_t>(control->write_index).store(0xFFFFFFF8);
  Completion completion;
  EXPECT_EQ(driver->Execute(0, kTestUnitReady, {}, true, &completion), Result::kBroken);
  EXPECT_EQ(driver->Reset(), Result::kBroken);
}

// A parent that knows versions up to `newest` and whose properties say `max_transfer`.
class OldParentTest : public testing::Test {
 protected:
  void Build(uint16_t newest, uint32_t max_transfer = 64 << 10) {
    device = std::make_unique<testing_support::ScriptedDevice>(
        partition.loop(), vmbus::kScsiClass,
        [newest, max_transfer](vmbus::ServerChannel& served, const vmbus::Packet& packet) {
          proto::Packet message{};
          std::memcpy(&message, packet.payload.data(),
                      std::min(sizeof(message), packet.payload.size()));
          const bool refused =
              message.operation == proto::kQueryProtocolVersion && message.version.version > newest;
          if (message.operation == proto::kQueryProperties) {
            proto::Properties properties{};
            properties.max_transfer = max_transfer;
            std::memcpy(message.properties, &properties, sizeof(properties));
          }
          message.operation = proto::kCompleteIo;
          message.status = refused ? proto::kStatusRevisionMismatch : proto::kStatusSuccess;
          ASSERT_EQ(served.Send(vmbus::kPacketCompletion, 0, packet.descriptor.transaction_id,
                                std::as_bytes(std::span(&message, 1))),
                    RingStatus::kOk);
        });
    partition.OnControl([&] { ASSERT_NE(partition.server().AddDevice(*device), 0u); });
    ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(connection.RequestOffers(), Result::kOk);
  }
  Result Open() {
    const vmbus::Offer* offer = connection.Find(vmbus::kScsiClass, 0);
    auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
    return channel.Open(connection, transport, *offer, partition.Allocate(8 * 4096), 8, list,
                        {partition.Allocate(4096), 4096}, 0);
  }
  void TearDown() override { partition.Shutdown(); }
  testing_support::HostedPartition partition;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  vmbus::client::Channel channel;
  vsc::StorageVsc driver{transport, channel};
  std::unique_ptr<testing_support::ScriptedDevice> device;
};

TEST_F(OldParentTest, TheNewestVersionThatBothKnow) {
  Build(proto::kVersion6_0);
  ASSERT_EQ(Open(), Result::kOk);
  ASSERT_EQ(driver.Initialize(), Result::kOk);
  EXPECT_EQ(driver.version(), proto::kVersion6_0);
  EXPECT_EQ(driver.max_transfer(), 64u << 10);
}

TEST_F(OldParentTest, NoVersionInCommonIsRefused) {
  Build(0x0402, 1 << 30);
  ASSERT_EQ(Open(), Result::kOk);
  EXPECT_EQ(driver.Initialize(), Result::kRefused);
  EXPECT_EQ(driver.version(), 0);
}

TEST_F(OldParentTest, ATransferIsNoLongerThanTheDriverCanDescribe) {
  Build(proto::kVersion6_2, 1u << 30);
  ASSERT_EQ(Open(), Result::kOk);
  ASSERT_EQ(driver.Initialize(), Result::kOk);
  EXPECT_LT(driver.max_transfer(), 2u << 20);
}

// The ring's memory is the caller's again.
TEST_F(OldParentTest, ARefusedOpenLeavesNoGpadl) {
  Build(proto::kVersion6_2);
  device->refuse_open = true;
  EXPECT_EQ(Open(), Result::kRefused);
  EXPECT_EQ(partition.Stats().at("vmbus.gpadl_pages"), 0u);
  device->refuse_open = false;
  EXPECT_EQ(Open(), Result::kOk);
}

// A parent whose queue stays full is given up in the end.
TEST(ConnectionTest, APostThatNobodyTakesEnds) {
  class Deaf final : public vmbus::client::Transport {
   public:
    uint16_t Post(uint32_t, const void*, size_t) override { return 0x13; }
    void Signal(uint32_t) override {}
    bool Receive(std::byte*) override { return false; }
    bool Wait() override { return true; }
    uint64_t PfnOf(const void*) override { return 0; }
  } transport;
  vmbus::client::Connection connection(transport);
  EXPECT_EQ(connection.RequestOffers(), Result::kNoRoom);
}

TEST(ConnectionTest, OffersComeAndGoWithoutWaiting) {
  testing_support::HostedPartition partition;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  testing_support::ScriptedDevice device(partition.loop(), vmbus::kScsiClass,
                                         [](vmbus::ServerChannel&, const vmbus::Packet&) {});
  ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
  ASSERT_EQ(connection.RequestOffers(), Result::kOk);
  for (int round = 0; round < 100; ++round) {
    uint32_t relid = 0;
    bool gone = false;
    partition.OnControl([&] { relid = partition.server().AddDevice(device); });
    connection.Poll();
    ASSERT_NE(connection.Find(vmbus::kScsiClass, 0), nullptr);
    EXPECT_EQ(connection.TakeRescind(), 0u);
    partition.OnControl([&] { partition.server().RemoveDevice(relid, [&] { gone = true; }); });
    connection.Poll();
    ASSERT_EQ(connection.TakeRescind(), relid);
    EXPECT_EQ(connection.TakeRescind(), 0u) << "told once";
    ASSERT_EQ(connection.Release(relid), Result::kOk);
    EXPECT_EQ(connection.Find(vmbus::kScsiClass, 0), nullptr);
    for (bool done = false; !done;) partition.OnControl([&] { done = gone; });
  }
}

}  // namespace
}  // namespace partita::storage
