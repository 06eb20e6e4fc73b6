#include "vsp/network/offload.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace partita::network {
namespace {

namespace proto = vmbus::network;

constexpr uint32_t kEthernet = 14;
constexpr uint32_t kIpv4Least = 20, kIpv6Header = 40, kTcpLeast = 20, kUdpHeader = 8;
constexpr uint16_t kTcpChecksumAt = 16, kUdpChecksumAt = 6;
constexpr uint8_t kProtocolTcp = 6, kProtocolUdp = 17;
constexpr uint16_t kEtherIpv4 = 0x0800, kEtherIpv6 = 0x86DD;

uint16_t Get16(std::span<const std::byte> from, size_t at) {
  return static_cast<uint16_t>(std::to_integer<uint16_t>(from[at]) << 8 |
                               std::to_integer<uint16_t>(from[at + 1]));
}
void Put16(std::span<std::byte> to, size_t at, uint16_t value) {
  to[at] = static_cast<std::byte>(value >> 8);
  to[at + 1] = static_cast<std::byte>(value & 0xFF);
}
// One's complement sum of big-endian words, not folded; an odd last byte counts as the high one.
uint64_t Sum(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  size_t i = 0;
  for (; i + 1 < bytes.size(); i += 2) sum += Get16(bytes, i);
  if (i < bytes.size()) sum += std::to_integer<uint64_t>(bytes[i]) << 8;
  return sum;
}
uint16_t Fold(uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

// One's complement sum of words in native byte order, folded; an odd last byte is followed by 0.
uint16_t NativeSum(const std::byte* bytes, uint64_t count) {
  // Sums of 32-bit halves cannot overflow: a frame has far fewer than 2^32 of them.
  uint64_t low = 0, high = 0;
  for (; count >= 8; bytes += 8, count -= 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes, sizeof(word));
    low += word & 0xFFFFFFFF;
    high += word >> 32;
  }
  uint64_t rest = 0;
  std::memcpy(&rest, bytes, count);
  return Fold(uint64_t{Fold(low)} + Fold(high) + (rest & 0xFFFFFFFF) + (rest >> 32));
}

// A TCP frame that the host has to cut. Lengths were left 0 by the guest.
bool PrepareLargeSend(uint32_t value, uint32_t frame_length, std::span<std::byte> head,
                      VnetHeader* header) {
  const uint32_t mss = proto::LargeSendMss(value);
  const uint32_t tcp = proto::LargeSendTcpOffset(value);
  const bool ipv6 = (value & proto::kLargeSendIpv6) != 0;
  const uint32_t ip_least = ipv6 ? kIpv6Header : kIpv4Least;
  if (mss == 0 || mss > UINT16_MAX || tcp < kEthernet + ip_least || tcp + kTcpLeast > head.size() ||
      Get16(head, kEthernet - 2) != (ipv6 ? kEtherIpv6 : kEtherIpv4)) {
    return false;
  }
  const uint32_t tcp_header = (std::to_integer<uint32_t>(head[tcp + 12]) >> 4) * 4;
  const uint32_t headers = tcp + tcp_header;
  if (tcp_header < kTcpLeast || headers > head.size() || headers >= frame_length) return false;
  const uint32_t ip_bytes = frame_length - kEthernet;
  if (ip_bytes > UINT16_MAX + (ipv6 ? kIpv6Header : 0)) return false;
  const uint32_t tcp_bytes = frame_length - tcp;
  uint64_t pseudo = uint64_t{kProtocolTcp} + tcp_bytes;
  if (ipv6) {
    Put16(head, kEthernet + 4, static_cast<uint16_t>(ip_bytes - kIpv6Header));
    pseudo += Sum(head.subspan(kEthernet + 8, 32));
  } else {
    if (std::to_integer<uint8_t>(head[kEthernet + 9]) != kProtocolTcp) return false;
    const uint32_t ip_header = (std::to_integer<uint32_t>(head[kEthernet]) & 15) * 4;
    if (ip_header < kIpv4Least || kEthernet + ip_header != tcp) return false;
    Put16(head, kEthernet + 2, static_cast<uint16_t>(ip_bytes));
    Put16(head, kEthernet + 10, 0);
    Put16(head, kEthernet + 10,
          static_cast<uint16_t>(~Fold(Sum(head.subspan(kEthernet, ip_header)))));
    pseudo += Sum(head.subspan(kEthernet + 12, 8));
  }
  Put16(head, tcp + kTcpChecksumAt, Fold(pseudo));
  header->flags = kVnetNeedsChecksum;
  header->checksum_start = static_cast<uint16_t>(tcp);
  header->checksum_offset = kTcpChecksumAt;
  if (frame_length - headers > mss) {  // else it is one segment already
    header->gso_type = ipv6 ? kVnetGsoTcp6 : kVnetGsoTcp4;
    header->gso_size = static_cast<uint16_t>(mss);
    header->header_length = static_cast<uint16_t>(headers);
  }
  return true;
}

}  // namespace

bool PrepareTransmit(const FrameRequests& requests, uint32_t frame_length,
                     std::span<std::byte> head, VnetHeader* header) {
  *header = {};
  if (requests.large_send && proto::LargeSendMss(*requests.large_send) != 0) {
    return PrepareLargeSend(*requests.large_send, frame_length, head, header);
  }
  if (!requests.checksum) return true;
  const uint32_t value = *requests.checksum;
  const bool tcp = (value & proto::kTxTcp) != 0, udp = (value & proto::kTxUdp) != 0;
  if (!tcp && !udp) return true;
  const uint32_t start = proto::TxHeaderOffset(value);
  if (start < kEthernet + kIpv4Least || start + (tcp ? kTcpLeast : kUdpHeader) > frame_length) {
    return false;
  }
  header->flags = kVnetNeedsChecksum;
  header->checksum_start = static_cast<uint16_t>(start);
  header->checksum_offset = tcp ? kTcpChecksumAt : kUdpChecksumAt;
  return true;
}

uint32_t ReceiveChecksumInfo(const VnetHeader& header, std::span<const std::byte> head,
                             bool* finish) {
  *finish = false;
  const bool partial = (header.flags & kVnetNeedsChecksum) != 0;
  if (!partial && (header.flags & kVnetDataValid) == 0) return 0;
  uint8_t protocol = 0;
  uint32_t ip = 0;
  if (head.size() >= kEthernet + kIpv4Least && Get16(head, kEthernet - 2) == kEtherIpv4) {
    protocol = std::to_integer<uint8_t>(head[kEthernet + 9]);
    ip = proto::kRxIpOk;
  } else if (head.size() >= kEthernet + kIpv6Header && Get16(head, kEthernet - 2) == kEtherIpv6) {
    protocol = std::to_integer<uint8_t>(head[kEthernet + 6]);
  }
  if (protocol == kProtocolTcp) return proto::kRxTcpOk | ip;
  // A guest's DHCP client reads frames from below its stack and looks at the checksum itself.
  if (protocol == kProtocolUdp) *finish = partial;
  if (protocol == kProtocolUdp) return proto::kRxUdpOk | ip;
  // Neither, or behind extension headers: the kind of checksum tells.
  if (partial && header.checksum_offset == kTcpChecksumAt) return proto::kRxTcpOk | ip;
  *finish = partial;
  return 0;
}

void CompleteChecksum(std::span<const iovec> frame, uint32_t length, uint32_t start,
                      uint32_t offset) {
  if (start > length || uint64_t{start} + offset + 2 > length) return;
  auto each = [&](auto&& visit) {  // (bytes, position from `start`, count) within [start, length)
    uint64_t at = 0;
    for (const iovec& v : frame) {
      const uint64_t end = std::min<uint64_t>(at + v.iov_len, length);
      const uint64_t from = std::max<uint64_t>(at, start);
      if (from < end) {
        visit(static_cast<std::byte*>(v.iov_base) + (from - at), from - start, end - from);
      }
      at += v.iov_len;
      if (at >= length) break;
    }
  };
  uint64_t sum = 0;
  each([&](const std::byte* bytes, uint64_t position, uint64_t count) {
    const uint16_t part = NativeSum(bytes, count);
    // A piece that starts at an odd place has its bytes in the other halves of the words.
    sum += (position & 1) == 0 ? part : static_cast<uint16_t>(part << 8 | part >> 8);
  });
  // The sum of words in either byte order is the same but for the order of its own bytes.
  uint16_t result = static_cast<uint16_t>(~Fold(sum));
  if (result == 0) result = 0xFFFF;
  std::array<std::byte, 2> field{};
  std::memcpy(field.data(), &result, sizeof(result));
  each([&](std::byte* bytes, uint64_t position, uint64_t count) {
    for (uint64_t i = 0; i < field.size(); ++i) {
      if (offset + i >= position && offset + i < position + count) {
        bytes[offset + i - position] = field[i];
      }
    }
  });
}

}  // namespace partita::network
