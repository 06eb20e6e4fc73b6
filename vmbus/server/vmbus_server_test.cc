// The server's shell: what the state machine (channel_state_machine_test.cc) does not see.
#include "vmbus/server/vmbus_server.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>

#include "tests/fakes/hosted_partition.h"

namespace partita::vmbus {
namespace {

class NullDevice : public ChannelDevice {
 public:
  [[nodiscard]] OfferParameters offer() const override { return {.type = kScsiClass}; }
  [[nodiscard]] uint32_t max_packet() const override { return 4096; }
  bool OnOpen(const OpenRequest&, std::shared_ptr<ServerChannel> channel) override {
    channel_ = std::move(channel);
    ++opened;
    return true;
  }
  void OnClose(uint32_t, std::function<void()> done) override {
    channel_.reset();
    done();
  }
  int opened = 0;

 private:
  std::shared_ptr<ServerChannel> channel_;
};

class ShutdownTest : public testing::Test {
 protected:
  template <typename T>
  void Post(const T& message) {
    EXPECT_EQ(partition.server().OnGuestMessage(kMessageConnection, 1,
                                                std::as_bytes(std::span(&message, 1))),
              hv::kSuccess);
  }
  // Everything a guest does to open the first channel, from its contact on, without waiting.
  void QueueOpen(uint32_t relid) {
    constexpr uint32_t kPages = 4, kHandle = 5;
    InitiateContact contact{};
    contact.header.type = kInitiateContact;
    contact.version = kVersion5_3;
    Post(contact);
    Header offers{};
    offers.type = kRequestOffers;
    Post(offers);
    GpadlHeader gpadl{};
    gpadl.header.type = kGpadlHeader;
    gpadl.relid = relid;
    gpadl.gpadl = kHandle;
    gpadl.range_buffer_length = 8 + 8 * kPages;
    gpadl.range_count = 1;
    gpadl.byte_count = kPages * 4096;
    std::array<std::byte, sizeof(gpadl) + 8 * kPages> bytes;
    std::memcpy(bytes.data(), &gpadl, sizeof(gpadl));
    const uint64_t first = partition.Pfn(partition.Allocate(kPages * 4096));
    for (uint64_t i = 0; i < kPages; ++i) {
      const uint64_t pfn = first + i;
      std::memcpy(bytes.data() + sizeof(gpadl) + 8 * i, &pfn, sizeof(pfn));
    }
    EXPECT_EQ(partition.server().OnGuestMessage(kMessageConnection, 1, bytes), hv::kSuccess);
    OpenChannel open{};
    open.header.type = kOpenChannel;
    open.relid = relid;
    open.gpadl = kHandle;
    open.downstream_page_offset = kPages / 2;
    Post(open);
  }
  testing_support::HostedPartition partition;
  NullDevice device;
};

TEST_F(ShutdownTest, MessagesQueuedBeforeItOpenNothingBehindIt) {
  std::promise<void> done;
  uint32_t relid = 0;
  partition.OnControl([&] {
    relid = partition.server().AddDevice(device);
    // What virtual processors had posted when they were stopped: still queued when Shutdown begins.
    QueueOpen(relid);
    partition.server().Shutdown([&] { done.set_value(); });
  });
  if (done.get_future().wait_for(std::chrono::seconds(20)) != std::future_status::ready) {
    ADD_FAILURE() << "Shutdown does not end";
    std::_Exit(1);  // the fixture would wait for the same
  }
  EXPECT_EQ(device.opened, 0);
  EXPECT_EQ(partition.server().machine().open_channels(), 0u);
}

// Without it, the same messages do open the channel, and Shutdown closes it.
TEST_F(ShutdownTest, ClosesWhatIsOpen) {
  uint32_t relid = 0;
  partition.OnControl([&] {
    relid = partition.server().AddDevice(device);
    QueueOpen(relid);
  });
  for (int opened = 0; opened == 0;) partition.OnControl([&] { opened = device.opened; });
  partition.Shutdown();
  EXPECT_EQ(partition.server().machine().open_channels(), 0u);
}

}  // namespace
}  // namespace partita::vmbus
