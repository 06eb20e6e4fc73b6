// `--control SOCKET`: the Unix socket at which a running partition can be asked for things. Speaks
// the worker's own messages (tools/control/control.proto); requests are passed on, replies come
// back to whoever asked. One thread.
#ifndef PARTITA_TOOLS_PARTITA_CONTROL_SERVER_H_
#define PARTITA_TOOLS_PARTITA_CONTROL_SERVER_H_

#include <poll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/control/channel.h"
#include "tools/control/control.pb.h"
#include "tools/host/unix_socket.h"

namespace partita {

class ControlServer {
 public:
  // Passes a request on, with the descriptors that came with it.
  using Forward =
      std::function<absl::Status(const control::Request&, std::span<const int> descriptors)>;
  // Makes the socket, for its owner only; a socket that nobody serves any more is replaced.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Create(const std::string& path);
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Appends what has to be watched; HandleEvents gets the same entries back, from `first` on.
  void AddTo(std::vector<pollfd>& fds) const;
  // `forward` passes a request to the worker.
  void HandleEvents(const std::vector<pollfd>& fds, size_t first, const Forward& forward);
  void OnReply(control::Reply reply);

 private:
  static constexpr size_t kMaxClients = 16;
  static constexpr size_t kMaxPending = 16;  // requests without a reply, of one client
  struct Client {
    uint64_t number = 0;
    size_t pending = 0;
    control::Channel channel;
  };
  struct Asked {
    uint64_t client = 0;
    uint64_t id = 0;  // the client's
  };
  ControlServer(UniqueFd socket, std::string path)
      : socket_(std::move(socket)), file_(std::move(path)) {}
  void Accept();
  // Forgets what a client that is gone has asked for; nobody waits for the reply.
  void Forget(size_t index);
  // False: the client is gone.
  bool Serve(Client& client, const Forward& forward);

  UniqueFd socket_;
  const SocketFile file_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::map<uint64_t, Asked> pending_;  // by the id under which the worker knows the request
  uint64_t next_ = 1;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_CONTROL_SERVER_H_
