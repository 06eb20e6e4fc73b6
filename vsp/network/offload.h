// Between what a guest asks for a frame (per-packet information) and what a Linux TAP understands
// (the virtio-net header). Pure.
#ifndef PARTITA_VSP_NETWORK_OFFLOAD_H_
#define PARTITA_VSP_NETWORK_OFFLOAD_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "vsp/network/rndis.h"
#include "vsp/network/vnet_header.h"

namespace partita::network {

// The part of a frame that may have to be rewritten: Ethernet, VLAN, IP with options or extension
// headers, TCP with options.
inline constexpr uint32_t kMaxFrameHeader = 256;

// Works out the virtio-net header of a frame and rewrites the frame's headers where the guest left
// them for the host to finish. `head` is a private copy of the first bytes of the frame (at least
// kMaxFrameHeader of them, or all), without a VLAN tag. False: the frame asks for nonsense.
[[nodiscard]] bool PrepareTransmit(const FrameRequests& requests, uint32_t frame_length,
                                   std::span<std::byte> head, VnetHeader* header);

// The checksum information for the guest about a received frame: 0 if nothing is known. `head` as
// above, without VLAN tag; `finish` is set when the checksum is neither there nor vouched for in a
// way the guest understands, so that the host has to complete it.
[[nodiscard]] uint32_t ReceiveChecksumInfo(const VnetHeader& header,
                                           std::span<const std::byte> head, bool* finish);

// Completes the checksum from `start` to the end of the `length` bytes in `frame` and stores it at
// `start + offset`. Out-of-range positions change nothing.
void CompleteChecksum(std::span<const iovec> frame, uint32_t length, uint32_t start,
                      uint32_t offset);

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_OFFLOAD_H_
