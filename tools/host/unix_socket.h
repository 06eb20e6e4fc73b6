// Unix sockets: addresses, and listening for the owner only.
#ifndef PARTITA_TOOLS_HOST_UNIX_SOCKET_H_
#define PARTITA_TOOLS_HOST_UNIX_SOCKET_H_

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include <cstring>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"

namespace partita {

// `what` begins the error for a path that fits no address.
inline absl::StatusOr<sockaddr_un> UnixAddress(const std::string& what, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return InvalidArgument(what + " needs a path of 1 to 107 characters");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  return address;
}

// A listening, non-blocking socket of `type` at `path` that only its owner may connect to. A socket
// that nobody serves any more is replaced.
absl::StatusOr<UniqueFd> ListenForOwner(const std::string& what, const std::string& path, int type,
                                        size_t backlog);

// The name of a socket that this process has made; removed at the end if it is still that one.
class SocketFile {
 public:
  explicit SocketFile(std::string path);
  ~SocketFile();
  SocketFile(SocketFile&& other) noexcept
      : path_(std::exchange(other.path_, {})), device_(other.device_), inode_(other.inode_) {}
  SocketFile& operator=(SocketFile&&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_UNIX_SOCKET_H_
