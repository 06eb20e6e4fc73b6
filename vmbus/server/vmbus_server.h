// The parent's VMBus: the state machine inside a thin shell that owns the queue from the VPs, the
// rings and doorbells of open channels, and the devices.
//
// Everything runs on the control thread, except OnGuestMessage (VP threads), RequestSubChannels,
// FindGpadl and the completion callbacks handed to devices, which may come from any thread.
#ifndef PARTITA_VMBUS_SERVER_VMBUS_SERVER_H_
#define PARTITA_VMBUS_SERVER_VMBUS_SERVER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/event_loop.h"
#include "base/hyperv_abi.h"
#include "base/mutex.h"
#include "vmbus/server/channel_state_machine.h"
#include "vmbus/server/page_census.h"
#include "vmbus/server/server_channel.h"

namespace partita::vmbus {

// A VSP. Calls come on the control thread and must not block.
class ChannelDevice {
 public:
  virtual ~ChannelDevice() = default;
  [[nodiscard]] virtual OfferParameters offer() const = 0;
  [[nodiscard]] virtual uint32_t max_packet() const = 0;
  // Takes the channel over; it is the device's until `done` of OnClose was called, and is destroyed
  // before that. False: the open fails.
  virtual bool OnOpen(const OpenRequest& request, std::shared_ptr<ServerChannel> channel) = 0;
  // Stop touching rings and guest memory on behalf of this channel, then call `done` (any thread).
  virtual void OnClose(uint32_t relid, std::function<void()> done) = 0;
  // Control thread, behind `done`: what was kept for the channel can go.
  virtual void OnLetGo(uint32_t /*relid*/) {}
  // Adds the guest's pages that transfers under way use, rings and GPADLs apart; may keep the
  // census for a while.
  virtual void CountPages(const std::shared_ptr<PageCensus>& /*census*/) {}
};

class VmbusServer : public ChannelActions {
 public:
  VmbusServer(EventLoop& loop, GuestMemory& memory, Interrupt& interrupt, Doorbell& doorbell,
              ChannelStateMachine::Limits limits);
  ~VmbusServer() override;

  // `device` outlives the server. 0 when no relid is free.
  uint32_t AddDevice(ChannelDevice& device);
  void RequestSubChannels(uint32_t primary_relid, uint32_t count);
  // Takes a device's offer back; `gone` is called on the control thread once the guest has let go
  // of it, and the device may be destroyed then. Other devices with its instance GUID must wait for
  // that.
  void RemoveDevice(uint32_t relid, std::function<void()> gone);
  // Looks a complete GPADL up and calls `found` on the control thread; null if there is none. The
  // guest is told that it is torn down only when the last copy of the pointer is gone (any thread;
  // before the loop).
  void FindGpadl(uint32_t relid, uint32_t handle,
                 std::function<void(std::shared_ptr<const Gpadl>)> found);

  // HvPostMessage. Bounded: a guest that posts faster than we handle is asked to try again.
  hv::Status OnGuestMessage(uint32_t connection_id, uint32_t type,
                            std::span<const std::byte> payload);
  // Closes every channel, then calls `done` on the control thread. For reset and shutdown. Messages
  // of the guest that are still queued, or come later, are dropped: they could open another.
  void Shutdown(std::function<void()> done);

  // Who gets socket connections of the guest; outlives the server.
  void OnSocketConnect(std::function<void(const Guid& endpoint, const Guid& service)> handler) {
    socket_handler_ = std::move(handler);
  }
  [[nodiscard]] const ChannelStateMachine& machine() const { return machine_; }
  void DescribeTo(StatSink& sink) const;

  // ChannelActions
  void Send(uint32_t vp, std::span<const std::byte> message) override;
  void Open(const OpenRequest& request) override;
  void Close(uint32_t relid) override;
  void Retarget(uint32_t relid, uint32_t vp) override;
  void Removed(uint32_t relid) override;
  void DropMessages() override;
  void SocketConnect(const Guid& endpoint, const Guid& service) override;

 private:
  struct QueuedMessage {
    uint8_t size = 0;
    std::array<std::byte, kMaxMessage> bytes;
  };
  void DrainMessages();
  ChannelDevice* FindDevice(uint32_t relid);
  void CheckShutdown();
  void PostIfAlive(std::function<void()> task);

  static constexpr size_t kMaxQueued = 512;
  static constexpr size_t kMessagesAtOnce = 16;  // then the loop looks at other things
  EventLoop& loop_;
  GuestMemory& memory_;
  Interrupt& interrupt_;
  Doorbell& doorbell_;
  MappingBudget budget_;
  PerLoop<ChannelCounters> channel_counters_;
  ChannelStateMachine machine_;
  std::map<uint32_t, ChannelDevice*> devices_;         // by relid of the primary
  std::map<uint32_t, std::function<void()>> leaving_;  // by relid of the primary
  std::map<uint32_t, uint32_t> primaries_;             // relid of an open channel -> its primary
  std::map<uint32_t, std::shared_ptr<ServerChannel>> open_;
  std::function<void()> shutdown_done_;
  std::function<void(const Guid&, const Guid&)> socket_handler_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  Mutex mutex_;
  std::deque<QueuedMessage> queue_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  Counter queue_full_, bad_connection_, undelivered_;
};

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_SERVER_VMBUS_SERVER_H_
