#include "tools/partita/control_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "tools/host/unix_socket.h"

namespace partita {

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Create(const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd socket, ListenForOwner("--control", path, SOCK_SEQPACKET, kMaxClients));
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(socket), path));
}

void ControlServer::AddTo(std::vector<pollfd>& fds) const {
  fds.push_back({.fd = socket_.get(), .events = POLLIN, .revents = 0});
  for (const auto& client : clients_) {
    fds.push_back({.fd = client->channel.fd(), .events = POLLIN, .revents = 0});
  }
}

void ControlServer::HandleEvents(const std::vector<pollfd>& fds, size_t first,
                                 const Forward& forward) {
  // Clients first: Accept appends to them.
  for (size_t i = clients_.size(); i-- > 0;) {
    if (fds[first + 1 + i].revents != 0 && !Serve(*clients_[i], forward)) {
      Forget(i);
    }
  }
  if (fds[first].revents != 0) Accept();
}

void ControlServer::Accept() {
  UniqueFd fd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
      (peer.uid != 0 && peer.uid != geteuid())) {
    return Log("control socket: a user who may not use it was turned away");
  }
  if (clients_.size() >= kMaxClients) return Log("control socket: too many connections");
  clients_.push_back(std::make_unique<Client>(
      Client{.number = next_++, .channel = control::Channel(std::move(fd))}));
}

void ControlServer::Forget(size_t index) {
  std::erase_if(pending_, [number = clients_[index]->number](const auto& asked) {
    return asked.second.client == number;
  });
  clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(index));
}

bool ControlServer::Serve(Client& client, const Forward& forward) {
  control::Request request;
  std::vector<UniqueFd> descriptors;
  const absl::Status received = client.channel.Receive(&request, &descriptors);
  if (absl::IsDeadlineExceeded(received)) return true;
  if (!received.ok()) return false;
  control::Reply refusal;
  refusal.set_id(request.id());
  // Starting and the signals of `partita run` itself are no business of a client.
  if (request.id() == 0 || request.has_start() || request.has_stop() || request.has_get_stats() ||
      request.has_accept_socket()) {
    refusal.set_error("a request that may not be made here");
  } else if (client.pending >= kMaxPending) {
    refusal.set_error("too many requests without an answer");
  } else {
    const uint64_t number = next_++;
    pending_[number] = {.client = client.number, .id = request.id()};
    ++client.pending;
    request.set_id(number);
    std::vector<int> raw;
    raw.reserve(descriptors.size());
    for (const UniqueFd& fd : descriptors) raw.push_back(fd.get());
    const absl::Status sent = forward(request, raw);
    if (sent.ok()) return true;
    pending_.erase(number);
    --client.pending;
    refusal.set_error("the partition has ended");
  }
  control::Event event;
  *event.mutable_reply() = std::move(refusal);
  return client.channel.Send(event).ok();
}

void ControlServer::OnReply(control::Reply reply) {
  const auto asked = pending_.find(reply.id());
  if (asked == pending_.end()) return;
  const Asked whom = asked->second;
  pending_.erase(asked);
  const auto client = std::find_if(clients_.begin(), clients_.end(),
                                   [&](const auto& c) { return c->number == whom.client; });
  if (client == clients_.end()) return;  // did not wait
  --(*client)->pending;
  reply.set_id(whom.id);
  control::Event event;
  *event.mutable_reply() = std::move(reply);
  // A client that does not read is cut off rather than waited for.
  if (!(*client)->channel.Send(event).ok()) {
    Forget(static_cast<size_t>(client - clients_.begin()));
  }
}

}  // namespace partita
