// Readiness, as systemd wants to be told: a datagram to the socket named by NOTIFY_SOCKET.
#ifndef PARTITA_TOOLS_SERVICE_NOTIFY_H_
#define PARTITA_TOOLS_SERVICE_NOTIFY_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/unique_fd.h"

namespace partita::service {

inline void NotifySystemd(std::string_view text) {
  const char* path = getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || strlen(path) >= sizeof(address.sun_path)) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path, strlen(path));
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + strlen(path));
  static_cast<void>(sendto(fd.get(), text.data(), text.size(), MSG_NOSIGNAL,
                           reinterpret_cast<const sockaddr*>(&address), size));
}

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_NOTIFY_H_
