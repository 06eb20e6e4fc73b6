// Completions on their way to the guest. Those that find the ring full wait here; meanwhile the
// loop takes no more packets, so that a guest which reads no answers cannot make this grow beyond
// what is in flight.
#ifndef PARTITA_VSP_REPLY_QUEUE_H_
#define PARTITA_VSP_REPLY_QUEUE_H_

#include <cstdint>
#include <deque>
#include <span>

#include "vmbus/server/server_channel.h"

namespace partita {

// Belongs to the loop. `Body` is a packet's payload as it is on the wire.
template <typename Body>
class ReplyQueue {
 public:
  [[nodiscard]] bool empty() const { return waiting_.empty(); }
  void Send(vmbus::ServerChannel& channel, uint64_t transaction, const Body& body) {
    if (waiting_.empty() && Write(channel, transaction, body) != vmbus::RingStatus::kFull) return;
    waiting_.push_back({transaction, body});
  }
  // Once an iteration of the loop. What is left asks for a doorbell when there is room.
  void Flush(vmbus::ServerChannel& channel) {
    while (!waiting_.empty()) {
      const Reply& reply = waiting_.front();
      if (Write(channel, reply.transaction, reply.body) == vmbus::RingStatus::kFull) {
        channel.Commit();
        if (channel.RequestRoom(sizeof(Body))) return;
        continue;
      }
      waiting_.pop_front();
    }
  }

 private:
  struct Reply {
    uint64_t transaction;
    Body body;
  };
  static vmbus::RingStatus Write(vmbus::ServerChannel& channel, uint64_t transaction,
                                 const Body& body) {
    return channel.Send(vmbus::kPacketCompletion, 0, transaction,
                        std::as_bytes(std::span(&body, 1)));
  }
  std::deque<Reply> waiting_;
};

}  // namespace partita

#endif  // PARTITA_VSP_REPLY_QUEUE_H_
