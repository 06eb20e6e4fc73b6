#include "tools/partita/connect_command.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/host/unix_socket.h"

namespace partita {
namespace {

absl::StatusOr<UniqueFd> Open(const ConnectOptions& options) {
  ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress("connect", options.path));
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError("socket " + options.path);
  }
  const std::string line = "CONNECT " + std::to_string(options.port) + "\n";
  if (send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL) < 0) {
    return SystemError("socket " + options.path);
  }
  constexpr size_t kMaxLine = 256;
  std::string answer;
  while (answer.size() < kMaxLine) {
    char c = 0;  // one at a time: what follows the line is the guest's
    const ssize_t got = read(fd.get(), &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Unavailable("the partition closed the connection");
    if (c == '\n') break;
    answer += c;
  }
  if (answer.starts_with("OK ")) return fd;
  return Unavailable(answer.starts_with("ERROR ") ? answer.substr(6) : "an answer that is none");
}

bool WriteAll(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t written = write(fd, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes += written;
    size -= static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

int ConnectToGuest(const ConnectOptions& options) {
  const auto stream = Open(options);
  if (!stream.ok()) {
    Log(Message(stream.status()));
    return control::kExitStartFailed;
  }
  std::array<char, 65536> bytes{};
  bool input = true;
  while (true) {
    std::array<pollfd, 2> fds = {
        pollfd{.fd = input ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0},
        pollfd{.fd = stream->get(), .events = POLLIN, .revents = 0}};
    if (poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) break;
    if (fds[0].revents != 0) {
      const ssize_t got = read(STDIN_FILENO, bytes.data(), bytes.size());
      if (got <= 0 || !WriteAll(stream->get(), bytes.data(), static_cast<size_t>(got))) {
        input = false;
        shutdown(stream->get(), SHUT_WR);
      }
    }
    if (fds[1].revents != 0) {
      const ssize_t got = read(stream->get(), bytes.data(), bytes.size());
      if (got <= 0 || !WriteAll(STDOUT_FILENO, bytes.data(), static_cast<size_t>(got))) break;
    }
  }
  return 0;
}

}  // namespace partita
