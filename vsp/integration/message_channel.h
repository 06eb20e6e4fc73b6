// A device with one VMBus channel that exchanges small messages on the control thread: integration
// services, dynamic memory, the keyboard.
#ifndef PARTITA_VSP_INTEGRATION_MESSAGE_CHANNEL_H_
#define PARTITA_VSP_INTEGRATION_MESSAGE_CHANNEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/counters.h"
#include "base/event_loop.h"
#include "vmbus/server/vmbus_server.h"

namespace partita::integration {

class MessageChannel : public vmbus::ChannelDevice {
 public:
  MessageChannel(EventLoop& loop, std::string name, const vmbus::Guid& type,
                 const vmbus::Guid& instance)
      : loop_(loop), name_(std::move(name)), type_(type), instance_(instance) {}
  ~MessageChannel() override;
  MessageChannel(const MessageChannel&) = delete;
  MessageChannel& operator=(const MessageChannel&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }

  // vmbus::ChannelDevice
  [[nodiscard]] vmbus::OfferParameters offer() const override;
  [[nodiscard]] uint32_t max_packet() const override { return kMaxPacket; }
  bool OnOpen(const vmbus::OpenRequest& request,
              std::shared_ptr<vmbus::ServerChannel> channel) override;
  void OnClose(uint32_t relid, std::function<void()> done) override;

 protected:
  static constexpr uint32_t kMaxPacket = 8192;

  virtual void OnOpened() {}
  virtual void OnClosed() {}
  // One packet, in private memory. May lead to the channel's end.
  virtual void OnPacket(const vmbus::Packet& packet) = 0;

  [[nodiscard]] bool open() const { return channel_ != nullptr; }
  // Publishes at once. False: the guest does not read its ring.
  bool SendPacket(std::span<const std::byte> payload, uint64_t transaction = 0);
  // Calls `task` after a while unless the channel was closed meanwhile.
  void After(uint32_t milliseconds, std::function<void()> task);

 private:
  void Drain();

  EventLoop& loop_;
  const std::string name_;
  const vmbus::Guid type_, instance_;
  std::shared_ptr<vmbus::ServerChannel> channel_;
  std::shared_ptr<bool> open_;  // dies with the open channel
};

}  // namespace partita::integration

#endif  // PARTITA_VSP_INTEGRATION_MESSAGE_CHANNEL_H_
