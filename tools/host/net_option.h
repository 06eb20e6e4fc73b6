// `--net tap=NAME|bridge=NAME|user|none[,mac=..][,queues=N][,vlan=N][,map-gw=on]`: parsing, and
// opening what stands behind it. What is opened lives as long as its descriptors; a helper process
// (passt) ends with its socket.
#ifndef PARTITA_TOOLS_HOST_NET_OPTION_H_
#define PARTITA_TOOLS_HOST_NET_OPTION_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "tools/control/definition.pb.h"

namespace partita {

absl::StatusOr<control::AdapterDefinition> ParseNetOption(std::string_view text);

// Descriptors of an adapter's back end: one for each queue of a TAP, one socket of passt, or none.
// `queues` is lowered to what the TAP has.
absl::StatusOr<std::vector<UniqueFd>> OpenNet(const control::AdapterDefinition& option,
                                              uint32_t* queues);

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_NET_OPTION_H_
