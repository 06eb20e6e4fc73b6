// An open channel as a device sees it: the two rings, the doorbell, and the way to signal the
// guest. Belongs to the device's loop thread, except Retarget, which the control thread calls.
#ifndef PARTITA_VMBUS_SERVER_SERVER_CHANNEL_H_
#define PARTITA_VMBUS_SERVER_SERVER_CHANNEL_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/counters.h"
#include "base/doorbell.h"
#include "base/guest_memory.h"
#include "base/interrupt.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "vmbus/ring/ring.h"
#include "vmbus/server/ring_mapping.h"

namespace partita::vmbus {

// Of one channel at a time, written by its loop. A server has a PerLoop of them.
struct ChannelCounters {
  LoopCounter interrupts, doorbells, packets_in, packets_out, batches_in, batches_out, corrupt,
      ring_full, too_long;
  void DescribeTo(StatSink& sink) const;
};

class ServerChannel {
 public:
  struct Identity {
    uint32_t relid = 0;
    uint16_t subchannel_index = 0;
    uint32_t target_vp = 0;
  };
  // A packet longer than `max_packet` arrives without headers and payload.
  static std::unique_ptr<ServerChannel> Create(const Identity& identity, GuestMemory& memory,
                                               Interrupt& interrupt, Doorbell& doorbell,
                                               std::unique_ptr<RingMapping> in,
                                               std::unique_ptr<RingMapping> out,
                                               uint32_t max_packet,
                                               PerLoop<ChannelCounters>& counters);
  ~ServerChannel();
  ServerChannel(const ServerChannel&) = delete;
  ServerChannel& operator=(const ServerChannel&) = delete;

  [[nodiscard]] int doorbell_fd() const { return doorbell_event_.fd(); }
  [[nodiscard]] const Identity& identity() const { return identity_; }
  [[nodiscard]] GuestMemory& memory() { return memory_; }
  [[nodiscard]] RingStatus Next(Packet* packet);
  [[nodiscard]] RingStatus Send(PacketType type, uint16_t flags, uint64_t transaction_id,
                                std::span<const std::byte> payload,
                                std::span<const std::byte> headers = {});
  // Publishes what was read and written; interrupts the guest at most once.
  void Commit();
  void CountDoorbells(uint64_t count) { counters_->doorbells.Add(count); }
  void MaskDoorbell() {
    reader_.MaskInterrupts();
    in_->MarkControlDirty(memory_);
  }
  [[nodiscard]] bool UnmaskDoorbell() {
    const bool arrived = reader_.UnmaskAndCheck();
    in_->MarkControlDirty(memory_);
    return arrived;
  }
  [[nodiscard]] bool RequestRoom(uint32_t bytes) {
    const bool room = writer_.RequestRoom(bytes);
    out_->MarkControlDirty(memory_);
    return room;
  }
  void SignalGuest();
  // After this returns no signal goes to the old VP on behalf of this channel.
  void Retarget(uint32_t vp);

 private:
  ServerChannel(const Identity& identity, GuestMemory& memory, Interrupt& interrupt,
                Doorbell& doorbell, std::unique_ptr<RingMapping> in,
                std::unique_ptr<RingMapping> out, uint32_t max_packet,
                PerLoop<ChannelCounters>& counters, EventFd event);

  const Identity identity_;
  GuestMemory& memory_;
  Interrupt& interrupt_;
  Doorbell& doorbell_;
  const std::unique_ptr<RingMapping> in_, out_;
  std::vector<std::byte> buffer_;
  EventFd doorbell_event_;
  RingReader reader_;
  RingWriter writer_;
  const PerLoop<ChannelCounters>::Lease counters_;
  bool bound_ = false;
  uint32_t marked_ = 0;  // bytes of the outgoing ring before this index were marked dirty
  bool batch_in_ = false, batch_out_ = false;
  Mutex mutex_;
  uint32_t target_vp_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_SERVER_SERVER_CHANNEL_H_
