// A worker's end of its control connection: who started it, or who came later.
//
// A worker that was given a listening socket goes on when its supervisor is gone, and serves the
// next one that connects, has the same user and knows the secret; one at a time. Without such a
// socket the end of the connection is the end of the worker. A supervisor that does not read is let
// go: the worker waits for nobody. Control thread only.
#ifndef PARTITA_TOOLS_WORKER_SUPERVISOR_LINK_H_
#define PARTITA_TOOLS_WORKER_SUPERVISOR_LINK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "tools/control/channel.h"
#include "tools/control/control.pb.h"

namespace partita {

class SupervisorLink {
 public:
  struct Events {
    // A request of the supervisor; `session` tells supervisors apart (see Reply).
    std::function<void(const control::Request&, std::vector<UniqueFd>, uint64_t session)> request;
    std::function<void()> lost;       // the connection is gone for good: no listening socket
    std::function<void()> connected;  // a later supervisor is there
  };
  SupervisorLink(EventLoop& loop, UniqueFd first);
  ~SupervisorLink();

  // The first message, blocking.
  absl::Status ReceiveStart(control::Request* request, std::vector<UniqueFd>* descriptors) {
    return channel_->Receive(request, descriptors);
  }
  // From here on the loop serves. `listener` may be invalid.
  absl::Status Serve(UniqueFd listener, std::string secret, Events events);
  // Lost if nobody is there.
  void Send(const control::Event& event);
  // Lost if the supervisor that asked is no longer there.
  void Reply(uint64_t session, uint64_t id, control::Reply reply);
  [[nodiscard]] uint64_t visitors_refused() const { return refused_; }

 private:
  static constexpr size_t kMaxVisitors = 8;
  static constexpr uint32_t kVisitorMs = 10'000;  // for the first message
  void OnRequest();
  void OnVisitor(int fd);
  void Accept();
  void Drop();
  [[nodiscard]] bool SupervisorIsGone() const;

  EventLoop& loop_;
  std::unique_ptr<control::Channel> channel_;
  UniqueFd listener_;
  std::string secret_;
  Events events_;
  std::map<int, std::unique_ptr<control::Channel>> visitors_;  // before their first message
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  uint64_t session_ = 1;
  uint64_t refused_ = 0;
  bool serving_ = false;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_WORKER_SUPERVISOR_LINK_H_
