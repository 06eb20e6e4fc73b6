#include "tools/host/unix_socket.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace partita {

absl::StatusOr<UniqueFd> ListenForOwner(const std::string& what, const std::string& path, int type,
                                        size_t backlog) {
  ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress(what, path));
  const auto* raw = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return SystemError(what + " socket " + path);
  // Nobody may connect in the moment between bind and chmod.
  const mode_t before = umask(0177);
  int bound = bind(socket.get(), raw, sizeof(address));
  if (bound != 0 && errno == EADDRINUSE) {
    struct stat info {};
    // A socket of another type: it finds out whether anybody has this name without being a visitor
    // (a console serves the newest one). EPROTOTYPE: somebody has; ECONNREFUSED: nobody.
    const int other = type == SOCK_DGRAM ? SOCK_STREAM : SOCK_DGRAM;
    const UniqueFd probe(::socket(AF_UNIX, other | SOCK_CLOEXEC, 0));
    const bool stale = stat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode) &&
                       connect(probe.get(), raw, sizeof(address)) != 0 && errno == ECONNREFUSED;
    if (stale && unlink(path.c_str()) == 0) bound = bind(socket.get(), raw, sizeof(address));
    if (bound != 0) errno = EADDRINUSE;
  }
  const int error = errno;
  umask(before);
  if (bound != 0) return SystemError(what + " socket " + path, error);
  if (listen(socket.get(), static_cast<int>(backlog)) != 0) {
    return SystemError(what + " socket " + path);
  }
  return socket;
}

SocketFile::SocketFile(std::string path) : path_(std::move(path)) {
  struct stat info {};
  if (lstat(path_.c_str(), &info) != 0) return;
  device_ = info.st_dev;
  inode_ = info.st_ino;
}

SocketFile::~SocketFile() {
  struct stat info {};
  if (!path_.empty() && lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ &&
      info.st_ino == inode_) {
    unlink(path_.c_str());
  }
}

}  // namespace partita
