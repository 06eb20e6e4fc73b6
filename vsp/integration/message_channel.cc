#include "vsp/integration/message_channel.h"

#include <sys/epoll.h>

#include <utility>

#include "base/log.h"

namespace partita::integration {

MessageChannel::~MessageChannel() {
  if (channel_ != nullptr) loop_.Remove(channel_->doorbell_fd());
}

vmbus::OfferParameters MessageChannel::offer() const {
  vmbus::OfferParameters parameters;
  parameters.type = type_;
  parameters.instance = instance_;
  return parameters;
}

bool MessageChannel::OnOpen(const vmbus::OpenRequest&,
                            std::shared_ptr<vmbus::ServerChannel> channel) {
  channel_ = std::move(channel);
  open_ = std::make_shared<bool>(true);
  const absl::Status added =
      loop_.Add(channel_->doorbell_fd(), EPOLLIN, [this](uint32_t) { Drain(); });
  if (!added.ok()) {
    Log(Message(added));
    channel_.reset();
    open_.reset();
    return false;
  }
  OnOpened();
  return true;
}

void MessageChannel::OnClose(uint32_t, std::function<void()> done) {
  if (channel_ != nullptr) {
    loop_.Remove(channel_->doorbell_fd());
    channel_.reset();
    open_.reset();
    OnClosed();
  }
  done();
}

void MessageChannel::After(uint32_t milliseconds, std::function<void()> task) {
  loop_.After(milliseconds, [open = std::weak_ptr<bool>(open_), task = std::move(task)] {
    if (!open.expired()) task();
  });
}

bool MessageChannel::SendPacket(std::span<const std::byte> payload, uint64_t transaction) {
  if (channel_ == nullptr ||
      channel_->Send(vmbus::kPacketInBand, 0, transaction, payload) != vmbus::RingStatus::kOk) {
    return false;
  }
  channel_->Commit();
  return true;
}

void MessageChannel::Drain() {
  // A guest that sends faster than we read must not keep the control thread here.
  constexpr int kBatch = 32;
  channel_->MaskDoorbell();
  uint64_t rung = 0;
  if (read(channel_->doorbell_fd(), &rung, sizeof(rung)) == sizeof(rung)) {
    channel_->CountDoorbells(rung);
  }
  vmbus::Packet packet;
  for (int i = 0; i < kBatch; ++i) {
    const vmbus::RingStatus status = channel_->Next(&packet);
    if (status == vmbus::RingStatus::kEmpty) {
      channel_->Commit();
      if (!channel_->UnmaskDoorbell()) return;
      continue;
    }
    if (status != vmbus::RingStatus::kOk) {
      LogLimited("the guest corrupted the ring of " + name_);
      return;  // stays masked; nothing more is read until the guest reopens
    }
    OnPacket(packet);
    if (channel_ == nullptr) return;  // closed by what the packet led to
  }
  channel_->Commit();
  After(0, [this] { Drain(); });
}

}  // namespace partita::integration
