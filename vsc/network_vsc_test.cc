// What the network driver promises the kernels that use it: against our own parent, whose wire
// brings everything back, and against one that knows less.
#include "vsc/network_vsc.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "tests/fakes/hosted_partition.h"
#include "tests/fakes/scripted_device.h"
#include "vsp/network/net_backend.h"
#include "vsp/network/network_vsp.h"

namespace partita::network {
namespace {

namespace proto = vmbus::network;
using vmbus::client::Result;

constexpr MacAddress kOwn = {0, 0x15, 0x5D, 9, 8, 7};
constexpr size_t kRingPages = 34;

class NetworkVscTest : public testing::Test {
 protected:
  void SetUp() override {
    ring = partition.Allocate(kRingPages * 4096);
    list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
    packets = partition.Allocate(8192);
    buffers = {.receive = {partition.Allocate(1 << 20), 1 << 20},
               .send = {partition.Allocate(256 << 10), 256 << 10},
               .scratch = partition.Allocate(4096)};
    ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(connection.RequestOffers(), Result::kOk);
  }
  void TearDown() override {
    partition.Shutdown();
    adapter.reset();
  }
  void Plug() {
    NetworkVsp::Options options;
    options.mac = kOwn;
    adapter = std::make_unique<NetworkVsp>(std::move(options), MakeLoopbackBackend(1));
    adapter->Connect(partition.server());
    partition.OnControl([&] { ASSERT_NE(partition.server().AddDevice(*adapter), 0u); });
  }
  void Open() {
    const vmbus::Offer* offer = connection.Await(vmbus::kNetworkClass, 0);
    ASSERT_NE(offer, nullptr);
    ASSERT_EQ(
        channel.Open(connection, transport, *offer, ring, kRingPages, list, {packets, 8192}, 0),
        Result::kOk);
  }
  // One frame to oneself, gathered but not published.
  void Gather() {
    std::byte* at = driver.Prepare(60);
    ASSERT_NE(at, nullptr);
    std::memset(at, 0, 60);
    std::memcpy(at, kOwn.data(), kOwn.size());
    std::memcpy(at + kOwn.size(), kOwn.data(), kOwn.size());
    at[12] = at[13] = std::byte{0x88};
    ASSERT_TRUE(driver.Flush(channel));
  }
  // Takes frames until `frames` came and every send is finished.
  void Drain(size_t frames) {
    size_t got = 0;
    while (got < frames || driver.pending() > 0) {
      const bool more = driver.Poll(channel, [&](std::byte*, uint32_t) { ++got; });
      channel.Commit();
      if (!more) {
        ASSERT_TRUE(channel.AwaitPacket());
      }
    }
    EXPECT_EQ(got, frames);
  }
  uint64_t Stat(const std::string& name) {
    StatSink sink;
    adapter->DescribeTo(sink);
    return sink.values().at(name);
  }
  testing_support::HostedPartition partition;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  vmbus::client::Channel channel;
  vsc::NetworkVsc driver{connection, transport, channel};
  std::unique_ptr<NetworkVsp> adapter;
  std::byte *ring = nullptr, *packets = nullptr;
  std::byte** list = nullptr;
  vsc::NetworkVsc::Buffers buffers;
};

TEST_F(NetworkVscTest, WaitingCallsWorkOnAMaskedRing) {
  Plug();
  Open();
  channel.reader().MaskInterrupts();
  ASSERT_EQ(driver.Initialize(buffers), Result::kOk);
  EXPECT_EQ(driver.version(), proto::kVersion6_1);
  uint32_t granted = 9;
  EXPECT_EQ(driver.RequestSubChannels(1, &granted), Result::kOk);
  EXPECT_EQ(granted, 0u);
  EXPECT_TRUE(channel.reader().masked()) << "as the caller had it";
  Gather();
  channel.Commit();
  Drain(1);
}

// Frames that come while a call waits are answered, and sends that end meanwhile are known: no
// section is lost on either side.
TEST_F(NetworkVscTest, TrafficGoesOnWhileACallWaits) {
  Plug();
  Open();
  ASSERT_EQ(driver.Initialize(buffers), Result::kOk);
  constexpr uint64_t kRounds = 400;  // more than there are sections
  uint64_t drained = 0;
  for (uint64_t i = 0; i < kRounds; ++i) {
    Gather();
    channel.Commit();
    const uint32_t everything = 0x2D;
    ASSERT_EQ(driver.Set(proto::kOidPacketFilter, std::as_bytes(std::span(&everything, 1))),
              Result::kOk);
    // Whatever it did not meet is still to be taken.
    while (driver.pending() > 0 || driver.dropped() + drained < i + 1) {
      const bool more = driver.Poll(channel, [&](std::byte*, uint32_t) { ++drained; });
      channel.Commit();
      if (!more) {
        ASSERT_TRUE(channel.AwaitPacket());
      }
    }
  }
  EXPECT_EQ(driver.sent(), kRounds);
  EXPECT_EQ(driver.dropped() + drained, kRounds);
  EXPECT_EQ(Stat("network.rejected.completions"), 0u);
}

TEST_F(NetworkVscTest, ClosedAndOpenedAgainWithTheSameMemory) {
  Plug();
  for (int round = 0; round < 20; ++round) {
    Open();
    ASSERT_EQ(driver.Initialize(buffers), Result::kOk);
    Gather();
    channel.Commit();
    if (round % 2 == 0) Drain(1);  // or in the middle of it
    ASSERT_EQ(driver.Close(), Result::kOk);
    EXPECT_EQ(partition.Stats().at("vmbus.gpadl_pages"), 0u);
  }
}

TEST_F(NetworkVscTest, TheNewestVersionThatBothKnow) {
  for (const uint32_t newest : {proto::kVersion5, proto::kVersion1}) {
    testing_support::HostedPartition old;
    testing_support::HostedPartition::GuestTransport way{old};
    vmbus::client::Connection contact{way};
    vmbus::client::Channel line;
    vsc::NetworkVsc client{contact, way, line};
    testing_support::ScriptedDevice device(
        old.loop(), vmbus::kNetworkClass,
        [newest](vmbus::ServerChannel& served, const vmbus::Packet& packet) {
          proto::Nvsp message{};
          std::memcpy(&message, packet.payload.data(),
                      std::min(sizeof(message), packet.payload.size()));
          if ((packet.descriptor.flags & vmbus::kCompletionRequested) == 0) return;
          const bool known =
              message.type == proto::kInit && message.body[proto::kInitMaximum] <= newest;
          proto::Nvsp answer{.type = proto::kInitComplete, .body = {}};
          answer.body[proto::kInitStatus] = known ? proto::kNvspSuccess : proto::kNvspFail;
          ASSERT_EQ(served.Send(vmbus::kPacketCompletion, 0, packet.descriptor.transaction_id,
                                std::as_bytes(std::span(&answer, 1))),
                    vmbus::RingStatus::kOk);
        });
    old.OnControl([&] { ASSERT_NE(old.server().AddDevice(device), 0u); });
    ASSERT_EQ(contact.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(contact.RequestOffers(), Result::kOk);
    auto** pages = reinterpret_cast<std::byte**>(old.Allocate(4096));
    ASSERT_EQ(line.Open(contact, way, *contact.Find(vmbus::kNetworkClass, 0),
                        old.Allocate(8 * 4096), 8, pages, {old.Allocate(8192), 8192}, 0),
              Result::kOk);
    const vsc::NetworkVsc::Buffers memory = {.receive = {old.Allocate(1 << 20), 1 << 20},
                                             .send = {old.Allocate(256 << 10), 256 << 10},
                                             .scratch = old.Allocate(4096)};
    EXPECT_EQ(client.Initialize(memory), Result::kRefused) << "it takes no buffers";
    EXPECT_EQ(client.version(), newest);
    EXPECT_EQ(client.Close(), Result::kOk);
    EXPECT_EQ(old.Stats().at("vmbus.gpadl_pages"), 0u);
    old.Shutdown();
  }
}

}  // namespace
}  // namespace partita::network
