// One end of a worker's control socket: protobuf messages with descriptors over Unix seqpacket.
#ifndef PARTITA_TOOLS_CONTROL_CHANNEL_H_
#define PARTITA_TOOLS_CONTROL_CHANNEL_H_

#include <google/protobuf/message_lite.h>

#include <span>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace partita::control {

inline constexpr size_t kMaxControlMessage = 128 << 10;
inline constexpr size_t kMaxDescriptors = 250;  // the kernel's limit is 253

// Exit statuses of `partita run`; the worker reports them in Ended.
enum ExitStatus : int {
  kExitPowerOff = 0,
  kExitStartFailed = 1,
  kExitUsage = 2,
  kExitReset = 10,
  kExitGuestPanic = 11,
  kExitMachineFault = 12,
  kExitPoisonedDisk = 13,
  kExitSignalBase = 128,
};

class Channel {
 public:
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}
  static absl::StatusOr<std::pair<Channel, Channel>> CreatePair();

  absl::Status Send(const google::protobuf::MessageLite& message,
                    std::span<const int> descriptors = {}) const;
  // Blocks (or not, as the socket is). Unavailable: the peer closed its end; DeadlineExceeded:
  // nothing there. A message over the limit is an error, never truncated.
  absl::Status Receive(google::protobuf::MessageLite* message,
                       std::vector<UniqueFd>* descriptors = nullptr) const;
  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
};

}  // namespace partita::control

#endif  // PARTITA_TOOLS_CONTROL_CHANNEL_H_
