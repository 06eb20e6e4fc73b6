// What a port lets through, as the code decides it and as the kernel does with the compiled filter.
#include "vsp/network/port_policy.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace partita::network {
namespace {

constexpr MacAddress kOwn = {0, 0x15, 0x5D, 1, 2, 3}, kOther = {0, 0x15, 0x5D, 1, 2, 4},
                     kEverybody = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
                     kGroup = {0x01, 0, 0x5E, 0, 0, 1};

std::vector<std::byte> Frame(const MacAddress& to, const MacAddress& from,
                             const std::vector<uint8_t>& rest) {
  std::vector<uint8_t> bytes(to.begin(), to.end());
  bytes.insert(bytes.end(), from.begin(), from.end());
  bytes.insert(bytes.end(), rest.begin(), rest.end());
  bytes.resize(std::max<size_t>(bytes.size(), 60));
  std::vector<std::byte> out(bytes.size());
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}
const std::vector<uint8_t> kPlain = {0x88, 0xB5};

TEST(PortPolicyTest, ForeignSourcesAndReservedGroupsStay) {
  const PortOptions closed, spoof{.spoof = true};
  EXPECT_EQ(CheckOutgoing(closed, kOwn, Frame(kOther, kOwn, kPlain)), OutgoingVerdict::kPass);
  const auto foreign = Frame(kOther, kOther, kPlain);
  EXPECT_EQ(CheckOutgoing(closed, kOwn, foreign), OutgoingVerdict::kForeignSource);
  EXPECT_EQ(CheckOutgoing(spoof, kOwn, foreign), OutgoingVerdict::kPass);
  EXPECT_EQ(CheckOutgoing(spoof, kOwn, Frame(kOther, kGroup, kPlain)),
            OutgoingVerdict::kForeignSource)
      << "no station has a group's address";
  for (const uint8_t last : std::array<uint8_t, 4>{0, 2, 14, 15}) {
    const auto reserved = Frame({0x01, 0x80, 0xC2, 0, 0, last}, kOwn, kPlain);
    EXPECT_EQ(CheckOutgoing(closed, kOwn, reserved), OutgoingVerdict::kReservedGroup);
    EXPECT_EQ(CheckOutgoing(spoof, kOwn, reserved), OutgoingVerdict::kReservedGroup);
  }
  EXPECT_EQ(CheckOutgoing(closed, kOwn, Frame({0x01, 0x80, 0xC2, 0, 0, 16}, kOwn, kPlain)),
            OutgoingVerdict::kPass);
}

std::vector<uint8_t> Ip4(uint8_t protocol, std::vector<uint8_t> payload, uint16_t fragment = 0) {
  std::vector<uint8_t> bytes = {0x08, 0x00};
  std::vector<uint8_t> ip(20);
  ip[0] = 0x45;
  ip[6] = static_cast<uint8_t>(fragment >> 8);
  ip[7] = static_cast<uint8_t>(fragment);
  ip[9] = protocol;
  bytes.insert(bytes.end(), ip.begin(), ip.end());
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}
std::vector<uint8_t> Ip6(uint8_t next, const std::vector<uint8_t>& payload) {
  std::vector<uint8_t> bytes = {0x86, 0xDD};
  std::vector<uint8_t> ip(40);
  ip[0] = 0x60;
  ip[6] = next;
  bytes.insert(bytes.end(), ip.begin(), ip.end());
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}
std::vector<uint8_t> Tagged(const std::vector<uint8_t>& rest) {
  std::vector<uint8_t> bytes = {0x81, 0x00, 0, 9};
  bytes.insert(bytes.end(), rest.begin(), rest.end());
  return bytes;
}

TEST(PortPolicyTest, GuardsSeeServersAndRoutersHoweverTheyAreWrapped) {
  const PortOptions both{.spoof = false, .dhcp_guard = true, .router_guard = true};
  auto check = [&](const PortOptions& options, const std::vector<uint8_t>& rest) {
    auto frame = Frame(kOther, kOwn, rest);
    frame.resize(std::min<size_t>(frame.size(), DecisiveBytes(options)));
    return CheckOutgoing(options, kOwn, frame);
  };
  const std::vector<uint8_t> server = {0, 67, 0, 68, 0, 8, 0, 0},
                             client = {0, 68, 0, 67, 0, 8, 0, 0},
                             server6 = {2, 35, 2, 34, 0, 8, 0, 0};
  EXPECT_EQ(check(both, Ip4(17, server)), OutgoingVerdict::kDhcpServer);
  EXPECT_EQ(check(both, Tagged(Ip4(17, server))), OutgoingVerdict::kDhcpServer);
  EXPECT_EQ(check(both, Ip4(17, client)), OutgoingVerdict::kPass);
  EXPECT_EQ(check(both, Ip4(17, server, 100)), OutgoingVerdict::kPass) << "no ports in a fragment";
  EXPECT_EQ(check(both, Ip6(17, server6)), OutgoingVerdict::kDhcpServer);
  EXPECT_EQ(check(both, Ip6(58, {134, 0})), OutgoingVerdict::kRouter);
  EXPECT_EQ(check(both, Ip6(58, {137, 0})), OutgoingVerdict::kRouter);
  EXPECT_EQ(check(both, Ip6(58, {135, 0})), OutgoingVerdict::kPass) << "a neighbour asks";
  EXPECT_EQ(check(both, Ip4(1, {5, 0})), OutgoingVerdict::kRouter);
  EXPECT_EQ(check(both, Ip4(1, {8, 0})), OutgoingVerdict::kPass);
  // Behind extension headers, and behind more of them than are looked at.
  std::vector<uint8_t> wrapped = {58, 0, 0, 0, 0, 0, 0, 0, 134, 0};
  EXPECT_EQ(check(both, Ip6(60, wrapped)), OutgoingVerdict::kRouter);
  std::vector<uint8_t> deep;
  for (int i = 0; i < 40; ++i) deep.insert(deep.end(), {60, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_NE(check(both, Ip6(60, deep)), OutgoingVerdict::kPass) << "hidden";
  // Each guard alone.
  const PortOptions dhcp{.spoof = false, .dhcp_guard = true},
      router{.spoof = false, .router_guard = true};
  EXPECT_EQ(check(dhcp, Ip6(58, {134, 0})), OutgoingVerdict::kPass);
  EXPECT_EQ(check(router, Ip4(17, server)), OutgoingVerdict::kPass);
  EXPECT_EQ(check({}, Ip4(17, server)), OutgoingVerdict::kPass);
}

TEST(PortPolicyTest, AGuestThatAsksForAllGetsItsOwnUnlessItMaySpoof) {
  const auto filter = [](bool spoof, uint32_t wanted) {
    return MakeReceiveFilter({.spoof = spoof}, kOwn, 0, wanted, true);
  };
  const auto foreign = Frame(kOther, kOther, kPlain), own = Frame(kOwn, kOther, kPlain);
  EXPECT_EQ(CheckIncoming(filter(false, 0x20), foreign), IncomingVerdict::kUnwanted);
  EXPECT_EQ(CheckIncoming(filter(false, 0x20), own), IncomingVerdict::kTake);
  EXPECT_EQ(CheckIncoming(filter(true, 0x20), foreign), IncomingVerdict::kTake);
  EXPECT_EQ(CheckIncoming(filter(true, 0x0D), foreign), IncomingVerdict::kUnwanted);
  EXPECT_FALSE(filter(true, 0).open);
  EXPECT_FALSE(MakeReceiveFilter({}, kOwn, 0, 0xD, false).open) << "the link is down";
}

// The kernel's decision on the same bytes, by a filter on a socket.
bool KernelTakes(const ReceiveFilter& filter, std::span<const std::byte> frame) {
  std::array<int, 2> ends{};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends.data()), 0);
  const UniqueFd in(ends[0]), out(ends[1]);
  std::vector<sock_filter> code = CompileFilter(filter);
  const sock_fprog program{.len = static_cast<uint16_t>(code.size()), .filter = code.data()};
  EXPECT_EQ(setsockopt(in.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0)
      << strerror(errno);
  static_cast<void>(send(out.get(), frame.data(), frame.size(), MSG_DONTWAIT));
  std::array<std::byte, 256> got{};
  const ssize_t size = recv(in.get(), got.data(), got.size(), MSG_DONTWAIT);
  EXPECT_TRUE(size < 0 || size == static_cast<ssize_t>(frame.size())) << "not cut";
  return size > 0;
}

TEST(PortPolicyTest, TheKernelDecidesTheSame) {
  const std::vector<uint8_t> tag7 = {0x81, 0, 0x20, 7, 0x88, 0xB5},
                             tag8 = {0x81, 0, 0, 8, 0x88, 0xB5};
  size_t taken = 0, refused = 0;
  for (const uint16_t vlan : std::array<uint16_t, 2>{0, 7}) {
    for (uint32_t wanted = 0; wanted < 0x40; ++wanted) {
      for (const bool spoof : {false, true}) {
        const auto filter = MakeReceiveFilter({.spoof = spoof}, kOwn, vlan, wanted, true);
        for (const auto& to : {kOwn, kOther, kEverybody, kGroup}) {
          for (const auto& rest : {kPlain, tag7, tag8}) {
            const auto frame = Frame(to, kOther, rest);
            const bool ours = CheckIncoming(filter, frame) == IncomingVerdict::kTake;
            ASSERT_EQ(KernelTakes(filter, frame), ours)
                << "vlan " << vlan << " filter " << wanted << " spoof " << spoof;
            ++(ours ? taken : refused);
          }
        }
      }
    }
  }
  EXPECT_GT(taken, 100u);
  EXPECT_GT(refused, 100u);
}

}  // namespace
}  // namespace partita::network
