// Where an adapter's frames go and come from. A backend is shared by an adapter's channels; channel
// i opens queue i on its own io_uring, sends in batches and receives on that loop. Nothing above
// this interface knows of descriptors.
#ifndef PARTITA_VSP_NETWORK_NET_BACKEND_H_
#define PARTITA_VSP_NETWORK_NET_BACKEND_H_

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/counters.h"
#include "base/io_ring.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "vsp/network/port_policy.h"
#include "vsp/network/vnet_header.h"

namespace partita::network {

// A frame on its way out. The owner keeps it alive and unchanged until OnSent.
struct TransmitFrame {
  VnetHeader header{};
  std::vector<iovec> iovecs;  // [0] is left free for the backend's own header; the frame follows
  uint32_t length = 0;        // of the frame
};

// Memory for a frame that may come.
struct ReceiveSlot {
  VnetHeader header{};
  std::vector<iovec> iovecs;  // [0] is left free for the backend's own header
  uint32_t capacity = 0;      // of the rest
};

// The channel, as its queue sees it. Calls come on the loop that owns the queue, from inside Reap
// or Send.
class FrameOwner {
 public:
  virtual void OnSent(TransmitFrame& frame, bool ok) = 0;
  // Whether a frame that begins like this (kIncomingHead bytes, or all) is to be received; counts
  // it if not. Backends whose properties say `filters` do not ask.
  virtual bool Wants(std::span<const std::byte> /*head*/) { return true; }
  // A slot to receive into, or null when there is none; the queue is told by SlotsAvailable.
  virtual ReceiveSlot* TakeSlot() = 0;
  // `length` bytes of a frame are in the slot, `header` says what is known of it. The slot is the
  // owner's again. Length 0: nothing came, it was not used.
  virtual void OnReceived(ReceiveSlot& slot, uint32_t length) = 0;

 protected:
  ~FrameOwner() = default;
};

class NetQueue {
 public:
  virtual ~NetQueue() = default;
  // Never blocks; ends in exactly one OnSent, at the latest by a later Reap.
  virtual void Send(TransmitFrame& frame) = 0;
  // Called once an iteration of the loop: post receive operations if none are.
  virtual void PostReceives() = 0;
  // Takes back what was posted to receive: no slot is used after Idle() is true again.
  virtual void CancelReceives() {}
  // Ends everything, for good. Idle() becomes true after further Reaps.
  virtual void Cancel() = 0;
  [[nodiscard]] virtual bool Idle() const = 0;
  // Whether the guest takes large frames now.
  virtual void SetCoalesced(bool /*coalesced*/) {}
};

struct NetProperties {
  uint32_t queues = 1;
  bool checksum = false;    // finishes checksums, and vouches for those of received frames
  bool large_send = false;  // cuts large TCP frames
  bool coalesced = false;   // may deliver large TCP frames
  bool filters = false;     // SetFilter keeps frames from being received
  uint32_t max_mtu = 9000;
  uint64_t link_speed = 100'000'000;  // units of 100 bit/s
};

class NetBackend {
 public:
  virtual ~NetBackend() = default;
  [[nodiscard]] virtual const NetProperties& properties() const = 0;
  // Descriptors of queue `index`, registered with its ring from `first` on.
  [[nodiscard]] virtual std::vector<int> files(uint32_t index) const = 0;
  [[nodiscard]] virtual std::vector<uint8_t> opcodes() const = 0;
  // From now on what is received has passed this, but for what had come before. Any thread, one at
  // a time.
  virtual void SetFilter(const ReceiveFilter& /*filter*/) {}
  // `down` is called, once and from a loop, when the wire is gone for good. Before the first queue.
  virtual void OnDown(std::function<void(std::string why)> /*down*/) {}
  virtual absl::StatusOr<std::unique_ptr<NetQueue>> OpenQueue(FrameOwner& owner, IoRing& ring,
                                                              uint32_t index, int first) = 0;
};

// A TAP with IFF_VNET_HDR: one descriptor for each queue, non-blocking.
absl::StatusOr<std::unique_ptr<NetBackend>> MakeTapBackend(std::vector<UniqueFd> queues);
// A stream socket that carries frames behind their length (32 bits, big-endian), as passt and
// QEMU's socket netdev do.
absl::StatusOr<std::unique_ptr<NetBackend>> MakeStreamBackend(UniqueFd socket);
// Takes every frame and sends none; for measuring.
std::unique_ptr<NetBackend> MakeNullBackend(uint32_t queues);
// Gives every frame back to the queue it came from; for measuring.
std::unique_ptr<NetBackend> MakeLoopbackBackend(uint32_t queues);

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_NET_BACKEND_H_
