// The service's end of one worker: starts it or finds it again, asks it for things, and notices its
// end whoever started it. Loop thread only.
#ifndef PARTITA_TOOLS_SERVICE_WORKER_LINK_H_
#define PARTITA_TOOLS_SERVICE_WORKER_LINK_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "tools/control/channel.h"
#include "tools/control/control.pb.h"

namespace partita::service {

class WorkerLink {
 public:
  struct Events {
    std::function<void(const control::Event&)> event;  // all but replies
    std::function<void(std::string_view)> words;       // what it wrote to stderr
    // The process is gone; nothing comes behind this, and the link may be deleted by it. The wait
    // status, if it was this process's child.
    std::function<void(std::optional<int> wait_status)> gone;
  };
  struct Address {
    std::string socket;
    std::string secret;  // hexadecimal
  };
  using Answer = std::function<void(absl::StatusOr<control::Reply>)>;

  // `start` names `descriptors` by position.
  static absl::StatusOr<std::unique_ptr<WorkerLink>> Spawn(EventLoop& loop, std::string program,
                                                           Address address, control::Start start,
                                                           std::span<const int> descriptors,
                                                           Events events);
  // One that runs already, or not: `gone` comes later, if it does not.
  static std::unique_ptr<WorkerLink> Adopt(EventLoop& loop, Address address, Events events);
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  // `answer` comes once, later, unless the link is deleted before; an error after `patience_ms`.
  void Ask(control::Request request, std::span<const int> descriptors, uint32_t patience_ms,
           Answer answer);
  void Send(const control::Request& request, std::span<const int> descriptors);
  void Kill() const;
  [[nodiscard]] pid_t pid() const { return pid_; }  // 0: not known yet
  [[nodiscard]] bool connected() const { return connected_; }

 private:
  WorkerLink(EventLoop& loop, Address address, Events events)
      : loop_(loop), address_(std::move(address)), events_(std::move(events)) {}
  absl::Status Watch(UniqueFd socket);
  void WatchProcess(pid_t pid);
  void Connect();
  void ConnectLater(uint32_t milliseconds);
  void OnReadable();
  // False at the end of the connection.
  bool ReceiveOne();
  void Handle(const control::Event& event);
  void LoseChannel();
  void ReadWords();
  void OnExit();
  void Gone(std::optional<int> wait_status);

  EventLoop& loop_;
  const Address address_;
  const Events events_;
  std::unique_ptr<control::Channel> channel_;
  UniqueFd words_, process_;
  pid_t pid_ = 0;
  bool child_ = false, connected_ = false, gone_ = false;
  std::map<uint64_t, Answer> asked_;
  uint64_t next_ = 2;  // 1 is Hello
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// Small letters. What is no such text becomes some other bytes.
std::string Hex(std::string_view bytes);
std::string FromHex(std::string_view text);

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_WORKER_LINK_H_
