#include "vsp/network/port_policy.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace partita::network {
namespace {

constexpr uint32_t kAddress = 6, kEthernet = 14, kTag = 4, kGuardHead = 256;
constexpr uint16_t kEtherVlan = 0x8100, kEtherService = 0x88A8, kEtherIpv4 = 0x0800,
                   kEtherIpv6 = 0x86DD;
constexpr uint16_t kVlanMask = 0xFFF;
constexpr uint8_t kIcmp = 1, kUdp = 17, kIcmp6 = 58;
// Packet filter bits of NDIS (OID_GEN_CURRENT_PACKET_FILTER).
constexpr uint32_t kDirected = 1, kMulticast = 2, kAllMulticast = 4, kBroadcast = 8,
                   kPromiscuous = 0x20;

uint8_t Get8(std::span<const std::byte> from, size_t at) {
  return std::to_integer<uint8_t>(from[at]);
}
uint16_t Get16(std::span<const std::byte> from, size_t at) {
  return static_cast<uint16_t>(Get8(from, at) << 8 | Get8(from, at + 1));
}

// What follows the IP headers of a frame's first fragment.
struct Transport {
  uint8_t protocol = 0;
  std::span<const std::byte> bytes;  // as far as the head reaches
  bool unknown = false;              // the headers do not end within the head
};
constexpr Transport kHidden{.protocol = 0, .bytes = {}, .unknown = true};

Transport Ipv4Transport(std::span<const std::byte> ip) {
  constexpr size_t kLeast = 20, kFragmentAt = 6, kProtocolAt = 9;
  if (ip.size() < kLeast) return kHidden;
  if ((Get16(ip, kFragmentAt) & 0x1FFF) != 0) return {};  // not the first fragment
  const size_t header = (Get8(ip, 0) & 15u) * 4u;
  if (header < kLeast || header > ip.size()) return kHidden;
  return {.protocol = Get8(ip, kProtocolAt), .bytes = ip.subspan(header), .unknown = false};
}

Transport Ipv6Transport(std::span<const std::byte> ip) {
  constexpr size_t kHeader = 40, kLeastExtension = 8;
  constexpr uint8_t kHopByHop = 0, kRouting = 43, kFragment = 44, kAuthentication = 51,
                    kDestination = 60;
  if (ip.size() < kHeader) return kHidden;
  uint8_t next = Get8(ip, 6);
  auto rest = ip.subspan(kHeader);
  while (next == kHopByHop || next == kRouting || next == kFragment || next == kAuthentication ||
         next == kDestination) {
    if (rest.size() < kLeastExtension) return kHidden;
    size_t length = kLeastExtension;
    if (next == kFragment) {
      if ((Get16(rest, 2) & 0xFFF8) != 0) return {};
    } else if (next == kAuthentication) {
      length = (Get8(rest, 1) + 2u) * 4u;
    } else {
      length = (Get8(rest, 1) + 1u) * 8u;
    }
    if (length > rest.size()) return kHidden;
    next = Get8(rest, 0);
    rest = rest.subspan(length);
  }
  return {.protocol = next, .bytes = rest, .unknown = false};
}

OutgoingVerdict CheckGuards(const PortOptions& options, std::span<const std::byte> head) {
  constexpr uint16_t kDhcpServer = 67, kDhcp6Server = 547;
  constexpr uint8_t kRedirect = 5, kAdvertisement = 9, kAdvertisement6 = 134, kRedirect6 = 137;
  size_t at = kEthernet - 2;
  uint16_t type = Get16(head, at);
  while ((type == kEtherVlan || type == kEtherService) && head.size() >= at + kTag + 2) {
    at += kTag;
    type = Get16(head, at);
  }
  if (type != kEtherIpv4 && type != kEtherIpv6) return OutgoingVerdict::kPass;
  const bool six = type == kEtherIpv6;
  const auto ip = head.subspan(at + 2);
  const Transport transport = six ? Ipv6Transport(ip) : Ipv4Transport(ip);
  const bool udp = transport.protocol == kUdp, icmp = transport.protocol == (six ? kIcmp6 : kIcmp);
  // Headers that hide what they carry are what an attacker sends.
  const bool hidden =
      transport.unknown || (udp && transport.bytes.size() < 2) || (icmp && transport.bytes.empty());
  if (hidden) return options.router_guard ? OutgoingVerdict::kRouter : OutgoingVerdict::kDhcpServer;
  if (options.dhcp_guard && udp &&
      Get16(transport.bytes, 0) == (six ? kDhcp6Server : kDhcpServer)) {
    return OutgoingVerdict::kDhcpServer;
  }
  if (options.router_guard && icmp) {
    const uint8_t kind = Get8(transport.bytes, 0);
    if (kind == (six ? kAdvertisement6 : kAdvertisement) ||
        kind == (six ? kRedirect6 : kRedirect)) {
      return OutgoingVerdict::kRouter;
    }
  }
  return OutgoingVerdict::kPass;
}

bool Equal(std::span<const std::byte> bytes, const MacAddress& address) {
  return std::memcmp(bytes.data(), address.data(), address.size()) == 0;
}

}  // namespace

uint32_t DecisiveBytes(const PortOptions& options) {
  return options.dhcp_guard || options.router_guard ? kGuardHead : kEthernet;
}

OutgoingVerdict CheckOutgoing(const PortOptions& options, const MacAddress& own,
                              std::span<const std::byte> head) {
  // 01-80-C2-00-00-00 to -0F stay on their wire (IEEE 802.1D): spanning tree, pause, LLDP.
  constexpr MacAddress kReserved = {0x01, 0x80, 0xC2, 0, 0, 0};
  if (std::memcmp(head.data(), kReserved.data(), kAddress - 1) == 0 &&
      Get8(head, kAddress - 1) < 16) {
    return OutgoingVerdict::kReservedGroup;
  }
  const auto source = head.subspan(kAddress, kAddress);
  const bool fine = options.spoof ? (Get8(source, 0) & 1) == 0 : Equal(source, own);
  if (!fine) return OutgoingVerdict::kForeignSource;
  if (!options.dhcp_guard && !options.router_guard) return OutgoingVerdict::kPass;
  return CheckGuards(options, head);
}

ReceiveFilter MakeReceiveFilter(const PortOptions& options, const MacAddress& own, uint16_t vlan,
                                uint32_t packet_filter, bool link_up) {
  ReceiveFilter filter{.open = link_up && packet_filter != 0, .own = own, .vlan = vlan};
  // Stock Linux asks for promiscuous alone, and then means everything else, too.
  const bool all = (packet_filter & kPromiscuous) != 0;
  filter.promiscuous = all && options.spoof;
  filter.directed = all || (packet_filter & kDirected) != 0;
  filter.multicast = all || (packet_filter & (kMulticast | kAllMulticast)) != 0;
  filter.broadcast = all || (packet_filter & kBroadcast) != 0;
  return filter;
}

IncomingVerdict CheckIncoming(const ReceiveFilter& filter, std::span<const std::byte> head) {
  if (!filter.open || head.size() < kEthernet) return IncomingVerdict::kUnwanted;
  if (filter.vlan != 0 &&
      (head.size() < kIncomingHead || Get16(head, kEthernet - 2) != kEtherVlan ||
       (Get16(head, kEthernet) & kVlanMask) != filter.vlan)) {
    return IncomingVerdict::kWrongVlan;
  }
  constexpr MacAddress kEverybody = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
  bool wanted = filter.promiscuous;
  if (Equal(head, kEverybody)) {
    wanted = wanted || filter.broadcast;
  } else if ((Get8(head, 0) & 1) != 0) {
    wanted = wanted || filter.multicast;
  } else {
    wanted = wanted || (filter.directed && Equal(head, filter.own));
  }
  return wanted ? IncomingVerdict::kTake : IncomingVerdict::kUnwanted;
}

std::vector<sock_filter> CompileFilter(const ReceiveFilter& filter) {
  std::vector<sock_filter> code;
  auto load = [&](uint16_t size, uint32_t at) {
    code.push_back(BPF_STMT(static_cast<uint16_t>(BPF_LD | BPF_ABS | size), at));
  };
  // Goes on if the value is `value`, else leaves out the next `skip`.
  auto unless_equal = [&](uint32_t value, size_t skip) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, static_cast<uint8_t>(skip)));
  };
  auto mask = [&](uint32_t bits) { code.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits)); };
  auto end = [&](bool take) { code.push_back(BPF_STMT(BPF_RET | BPF_K, take ? UINT32_MAX : 0)); };
  if (!filter.open) {
    end(false);
    return code;
  }
  if (filter.vlan != 0) {
    constexpr uint32_t kBeside = SKF_AD_OFF;
    load(BPF_W, kBeside + SKF_AD_VLAN_TAG_PRESENT);
    unless_equal(0, 5);
    load(BPF_H, kEthernet - 2);
    unless_equal(kEtherVlan, 2);
    load(BPF_H, kEthernet);
    code.push_back(BPF_STMT(BPF_JMP | BPF_JA, 2));  // to the comparison
    end(false);
    load(BPF_W, kBeside + SKF_AD_VLAN_TAG);
    mask(kVlanMask);
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, filter.vlan, 1, 0));
    end(false);
  }
  if (filter.promiscuous) {
    end(true);
    return code;
  }
  load(BPF_W, 0);
  unless_equal(UINT32_MAX, 3);
  load(BPF_H, 4);
  unless_equal(UINT16_MAX, 1);
  end(filter.broadcast);
  load(BPF_B, 0);
  mask(1);
  unless_equal(1, 1);
  end(filter.multicast);
  uint32_t high = 0;
  for (size_t i = 0; i < 4; ++i) high = high << 8 | filter.own[i];
  load(BPF_W, 0);
  unless_equal(high, 3);
  load(BPF_H, 4);
  unless_equal(static_cast<uint32_t>(filter.own[4] << 8 | filter.own[5]), 1);
  end(filter.directed);
  end(false);
  return code;
}

}  // namespace partita::network
