// `--vsock PATH`: how programs of the host reach sockets of the guest, and the other way.
//
// A program connects to PATH, writes "CONNECT PORT" and a line feed, and reads "OK PORT" (or "ERROR
// why"); from then on the stream is the guest's AF_VSOCK service. A guest that connects to port N
// of the host reaches whoever listens at PATH_N. One thread.
#ifndef PARTITA_TOOLS_PARTITA_VSOCK_SERVER_H_
#define PARTITA_TOOLS_PARTITA_VSOCK_SERVER_H_

#include <poll.h>

#include <memory>
#include <string>
#include <vector>

#include "tools/host/unix_socket.h"
#include "tools/partita/control_server.h"

namespace partita {

class VsockServer {
 public:
  static absl::StatusOr<std::unique_ptr<VsockServer>> Create(const std::string& path);
  VsockServer(const VsockServer&) = delete;
  VsockServer& operator=(const VsockServer&) = delete;

  void AddTo(std::vector<pollfd>& fds) const;
  void HandleEvents(const std::vector<pollfd>& fds, size_t first,
                    const ControlServer::Forward& forward);
  // A stream to whoever listens at PATH_PORT; invalid if nobody does.
  [[nodiscard]] UniqueFd ConnectToHost(uint32_t port) const;

 private:
  static constexpr size_t kMaxClients = 64;  // that have not said where they want to go
  static constexpr size_t kMaxLine = 64;
  struct Client {
    UniqueFd stream;
    std::string line;
  };
  VsockServer(UniqueFd socket, std::string path)
      : socket_(std::move(socket)), file_(std::move(path)) {}
  void Accept();
  // False: the client is done with here.
  static bool Serve(Client& client, const ControlServer::Forward& forward);

  UniqueFd socket_;
  const SocketFile file_;
  std::vector<Client> clients_;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_VSOCK_SERVER_H_
