// A device whose channel is served by a function on the control thread, for the guest's drivers: a
// parent that is older than ours, or that says what ours never would.
#ifndef PARTITA_TESTS_FAKES_SCRIPTED_DEVICE_H_
#define PARTITA_TESTS_FAKES_SCRIPTED_DEVICE_H_

#include <sys/epoll.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <utility>

#include "base/event_loop.h"
#include "vmbus/server/vmbus_server.h"

namespace partita::testing_support {

class ScriptedDevice : public vmbus::ChannelDevice {
 public:
  // For each packet; what it sends is published after it returns.
  using Script = std::function<void(vmbus::ServerChannel&, const vmbus::Packet&)>;

  ScriptedDevice(EventLoop& loop, const vmbus::Guid& type, Script script)
      : loop_(loop), type_(type), script_(std::move(script)) {}

  // vmbus::ChannelDevice
  [[nodiscard]] vmbus::OfferParameters offer() const override {
    vmbus::OfferParameters parameters;
    parameters.type = type_;
    parameters.instance = {{7}};
    return parameters;
  }
  [[nodiscard]] uint32_t max_packet() const override { return 8192; }
  bool OnOpen(const vmbus::OpenRequest&, std::shared_ptr<vmbus::ServerChannel> channel) override {
    if (refuse_open) return false;
    channel_ = std::move(channel);
    return loop_.Add(channel_->doorbell_fd(), EPOLLIN, [this](uint32_t) { Drain(); }).ok();
  }
  void OnClose(uint32_t, std::function<void()> done) override {
    loop_.Remove(channel_->doorbell_fd());
    channel_.reset();
    done();
  }
  bool refuse_open = false;

 private:
  void Drain() {
    uint64_t count = 0;
    static_cast<void>(read(channel_->doorbell_fd(), &count, sizeof(count)) < 0);
    vmbus::Packet packet;
    do {
      channel_->MaskDoorbell();
      while (channel_->Next(&packet) == vmbus::RingStatus::kOk) script_(*channel_, packet);
      channel_->Commit();
    } while (channel_->UnmaskDoorbell());
  }
  EventLoop& loop_;
  const vmbus::Guid type_;
  const Script script_;
  std::shared_ptr<vmbus::ServerChannel> channel_;
};

}  // namespace partita::testing_support

#endif  // PARTITA_TESTS_FAKES_SCRIPTED_DEVICE_H_
