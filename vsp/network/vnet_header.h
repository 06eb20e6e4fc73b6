// The header a TAP with IFF_VNET_HDR puts before each frame, in host byte order. The kernel's own
// header is no C++. Source: virtio 1.2, section 5.1.6 (struct virtio_net_hdr, legacy layout).
#ifndef PARTITA_VSP_NETWORK_VNET_HEADER_H_
#define PARTITA_VSP_NETWORK_VNET_HEADER_H_

#include <cstdint>

namespace partita::network {

struct VnetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t header_length;  // of all headers of a frame that is to be cut
  uint16_t gso_size;       // payload of each piece
  uint16_t checksum_start;
  uint16_t checksum_offset;  // of the field, from checksum_start
};
static_assert(sizeof(VnetHeader) == 10);
inline constexpr uint8_t kVnetNeedsChecksum = 1, kVnetDataValid = 2;
inline constexpr uint8_t kVnetGsoNone = 0, kVnetGsoTcp4 = 1, kVnetGsoTcp6 = 4;

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_VNET_HEADER_H_
