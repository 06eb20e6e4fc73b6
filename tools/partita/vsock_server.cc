#include "tools/partita/vsock_server.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "tools/host/unix_socket.h"

namespace partita {

absl::StatusOr<std::unique_ptr<VsockServer>> VsockServer::Create(const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd socket, ListenForOwner("--vsock", path, SOCK_STREAM, kMaxClients));
  return std::unique_ptr<VsockServer>(new VsockServer(std::move(socket), path));
}

void VsockServer::AddTo(std::vector<pollfd>& fds) const {
  fds.push_back(
      {.fd = clients_.size() < kMaxClients ? socket_.get() : -1, .events = POLLIN, .revents = 0});
  for (const Client& client : clients_) {
    fds.push_back({.fd = client.stream.get(), .events = POLLIN, .revents = 0});
  }
}

void VsockServer::HandleEvents(const std::vector<pollfd>& fds, size_t first,
                               const ControlServer::Forward& forward) {
  for (size_t i = clients_.size(); i-- > 0;) {
    if (fds[first + 1 + i].revents != 0 && !Serve(clients_[i], forward)) {
      clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  if (fds[first].revents != 0) Accept();
}

void VsockServer::Accept() {
  UniqueFd fd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.valid()) clients_.push_back({std::move(fd), ""});
}

bool VsockServer::Serve(Client& client, const ControlServer::Forward& forward) {
  // A byte at a time: what follows the line belongs to the guest.
  while (true) {
    char c = 0;
    const ssize_t got = read(client.stream.get(), &c, 1);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (got <= 0) return false;
    if (c == '\n') break;
    client.line += c;
    if (client.line.size() > kMaxLine) return false;
  }
  const auto answer = [&client](std::string_view text) {
    static_cast<void>(send(client.stream.get(), text.data(), text.size(), MSG_NOSIGNAL) > 0);
    return false;
  };
  constexpr std::string_view kVerb = "CONNECT ";
  std::string_view line = client.line;
  if (line.ends_with('\r')) line.remove_suffix(1);
  uint32_t port = 0;
  const char* begin = line.data() + std::min(line.size(), kVerb.size());
  const char* end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(begin, end, port);
  if (!line.starts_with(kVerb) || begin == end || error != std::errc() || stop != end) {
    return answer("ERROR the first line must be CONNECT and the number of a port\n");
  }
  control::Request request;
  request.set_id(UINT64_MAX);  // the guest's answer goes to the stream itself
  request.mutable_connect_socket()->set_port(port);
  const int fd = client.stream.get();
  if (!forward(request, std::span(&fd, 1)).ok()) return answer("ERROR the partition has ended\n");
  return false;
}

UniqueFd VsockServer::ConnectToHost(uint32_t port) const {
  const auto address = UnixAddress("--vsock", file_.path() + "_" + std::to_string(port));
  if (!address.ok()) return {};
  // Not blocking: a listener with a full backlog is as good as none.
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto* raw = reinterpret_cast<const sockaddr*>(&*address);
  if (!fd.valid() || connect(fd.get(), raw, sizeof(*address)) != 0) return {};
  return fd;
}

}  // namespace partita
