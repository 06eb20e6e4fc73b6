// What an adapter's port lets through, as a Hyper-V switch port does: the guest's own source
// address and no frames that only bridges may send on the way out, what is addressed to the guest
// on the way in. Pure. Bytes of outgoing frames are the guest's, and those of incoming ones
// anybody's; both lie in private memory when they come here.
#ifndef PARTITA_VSP_NETWORK_PORT_POLICY_H_
#define PARTITA_VSP_NETWORK_PORT_POLICY_H_

#include <linux/filter.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vsp/network/rndis.h"

namespace partita::network {

// Fixed for an adapter's life.
struct PortOptions {
  bool spoof =
      false;  // foreign source addresses may be sent; then the guest may also listen to all
  bool dhcp_guard = false;    // the guest is no DHCP server
  bool router_guard = false;  // the guest announces and redirects no routes
};

enum class OutgoingVerdict : uint8_t {
  kPass,
  kForeignSource,
  kReservedGroup,
  kDhcpServer,
  kRouter
};

// How much of an outgoing frame a decision takes, and so has to be sent from the copy it was made
// on: the guest may change what it left in its memory meanwhile.
[[nodiscard]] uint32_t DecisiveBytes(const PortOptions& options);
// `head`: DecisiveBytes of the frame, or all of it; at least an Ethernet header.
[[nodiscard]] OutgoingVerdict CheckOutgoing(const PortOptions& options, const MacAddress& own,
                                            std::span<const std::byte> head);

// What is to be received now.
struct ReceiveFilter {
  bool open = false;  // false: nothing at all
  MacAddress own{};
  uint16_t vlan = 0;  // access mode: frames with this tag alone
  bool directed = false, multicast = false, broadcast = false, promiscuous = false;
  bool operator==(const ReceiveFilter&) const = default;
};
// `packet_filter` is what the guest asked for.
[[nodiscard]] ReceiveFilter MakeReceiveFilter(const PortOptions& options, const MacAddress& own,
                                              uint16_t vlan, uint32_t packet_filter, bool link_up);

enum class IncomingVerdict : uint8_t { kTake, kUnwanted, kWrongVlan };
// `head`: the first 18 bytes of a frame, or all of it.
inline constexpr uint32_t kIncomingHead = 18;
[[nodiscard]] IncomingVerdict CheckIncoming(const ReceiveFilter& filter,
                                            std::span<const std::byte> head);
// The same decision for the kernel to make, on frames that carry their tag inside or beside them.
[[nodiscard]] std::vector<sock_filter> CompileFilter(const ReceiveFilter& filter);

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_PORT_POLICY_H_
