// Host sockets: the test is the guest, the other end of a socket pair is the host's program.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsp/socket/socket_hub.h"

namespace partita::socket {
namespace {

using vmbus::client::Result;

class SocketTest : public testing::Test {
 protected:
  void SetUp() override {
    partition.OnControl([&] {
      hub = *SocketHub::Create(
          partition.loop(),
          [this](uint32_t port, uint64_t id) {
            wanted_port = port;
            wanted_id = id;
          },
          50);
      hub->Connect(partition.server());
      partition.server().OnSocketConnect(
          [this](const vmbus::Guid& endpoint, const vmbus::Guid& service) {
            hub->OnGuestConnect(endpoint, service);
          });
    });
    ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(connection.RequestOffers(), Result::kOk);
  }
  void TearDown() override {
    partition.Shutdown();
    partition.OnControl([&] {
      hub->Forget();
      hub.reset();
    });
  }
  // The guest opens what was offered for a service.
  void Open(const vmbus::Guid& service) {
    const vmbus::Offer* offer = connection.Await(service, 0);
    ASSERT_NE(offer, nullptr);
    EXPECT_EQ(offer->flags, 0x2000);
    by_host = offer->user_data[4];
    auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
    ASSERT_EQ(channel.Open(connection, transport, *offer, partition.Allocate(14 * 4096), 14, list,
                           {partition.Allocate(32768), 32768}, 0),
              Result::kOk);
  }
  void Send(const std::vector<uint8_t>& data, uint32_t claimed, uint32_t type = 1) {
    std::vector<std::byte> bytes(8 + data.size());
    std::memcpy(bytes.data(), &type, 4);
    std::memcpy(bytes.data() + 4, &claimed, 4);
    if (!data.empty()) std::memcpy(bytes.data() + 8, data.data(), data.size());
    while (channel.writer().Write(vmbus::kPacketInBand, 0, 0, {}, bytes) ==
           vmbus::RingStatus::kFull) {
      channel.Commit();
      if (channel.writer().RequestRoom(static_cast<uint32_t>(bytes.size()))) {
        ASSERT_TRUE(transport.Wait());
      }
    }
    channel.Commit();
  }
  // Data of the next packet; empty for FIN.
  std::vector<uint8_t> Receive() {
    vmbus::Packet packet;
    while (channel.reader().Next(&packet) == vmbus::RingStatus::kEmpty) {
      channel.Commit();
      if (channel.reader().UnmaskAndCheck()) continue;
      if (!transport.Wait()) {
        ADD_FAILURE() << "nothing came";
        return {};
      }
    }
    const auto data = SocketData(packet.payload);
    EXPECT_TRUE(data.has_value());
    std::vector<uint8_t> out(data->size());
    if (!out.empty()) std::memcpy(out.data(), data->data(), out.size());
    channel.Commit();
    return out;
  }
  UniqueFd Pair(UniqueFd* hubs_end) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    *hubs_end = UniqueFd(ends[1]);
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return UniqueFd(ends[0]);
  }
  UniqueFd ConnectToGuest(uint32_t port) {
    UniqueFd theirs;
    UniqueFd ours = Pair(&theirs);
    partition.OnControl([&] { hub->ConnectToGuest(port, std::move(theirs)); });
    return ours;
  }
  static std::string Line(const UniqueFd& fd) {
    std::string line;
    char c = 0;
    while (recv(fd.get(), &c, 1, 0) == 1 && c != '\n') line += c;
    return line;
  }
  // The host took its offer back; the guest answers that, and the place is free.
  void ExpectRescind(bool open = true) {
    const uint32_t rescinded = connection.AwaitRescind();
    ASSERT_NE(rescinded, 0u);
    if (open) {
      ASSERT_EQ(channel.Close(connection), Result::kOk);
    }
    ASSERT_EQ(connection.Release(rescinded), Result::kOk);
    size_t left = 1;
    for (int i = 0; i < 5000 && left != 0; ++i) {
      partition.OnControl([&] { left = hub->connections(); });
      if (left != 0) usleep(1000);
    }
    EXPECT_EQ(left, 0u);
  }
  uint64_t Stat(const std::string& name) {
    StatSink sink;
    hub->DescribeTo(sink);
    return sink.values().at(name);
  }
  testing_support::HostedPartition partition;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  vmbus::client::Channel channel;
  std::unique_ptr<SocketHub> hub;
  std::atomic<uint32_t> wanted_port = 0;
  std::atomic<uint64_t> wanted_id = 0;
  uint8_t by_host = 9;
};

TEST_F(SocketTest, PortsAndServices) {
  uint32_t port = 0;
  EXPECT_TRUE(PortOfService(ServiceOfPort(0x16), &port));
  EXPECT_EQ(port, 0x16u);
  EXPECT_FALSE(PortOfService(vmbus::kScsiClass, &port));
}

TEST_F(SocketTest, TheHostConnectsAndEachHalfEndsByItself) {
  const UniqueFd fd = ConnectToGuest(77);
  Open(ServiceOfPort(77));
  EXPECT_EQ(by_host, 1);
  EXPECT_EQ(Line(fd), "OK 77");
  ASSERT_EQ(send(fd.get(), "hello", 5, 0), 5);
  EXPECT_EQ(Receive(), (std::vector<uint8_t>{'h', 'e', 'l', 'l', 'o'}));
  shutdown(fd.get(), SHUT_WR);
  EXPECT_TRUE(Receive().empty());
  // The other half still works.
  Send({'y', 'e', 's'}, 3);
  char text[8] = {};
  ASSERT_EQ(recv(fd.get(), text, 3, MSG_WAITALL), 3);
  EXPECT_STREQ(text, "yes");
  Send({}, 0);
  EXPECT_EQ(recv(fd.get(), text, 1, 0), 0);
}

TEST_F(SocketTest, MegabytesBothWaysThroughASmallRing) {
  const UniqueFd fd = ConnectToGuest(77);
  Open(ServiceOfPort(77));
  EXPECT_EQ(Line(fd), "OK 77");
  constexpr size_t kBytes = 2 << 20;
  std::thread writer([&] {
    std::vector<uint8_t> data(kBytes);
    for (size_t i = 0; i < kBytes; ++i) data[i] = static_cast<uint8_t>(i * 7 + i / 251);
    size_t at = 0;
    while (at < kBytes) {
      const ssize_t sent = send(fd.get(), data.data() + at, kBytes - at, MSG_NOSIGNAL);
      if (sent <= 0) break;
      at += static_cast<size_t>(sent);
    }
    shutdown(fd.get(), SHUT_WR);
  });
  size_t got = 0;
  bool same = true;
  while (true) {
    const auto data = Receive();
    if (data.empty()) break;
    for (const uint8_t byte : data) {
      same = same && byte == static_cast<uint8_t>(got * 7 + got / 251);
      ++got;
    }
  }
  writer.join();
  EXPECT_EQ(got, kBytes);
  EXPECT_TRUE(same);
  std::thread reader([&] {
    std::vector<uint8_t> data(65536);
    size_t count = 0;
    bool right = true;
    while (true) {
      const ssize_t part = recv(fd.get(), data.data(), data.size(), 0);
      if (part <= 0) break;
      for (ssize_t i = 0; i < part; ++i) {
        right = right && data[static_cast<size_t>(i)] == static_cast<uint8_t>(count++ * 3);
      }
    }
    EXPECT_EQ(count, kBytes);
    EXPECT_TRUE(right);
  });
  std::vector<uint8_t> piece(4088);
  size_t sent = 0;
  while (sent < kBytes) {
    piece.resize(std::min(piece.size(), kBytes - sent));
    for (uint8_t& byte : piece) byte = static_cast<uint8_t>(sent++ * 3);
    Send(piece, static_cast<uint32_t>(piece.size()));
  }
  Send({}, 0);
  reader.join();
}

TEST_F(SocketTest, TheGuestConnects) {
  vmbus::TlConnectRequest request{};
  request.header.type = vmbus::kTlConnectRequest;
  request.guest_endpoint = ServiceOfPort(50000);
  request.host_service = ServiceOfPort(2000);
  ASSERT_EQ(transport.Post(vmbus::kMessageConnection5, &request, sizeof(request)), 0);
  for (int i = 0; i < 2000 && wanted_port == 0; ++i) usleep(1000);
  ASSERT_EQ(wanted_port, 2000u);
  UniqueFd theirs;
  const UniqueFd ours = Pair(&theirs);
  partition.OnControl([&] { hub->Accept(wanted_id, std::move(theirs)); });
  Open(ServiceOfPort(2000));
  EXPECT_EQ(by_host, 0);
  Send({'x'}, 1);
  char c = 0;
  EXPECT_EQ(recv(ours.get(), &c, 1, 0), 1);
  EXPECT_EQ(c, 'x');
  // Another kind of GUID is no port.
  request.host_service = vmbus::kScsiClass;
  ASSERT_EQ(transport.Post(vmbus::kMessageConnection5, &request, sizeof(request)), 0);
  for (int i = 0; i < 2000 && Stat("socket.rejected") == 0; ++i) usleep(1000);
  EXPECT_EQ(Stat("socket.rejected"), 1u);
}

TEST_F(SocketTest, LyingPacketsEndTheConnection) {
  for (const bool type : {true, false}) {
    const UniqueFd fd = ConnectToGuest(type ? 80 : 81);
    Open(ServiceOfPort(type ? 80 : 81));
    EXPECT_TRUE(Line(fd).starts_with("OK"));
    if (type) {
      Send({1, 2, 3}, 3, 7);
    } else {
      Send({1, 2, 3}, 4000);
    }
    EXPECT_TRUE(Receive().empty());
    ExpectRescind();
  }
  EXPECT_EQ(Stat("socket.rejected"), 2u);
}

TEST_F(SocketTest, AHostProgramThatDiesEndsTheConnection) {
  UniqueFd fd = ConnectToGuest(90);
  Open(ServiceOfPort(90));
  EXPECT_EQ(Line(fd), "OK 90");
  fd.Reset();
  EXPECT_TRUE(Receive().empty()) << "FIN";
  Send({1}, 1);  // into the void
  Send({}, 0);
  ExpectRescind();
}

// A guest that says nothing more does not hold the place, and neither does one that takes nothing.
TEST_F(SocketTest, AConnectionWithoutAHostEndsWithoutTheGuest) {
  UniqueFd fd = ConnectToGuest(91);
  Open(ServiceOfPort(91));
  EXPECT_EQ(Line(fd), "OK 91");
  fd.Reset();
  ExpectRescind();

  fd = ConnectToGuest(92);
  Open(ServiceOfPort(92));
  EXPECT_EQ(Line(fd), "OK 92");
  const std::vector<char> much(200 << 10);  // more than the ring has room for
  std::thread writer([&] {
    static_cast<void>(send(fd.get(), much.data(), much.size(), MSG_NOSIGNAL));
    fd.Reset();
  });
  writer.join();
  ExpectRescind();
}

TEST_F(SocketTest, AGuestThatClosesTheChannelLeavesNothingBehind) {
  const UniqueFd fd = ConnectToGuest(93);
  Open(ServiceOfPort(93));
  EXPECT_EQ(Line(fd), "OK 93");
  ASSERT_EQ(channel.Close(connection), Result::kOk);
  EXPECT_TRUE(Line(fd).empty()) << "the host's program sees the end";
  ExpectRescind(false);
}

// The guest's client reads it among the answers it waits for; it is not lost by that.
TEST_F(SocketTest, ARescindBeforeAnotherAnswerIsKept) {
  UniqueFd fd = ConnectToGuest(93);
  Open(ServiceOfPort(93));
  EXPECT_EQ(Line(fd), "OK 93");
  fd.Reset();
  EXPECT_TRUE(Receive().empty());
  Send({}, 0);
  while (partition.messages() == 0) usleep(1000);
  ASSERT_EQ(channel.Close(connection), Result::kOk);
  EXPECT_EQ(partition.messages(), 0u);
  ExpectRescind(false);
}

}  // namespace
}  // namespace partita::socket
