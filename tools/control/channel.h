// One end of a worker's control socket: protobuf messages with descriptors over Unix seqpacket.
//
// A packet is one message, except where it begins with a byte that begins no protobuf message:
//   kMoreDescriptors  carries descriptors of the message behind it (the kernel takes 253 at once)
//   kBodyInFile       the message lies in a sealed memory file, the last of its descriptors
// so that neither many queues nor a long list of a guest's pairs is too much. What a peer sends is
// bounded: kMaxMessage bytes, kMaxDescriptors descriptors.
#ifndef PARTITA_TOOLS_CONTROL_CHANNEL_H_
#define PARTITA_TOOLS_CONTROL_CHANNEL_H_

#include <google/protobuf/message_lite.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace partita::control {

inline constexpr size_t kMaxPacket = 64 << 10;        // longer messages go in a file
inline constexpr size_t kMaxMessage = 4 << 20;        // 256 pairs of the longest kind are 1 MiB
inline constexpr size_t kMaxPacketDescriptors = 250;  // the kernel's limit is 253
inline constexpr size_t kMaxDescriptors = 1000;       // 8 adapters with 64 queues, 64 disks
inline constexpr uint8_t kMoreDescriptors = 0x01, kBodyInFile = 0x02;  // field number 0: no message

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
  // nothing there yet. InvalidArgument: that message was none, the next one may be; a message over
  // the limit is such an error, never truncated. What a peer sent before it went is received.
  absl::Status Receive(google::protobuf::MessageLite* message,
                       std::vector<UniqueFd>* descriptors = nullptr) const;
  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  struct Incoming {
    std::string bytes;
    std::vector<UniqueFd> descriptors;
  };
  absl::Status SendPacket(std::span<const char> bytes, std::span<const int> descriptors) const;
  absl::Status ReceivePacket(Incoming* packet) const;
  UniqueFd socket_;
  mutable std::vector<UniqueFd> early_;  // descriptors of a message that has not come yet
};

}  // namespace partita::control

#endif  // PARTITA_TOOLS_CONTROL_CHANNEL_H_
