#include "vmbus/server/vmbus_server.h"

#include <cstring>
#include <utility>

#include "base/mutex.h"

namespace partita::vmbus {

VmbusServer::VmbusServer(EventLoop& loop, GuestMemory& memory, Interrupt& interrupt,
                         Doorbell& doorbell, ChannelStateMachine::Limits limits)
    : loop_(loop),
      memory_(memory),
      interrupt_(interrupt),
      doorbell_(doorbell),
      machine_(limits, *this) {}

VmbusServer::~VmbusServer() = default;

uint32_t VmbusServer::AddDevice(ChannelDevice& device) {
  const uint32_t relid = machine_.AddChannel(device.offer());
  if (relid != 0) devices_[relid] = &device;
  return relid;
}

void VmbusServer::PostIfAlive(std::function<void()> task) {
  loop_.Post([alive = std::weak_ptr<bool>(alive_), task = std::move(task)] {
    if (!alive.expired()) task();
  });
}

void VmbusServer::RequestSubChannels(uint32_t primary_relid, uint32_t count) {
  PostIfAlive([this, primary_relid, count] {
    const uint32_t added = machine_.AddSubChannels(primary_relid, count);
    static_cast<void>(added);
  });
}

void VmbusServer::RemoveDevice(uint32_t relid, std::function<void()> gone) {
  if (!devices_.contains(relid)) return gone();
  leaving_[relid] = std::move(gone);
  machine_.RemoveChannel(relid);
}

void VmbusServer::FindGpadl(uint32_t relid, uint32_t handle,
                            std::function<void(std::shared_ptr<const Gpadl>)> found) {
  PostIfAlive([this, relid, handle, found = std::move(found)] {
    auto gpadl = machine_.FindGpadl(relid, handle);
    const uint64_t loan = machine_.LendGpadl(relid, handle);
    if (loan == 0) return found(nullptr);
    auto give_back = [this, alive = std::weak_ptr<bool>(alive_), loop = &loop_, gpadl, relid,
                      handle, loan](const Gpadl*) {
      loop->Post([this, alive, relid, handle, loan] {
        if (!alive.expired()) machine_.GpadlReturned(relid, handle, loan);
      });
    };
    found(std::shared_ptr<const Gpadl>(gpadl.get(), std::move(give_back)));
  });
}

hv::Status VmbusServer::OnGuestMessage(uint32_t connection_id, uint32_t /*type*/,
                                       std::span<const std::byte> payload) {
  if (connection_id != kMessageConnection && connection_id != kMessageConnection5) {
    bad_connection_.Add();
    return hv::kInvalidConnectionId;
  }
  bool wake = false;
  {
    MutexLock lock(mutex_);
    if (shut_down_) return hv::kSuccess;  // nobody is there to answer
    if (queue_.size() >= kMaxQueued) {
      queue_full_.Add();
      return hv::kInsufficientBuffers;
    }
    wake = queue_.empty();
    QueuedMessage& message = queue_.emplace_back();
    message.size = static_cast<uint8_t>(payload.size());
    std::memcpy(message.bytes.data(), payload.data(), payload.size());
  }
  if (wake) PostIfAlive([this] { DrainMessages(); });
  return hv::kSuccess;
}

void VmbusServer::DrainMessages() {
  std::array<QueuedMessage, kMessagesAtOnce> batch;
  size_t count = 0;
  bool more = false;
  {
    MutexLock lock(mutex_);
    for (; count < batch.size() && !queue_.empty(); ++count) {
      batch[count] = queue_.front();
      queue_.pop_front();
    }
    more = !queue_.empty();
  }
  for (const QueuedMessage& message : std::span(batch).first(count)) {
    machine_.OnMessage(std::span(message.bytes).first(message.size));
  }
  if (more) PostIfAlive([this] { DrainMessages(); });
}

void VmbusServer::Send(uint32_t vp, std::span<const std::byte> message) {
  if (!interrupt_.PostMessage(vp, hv::kVmbusSint, hv::kMessageTypeVmbus, message)) {
    undelivered_.Add();
  }
}

void VmbusServer::SocketConnect(const Guid& endpoint, const Guid& service) {
  // Not from inside the machine: what follows may offer a channel.
  PostIfAlive([this, endpoint, service] {
    if (socket_handler_) socket_handler_(endpoint, service);
  });
}

void VmbusServer::DropMessages() { interrupt_.DropMessages(); }

ChannelDevice* VmbusServer::FindDevice(uint32_t relid) {
  const auto primary = primaries_.find(relid);
  const auto it = devices_.find(primary == primaries_.end() ? relid : primary->second);
  return it == devices_.end() ? nullptr : it->second;
}

void VmbusServer::Open(const OpenRequest& request) {
  primaries_[request.relid] = request.primary;
  ChannelDevice* device = FindDevice(request.relid);
  const std::span<const uint64_t> pfns = request.ring->pfns;
  auto in = RingMapping::Create(memory_, pfns.first(request.downstream_page_offset), budget_);
  auto out = RingMapping::Create(memory_, pfns.subspan(request.downstream_page_offset), budget_);
  bool opened = false;
  if (device != nullptr && in != nullptr && out != nullptr) {
    std::shared_ptr<ServerChannel> channel =
        ServerChannel::Create({.relid = request.relid,
                               .subchannel_index = request.subchannel_index,
                               .target_vp = request.target_vp},
                              memory_, interrupt_, doorbell_, std::move(in), std::move(out),
                              device->max_packet(), channel_counters_);
    if (channel != nullptr && device->OnOpen(request, channel)) {
      open_[request.relid] = std::move(channel);
      opened = true;
    }
  }
  // The answer is an event of its own, so that the machine is never entered from inside itself.
  PostIfAlive([this, relid = request.relid, opened] { machine_.OnOpened(relid, opened); });
}

void VmbusServer::Close(uint32_t relid) {
  open_.erase(relid);
  ChannelDevice* device = FindDevice(relid);
  auto done = [this, alive = std::weak_ptr<bool>(alive_), loop = &loop_, relid] {
    loop->Post([this, alive, relid] {
      if (alive.expired()) return;
      // The device is still there: it is told to go by what the machine does next.
      if (ChannelDevice* closed = FindDevice(relid); closed != nullptr) closed->OnLetGo(relid);
      machine_.OnClosed(relid);
      CheckShutdown();
    });
  };
  if (device == nullptr) return done();
  device->OnClose(relid, done);
}

void VmbusServer::Retarget(uint32_t relid, uint32_t vp) {
  if (const auto it = open_.find(relid); it != open_.end()) it->second->Retarget(vp);
}

void VmbusServer::Removed(uint32_t relid) {
  primaries_.erase(relid);
  if (devices_.erase(relid) == 0) return;
  const auto leaving = leaving_.find(relid);
  if (leaving == leaving_.end()) return;
  // An event of its own: the machine is in the middle of something.
  PostIfAlive(std::move(leaving->second));
  leaving_.erase(leaving);
}

void VmbusServer::Shutdown(std::function<void()> done) {
  {
    MutexLock lock(mutex_);
    shut_down_ = true;
    queue_.clear();
  }
  shutdown_done_ = std::move(done);
  machine_.Disconnect();
  PostIfAlive([this] { CheckShutdown(); });
}

void VmbusServer::CheckShutdown() {
  if (shutdown_done_ && machine_.open_channels() == 0) std::exchange(shutdown_done_, nullptr)();
}

void VmbusServer::DescribeTo(StatSink& sink) const {
  machine_.DescribeTo(sink);
  channel_counters_.ForEach([&](const ChannelCounters& c) { c.DescribeTo(sink); });
  sink.Add("vmbus.rejected.queue_full", queue_full_);
  sink.Add("vmbus.rejected.connection", bad_connection_);
  sink.Add("vmbus.undelivered", undelivered_);
}

}  // namespace partita::vmbus
