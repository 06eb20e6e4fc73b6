#include "vsp/socket/socket_hub.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/thread.h"

namespace partita::socket {
namespace {

constexpr vmbus::Guid kTemplate = vmbus::ParseGuid("00000000-facb-11e6-bd58-64006a7986d3");
constexpr uint16_t kSocketFlag = 0x2000;  // of an offer
constexpr size_t kHostInitiated = 4;      // byte of an offer's user data
constexpr uint32_t kOpenMs = 10'000;      // a guest that does not listen says nothing
constexpr uint32_t kData = 1;
constexpr size_t kMaxToGuest = 16384;  // bytes of a packet; more is an error to Linux
constexpr int kBatch = 64;

struct PacketHeader {
  uint32_t type, size;
};

}  // namespace

vmbus::Guid ServiceOfPort(uint32_t port) {
  vmbus::Guid guid = kTemplate;
  std::memcpy(guid.bytes, &port, sizeof(port));
  return guid;
}

bool PortOfService(const vmbus::Guid& service, uint32_t* port) {
  std::memcpy(port, service.bytes, sizeof(*port));
  return service == ServiceOfPort(*port);
}

std::optional<std::span<const std::byte>> SocketData(std::span<const std::byte> payload) {
  PacketHeader header{};
  if (payload.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, payload.data(), sizeof(header));
  payload = payload.subspan(sizeof(header));
  if (header.type != kData || header.size > payload.size()) return std::nullopt;
  return payload.first(header.size);
}

void SocketCounters::DescribeTo(StatSink& sink) const {
  sink.Add("socket.connects_to_guest", to_guest);
  sink.Add("socket.connects_to_host", to_host);
  sink.Add("socket.bytes_to_guest", bytes_to_guest);
  sink.Add("socket.bytes_to_host", bytes_to_host);
  sink.Add("socket.refused", refused);
  sink.Add("socket.unanswered", unanswered);
  sink.Add("socket.rejected", rejected);
}

// One connection. Created and destroyed on the control thread; between Start and Stop the rest
// belongs to the hub's thread.
class SocketConnection : public vmbus::ChannelDevice {
 public:
  SocketConnection(SocketHub& hub, uint64_t id, const vmbus::Guid& type,
                   const vmbus::Guid& instance, bool by_host, UniqueFd stream)
      : hub_(hub),
        id_(id),
        type_(type),
        instance_(instance),
        by_host_(by_host),
        stream_(std::move(stream)) {
    const int flags = fcntl(stream_.get(), F_GETFL);
    fcntl(stream_.get(), F_SETFL, flags | O_NONBLOCK);
  }

  // vmbus::ChannelDevice
  [[nodiscard]] vmbus::OfferParameters offer() const override {
    vmbus::OfferParameters parameters;
    parameters.type = type_;
    parameters.instance = instance_;
    parameters.flags = kSocketFlag;
    parameters.user_data[kHostInitiated] = by_host_ ? 1 : 0;
    return parameters;
  }
  [[nodiscard]] uint32_t max_packet() const override { return 64 << 10; }
  bool OnOpen(const vmbus::OpenRequest&, std::shared_ptr<vmbus::ServerChannel> channel) override {
    opened = true;
    hub_.loop().Post([this, channel = std::move(channel)]() mutable { Start(std::move(channel)); });
    return true;
  }
  void OnClose(uint32_t, std::function<void()> done) override {
    hub_.loop().Post([this, done = std::move(done)] {
      Stop();
      done();
      // The stream is gone with the channel, whether or not each half had ended in order.
      if (!std::exchange(reported_, true)) hub_.Ended(id_);
    });
  }

  // Control thread.
  uint32_t relid = 0;
  bool opened = false, ending = false;
  void Tell(const std::string& line) const {
    static_cast<void>(::send(stream_.get(), line.data(), line.size(), MSG_NOSIGNAL) > 0);
  }
  [[nodiscard]] bool by_host() const { return by_host_; }

 private:
  void Start(std::shared_ptr<vmbus::ServerChannel> channel) {
    channel_ = std::move(channel);
    if (by_host_) {
      uint32_t port = 0;
      static_cast<void>(PortOfService(type_, &port));
      Tell("OK " + std::to_string(port) + "\n");
    }
    EventLoop& loop = hub_.loop();
    absl::Status added = loop.Add(channel_->doorbell_fd(), EPOLLIN, [this](uint32_t) {
      uint64_t rung = 0;
      if (read(channel_->doorbell_fd(), &rung, sizeof(rung)) == sizeof(rung)) {
        channel_->CountDoorbells(rung);
      }
      Move();
    });
    // Edge-triggered: each Move goes on until neither side can.
    if (added.ok()) {
      added = loop.Add(stream_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                       [this](uint32_t events) {
                         if ((events & (EPOLLHUP | EPOLLERR)) != 0) HostGone();
                         Move();
                       });
    }
    if (!added.ok()) {
      Log(Message(added));
      to_guest_done_ = to_host_done_ = true;
    }
    Move();
  }

  // Nobody reads what the guest sends. What was sent to it can still be read, but not for ever.
  void HostGone() {
    to_host_done_ = true;
    if (!std::exchange(host_gone_, true)) AwaitProgress();
  }
  void AwaitProgress() {
    hub_.loop().After(hub_.patience_ms(),
                      [this, alive = std::weak_ptr<bool>(alive_), seen = sent_] {
                        if (alive.expired() || channel_ == nullptr || reported_) return;
                        if (sent_ != seen) return AwaitProgress();
                        reported_ = true;
                        hub_.Ended(id_);
                      });
  }

  void Stop() {
    if (channel_ == nullptr) return;
    hub_.loop().Remove(channel_->doorbell_fd());
    hub_.loop().Remove(stream_.get());
    channel_.reset();
    stream_.Reset();
  }

  void Move() {
    if (channel_ == nullptr) return;
    channel_->MaskDoorbell();
    bool again = false;
    do {
      again = false;
      // Bounded, so that one connection leaves room for the others.
      for (int i = 0; i < kBatch && ToHost(); ++i) again = i + 1 == kBatch;
      bool more = false;
      for (int i = 0; i < kBatch && ToGuest(); ++i) more = i + 1 == kBatch;
      channel_->Commit();
      if (again || more) {
        hub_.loop().Post([this] { Move(); });  // behind what waits
        return;
      }
      again = !to_host_blocked_ && !corrupt_ && channel_->UnmaskDoorbell();
    } while (again);
    CheckEnd();
  }

  // One packet of the guest. False: there is none, or the stream takes no more.
  bool ToHost() {
    if (!Flush()) return false;
    if (corrupt_) return false;
    vmbus::Packet packet;
    const vmbus::RingStatus status = channel_->Next(&packet);
    if (status == vmbus::RingStatus::kEmpty) return false;
    const auto data =
        status == vmbus::RingStatus::kOk && packet.descriptor.type == vmbus::kPacketInBand
            ? SocketData(packet.payload)
            : std::nullopt;
    if (!data) {
      hub_.counters().rejected.Add();
      corrupt_ = to_host_done_ = to_guest_done_ = true;
      return false;
    }
    if (data->empty()) {
      fin_from_guest_ = true;
      return Flush();
    }
    hub_.counters().bytes_to_host.Add(data->size());
    if (to_host_done_) return true;  // nobody reads it any more
    waiting_.assign(data->begin(), data->end());
    written_ = 0;
    return Flush();
  }

  // Writes what the last packet left. False: the stream is full.
  bool Flush() {
    to_host_blocked_ = false;
    while (written_ < waiting_.size() && !to_host_done_) {
      const ssize_t sent = ::send(stream_.get(), waiting_.data() + written_,
                                  waiting_.size() - written_, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && errno == EAGAIN) {
        to_host_blocked_ = true;
        return false;
      }
      if (sent <= 0) {
        to_host_done_ = to_guest_done_ = true;  // the other end is gone altogether
        break;
      }
      written_ += static_cast<size_t>(sent);
    }
    waiting_.clear();
    written_ = 0;
    if (fin_from_guest_ && !std::exchange(to_host_done_, true)) {
      shutdown(stream_.get(), SHUT_WR);
    }
    return true;
  }

  // One packet to the guest. False: nothing to send, or no room.
  bool ToGuest() {
    if (fin_sent_) return false;
    if (!chunk_ready_) {
      if (to_guest_done_) {
        chunk_ready_ = true;  // FIN: a packet without data
      } else {
        const ssize_t got =
            recv(stream_.get(), chunk_.data() + sizeof(PacketHeader), kMaxToGuest, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) return true;
        if (got < 0 && errno == EAGAIN) return false;
        if (got <= 0) to_guest_done_ = true;
        chunk_size_ = got > 0 ? static_cast<size_t>(got) : 0;
        chunk_ready_ = true;
      }
    }
    const PacketHeader header = {kData, static_cast<uint32_t>(chunk_size_)};
    std::memcpy(chunk_.data(), &header, sizeof(header));
    const auto payload = std::span<const std::byte>(chunk_).first(sizeof(header) + chunk_size_);
    while (true) {
      const vmbus::RingStatus status = channel_->Send(vmbus::kPacketInBand, 0, 0, payload);
      if (status == vmbus::RingStatus::kOk) break;
      if (status != vmbus::RingStatus::kFull) {
        corrupt_ = to_host_done_ = to_guest_done_ = fin_sent_ = true;
        return false;
      }
      channel_->Commit();
      if (channel_->RequestRoom(static_cast<uint32_t>(payload.size()))) return false;
    }
    hub_.counters().bytes_to_guest.Add(chunk_size_);
    ++sent_;
    if (chunk_size_ == 0) fin_sent_ = true;
    chunk_size_ = 0;
    chunk_ready_ = false;
    return true;
  }

  void CheckEnd() {
    if (!fin_sent_ || !to_host_done_ || std::exchange(reported_, true)) return;
    hub_.Ended(id_);
  }

  SocketHub& hub_;
  const uint64_t id_;
  const vmbus::Guid type_, instance_;
  const bool by_host_;
  UniqueFd stream_;
  std::shared_ptr<vmbus::ServerChannel> channel_;
  std::vector<std::byte> waiting_;  // of the guest's last packet, from written_ on
  size_t written_ = 0;
  std::vector<std::byte> chunk_ = std::vector<std::byte>(sizeof(PacketHeader) + kMaxToGuest);
  size_t chunk_size_ = 0;
  bool chunk_ready_ = false;
  bool to_host_blocked_ = false, fin_from_guest_ = false, to_host_done_ = false;
  bool to_guest_done_ = false, fin_sent_ = false, corrupt_ = false, reported_ = false;
  bool host_gone_ = false;
  uint64_t sent_ = 0;  // packets that the guest's ring took
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

absl::StatusOr<std::unique_ptr<SocketHub>> SocketHub::Create(
    EventLoop& control, std::function<void(uint32_t port, uint64_t id)> wanted,
    uint32_t patience_ms) {
  ASSIGN_OR_RETURN(auto loop, EventLoop::Create());
  return std::unique_ptr<SocketHub>(
      new SocketHub(control, std::move(loop), std::move(wanted), patience_ms));
}

SocketHub::SocketHub(EventLoop& control, std::unique_ptr<EventLoop> loop,
                     std::function<void(uint32_t, uint64_t)> wanted, uint32_t patience_ms)
    : control_(control),
      loop_(std::move(loop)),
      wanted_(std::move(wanted)),
      patience_ms_(patience_ms) {}

SocketHub::~SocketHub() {
  loop_->Stop();
  if (thread_.joinable()) thread_.join();
}

void SocketHub::Forget() {
  // Tasks of theirs may still wait on the other thread.
  auto keep = std::make_shared<decltype(connections_)>(std::move(connections_));
  connections_.clear();
  loop_->Post([keep] {});
  asked_.clear();
  server_ = nullptr;
}

void SocketHub::Offer(uint64_t id, std::unique_ptr<SocketConnection> connection) {
  if (!thread_.joinable()) {  // most partitions never have a connection
    auto started = StartThread("host sockets", [this] {
      pthread_setname_np(pthread_self(), "sockets");
      loop_->Run();
    });
    if (!started.ok()) {
      LogLimited(std::string(Message(started.status())));
      counters_.refused.Add();
      if (connection->by_host()) connection->Tell("ERROR the host has no thread to spare\n");
      return;
    }
    thread_ = *std::move(started);
  }
  SocketConnection& offered = *connection;
  connections_[id] = std::move(connection);
  offered.relid = server_->AddDevice(offered);
  if (offered.relid == 0) {
    counters_.refused.Add();
    if (offered.by_host()) offered.Tell("ERROR the partition has no free channel\n");
    connections_.erase(id);
    return;
  }
  control_.After(kOpenMs, [this, id, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    const auto it = connections_.find(id);
    if (it == connections_.end() || it->second->opened) return;
    counters_.unanswered.Add();
    if (it->second->by_host()) it->second->Tell("ERROR nobody listens on that port\n");
    End(id);
  });
}

void SocketHub::ConnectToGuest(uint32_t port, UniqueFd stream) {
  const uint64_t id = next_++;
  vmbus::Guid endpoint{};  // unique; its first 32 bits are the port that the guest sees
  if (getrandom(endpoint.bytes, sizeof(endpoint.bytes), 0) < 0) {
    std::memcpy(endpoint.bytes, &id, sizeof(id));
  }
  auto connection = std::make_unique<SocketConnection>(*this, id, ServiceOfPort(port), endpoint,
                                                       true, std::move(stream));
  if (server_ == nullptr || connections_.size() >= kMaxConnections) {
    counters_.refused.Add();
    return connection->Tell("ERROR the partition takes no more connections\n");
  }
  counters_.to_guest.Add();
  Offer(id, std::move(connection));
}

void SocketHub::OnGuestConnect(const vmbus::Guid& endpoint, const vmbus::Guid& service) {
  uint32_t port = 0, own = 0;
  if (!PortOfService(service, &port) || !PortOfService(endpoint, &own)) {
    return counters_.rejected.Add();
  }
  if (connections_.size() + asked_.size() >= kMaxConnections) return counters_.refused.Add();
  const uint64_t id = next_++;
  asked_[id] = {endpoint, service};
  wanted_(port, id);
}

void SocketHub::Accept(uint64_t id, UniqueFd stream) {
  const auto it = asked_.find(id);
  if (it == asked_.end() || server_ == nullptr) return;
  const Wanted wanted = it->second;
  asked_.erase(it);
  counters_.to_host.Add();
  Offer(id, std::make_unique<SocketConnection>(*this, id, wanted.service, wanted.endpoint, false,
                                               std::move(stream)));
}

void SocketHub::Refuse(uint64_t id) {
  // A guest whose offer does not come gives up by itself.
  if (asked_.erase(id) != 0) counters_.refused.Add();
}

void SocketHub::Ended(uint64_t id) {
  control_.Post([this, id, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired()) End(id);
  });
}

void SocketHub::End(uint64_t id) {
  const auto it = connections_.find(id);
  if (it == connections_.end() || std::exchange(it->second->ending, true) || server_ == nullptr) {
    return;
  }
  server_->RemoveDevice(it->second->relid, [this, id] {
    const auto gone = connections_.find(id);
    if (gone == connections_.end()) return;
    // Tasks of its own may still wait on the other thread.
    auto keep = std::shared_ptr<SocketConnection>(std::move(gone->second));
    connections_.erase(gone);
    loop_->Post([keep] {});
  });
}

void SocketHub::DescribeTo(StatSink& sink) const { counters_.DescribeTo(sink); }

}  // namespace partita::socket
