// How large the TCP frames are that the host's own kernel sends to guests.
#ifndef PARTITA_TOOLS_HOST_FRAME_LIMIT_H_
#define PARTITA_TOOLS_HOST_FRAME_LIMIT_H_

#include <string>

#include "base/status.h"

namespace partita {

// Of a bridge or TAP. Stock hv_netvsc copies a received frame into one linear buffer. What does not
// fit into 64 KiB with the kernel's own part (65,152 bytes of frame do) costs the guest 128 KiB, a
// socket is charged for all of it, and TCP throws away what it has received when its account is
// full. So the host's sockets send a little less than the 64 KiB that Linux makes of a stream by
// itself. What is forwarded passes whole all the same: 45 segments of 1,448 bytes with their
// headers, the most that Linux joins at an MTU of 1500, are 65,226.
inline constexpr unsigned kFrameLimit = 65'280;

// Sees to it that `name` has at most kFrameLimit as its largest frame (gso_max_size). For a port of
// a bridge that is the bridge's matter: of its ports' limits only the hardware's count.
absl::Status LimitFrames(const std::string& name);

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_FRAME_LIMIT_H_
