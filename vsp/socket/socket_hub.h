// Host sockets (Linux: hv_sock): each connection between a guest's AF_VSOCK socket and a stream
// socket of the host is a VMBus channel of its own, offered when it begins and rescinded when it
// ends.
//
// The hub belongs to the control thread; bytes move on one thread for all connections of a
// partition. Flow control is the ring's room on one side and the socket's on the other: nothing is
// read from either that the other cannot take, but for one packet. Each direction ends by itself
// (FIN).
#ifndef PARTITA_VSP_SOCKET_SOCKET_HUB_H_
#define PARTITA_VSP_SOCKET_SOCKET_HUB_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <thread>

#include "base/counters.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "vmbus/server/vmbus_server.h"

namespace partita::socket {

// Port -> the GUID of the service. Source: Linux, net/vmw_vsock/hyperv_transport.c.
vmbus::Guid ServiceOfPort(uint32_t port);
// The port behind a GUID of that kind; false: another kind.
bool PortOfService(const vmbus::Guid& service, uint32_t* port);

// The data of a guest's packet, in private memory; nothing: it lies. No bytes at all are a FIN.
std::optional<std::span<const std::byte>> SocketData(std::span<const std::byte> payload);

struct SocketCounters {
  Counter to_guest, to_host, bytes_to_guest, bytes_to_host, refused, rejected, unanswered;
  void DescribeTo(StatSink& sink) const;
};

class SocketConnection;

class SocketHub {
 public:
  static constexpr size_t kMaxConnections = 256;

  static constexpr uint32_t kPatienceMs = 30'000;

  // `wanted(port, id)`: a guest connects to a port of the host; Accept or Refuse says with what.
  // Once the host's program is gone, a guest that takes nothing for `patience_ms` loses the
  // connection: it must not hold a place for ever.
  static absl::StatusOr<std::unique_ptr<SocketHub>> Create(
      EventLoop& control, std::function<void(uint32_t port, uint64_t id)> wanted,
      uint32_t patience_ms = kPatienceMs);
  // All connections must be closed (VmbusServer::Shutdown).
  ~SocketHub();
  SocketHub(const SocketHub&) = delete;
  SocketHub& operator=(const SocketHub&) = delete;

  // Offers and rescinds go there from now on.
  void Connect(vmbus::VmbusServer& server) { server_ = &server; }
  // The partition is gone or rebuilt: forgets every connection.
  void Forget();

  // Connects a stream socket to a port that a guest listens on. The socket first gets a line, "OK
  // PORT" or "ERROR why".
  void ConnectToGuest(uint32_t port, UniqueFd stream);
  // TL_CONNECT_REQUEST of a guest.
  void OnGuestConnect(const vmbus::Guid& endpoint, const vmbus::Guid& service);
  void Accept(uint64_t id, UniqueFd stream);
  void Refuse(uint64_t id);

  [[nodiscard]] size_t connections() const { return connections_.size(); }
  void DescribeTo(StatSink& sink) const;

  // Used by connections.
  [[nodiscard]] EventLoop& loop() { return *loop_; }
  [[nodiscard]] SocketCounters& counters() { return counters_; }
  [[nodiscard]] uint32_t patience_ms() const { return patience_ms_; }
  void Ended(uint64_t id);

 private:
  SocketHub(EventLoop& control, std::unique_ptr<EventLoop> loop,
            std::function<void(uint32_t, uint64_t)> wanted, uint32_t patience_ms);
  // Takes the offer back; the connection goes when the guest has let go.
  void End(uint64_t id);
  void Offer(uint64_t id, std::unique_ptr<SocketConnection> connection);

  struct Wanted {
    vmbus::Guid endpoint, service;
  };
  EventLoop& control_;
  const std::unique_ptr<EventLoop> loop_;
  const std::function<void(uint32_t, uint64_t)> wanted_;
  const uint32_t patience_ms_;
  vmbus::VmbusServer* server_ = nullptr;
  std::map<uint64_t, std::unique_ptr<SocketConnection>> connections_;
  std::map<uint64_t, Wanted> asked_;
  uint64_t next_ = 1;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  SocketCounters counters_;
  std::thread thread_;
};

}  // namespace partita::socket

#endif  // PARTITA_VSP_SOCKET_SOCKET_HUB_H_
