// `--net tap=NAME|bridge=NAME|user|none[,mac=..][,queues=N][,vlan=N][,map-gw=on]`: parsing, and
// opening what stands behind it. What is opened lives as long as its descriptors; a helper process
// (passt) ends with its socket.
#ifndef PARTITA_TOOLS_PARTITA_NET_OPTION_H_
#define PARTITA_TOOLS_PARTITA_NET_OPTION_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace partita {

struct NetOption {
  // The last two are for measuring and not in the help.
  enum class Kind : uint8_t { kNone, kTap, kBridge, kUser, kNull, kLoopback };
  Kind kind = Kind::kNone;
  std::string name;          // of the TAP or bridge
  std::string mac;           // six bytes; empty: derived
  uint32_t queues = 0;       // 0: one for each VP
  uint16_t vlan = 0;         // 0: frames pass as they are
  bool map_gateway = false;  // user: the gateway's address is the host's 127.0.0.1
  bool spoof = false, dhcp_guard = false, router_guard = false;  // vsp/network/port_policy.h
};

absl::StatusOr<NetOption> ParseNetOption(std::string_view text);

// Descriptors of an adapter's back end: one for each queue of a TAP, one socket of passt, or none.
// `queues` is lowered to what the TAP has.
absl::StatusOr<std::vector<UniqueFd>> OpenNet(const NetOption& option, uint32_t* queues);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_NET_OPTION_H_
