// partita-worker: one process per child partition. It opens no path: everything it needs arrives as
// a descriptor on the control socket, descriptor 3.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/descriptor_limit.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/worker/machine.h"

namespace partita {
namespace {

constexpr int kControlFd = 3;

class Worker {
 public:
  Worker(std::unique_ptr<EventLoop> loop, control::Channel channel)
      : loop_(std::move(loop)), channel_(std::move(channel)) {}

  int Run() {
    if (const absl::Status status = WatchSignals(); !status.ok()) return Fail(status);
    control::Request request;
    std::vector<UniqueFd> descriptors;
    if (absl::Status s = channel_.Receive(&request, &descriptors); !s.ok()) return Fail(s);
    if (!request.has_start()) return Fail(InvalidArgument("the first request is not Start"));
    machine_ = std::make_unique<Machine>(
        *loop_, request.start(), std::move(descriptors),
        Machine::Events{.ended =
                            [this](int status, std::string reason) {
                              SendEnded(status, std::move(reason));
                              loop_->Stop();
                            },
                        .notice =
                            [this](std::string text) {
                              control::Event event;
                              event.set_notice(std::move(text));
                              static_cast<void>(channel_.Send(event).ok());
                            },
                        .socket_wanted =
                            [this](uint32_t port, uint64_t id) {
                              control::Event event;
                              event.mutable_socket_wanted()->set_port(port);
                              event.mutable_socket_wanted()->set_wanted(id);
                              static_cast<void>(channel_.Send(event).ok());
                            }});
    if (absl::Status s = machine_->Start(); !s.ok()) return Fail(s);
    control::Event started;
    started.set_started(true);
    if (!channel_.Send(started).ok()) return control::kExitStartFailed;
    if (absl::Status s = loop_->Add(channel_.fd(), EPOLLIN, [this](uint32_t) { OnRequest(); });
        !s.ok()) {
      return Fail(s);
    }
    loop_->Run();
    machine_.reset();
    return status_;
  }

 private:
  int Fail(const absl::Status& status) {
    SendEnded(control::kExitStartFailed, std::string(Message(status)));
    return control::kExitStartFailed;
  }

  void SendEnded(int status, std::string reason) {
    status_ = status;
    SendStats();
    control::Event event;
    event.mutable_ended()->set_status(status);
    event.mutable_ended()->set_reason(std::move(reason));
    static_cast<void>(channel_.Send(event).ok());
  }

  void SendStats() {
    if (machine_ == nullptr) return;
    StatSink sink;
    machine_->DescribeTo(sink);
    control::Event event;
    for (const auto& [name, value] : sink.values()) {
      (*event.mutable_stats()->mutable_values())[name] = value;
    }
    static_cast<void>(channel_.Send(event).ok());
  }

  absl::Status WatchSignals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signals_ = UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) return SystemError("watching for signals");
    return loop_->Add(signals_.get(), EPOLLIN, [this](uint32_t) {
      signalfd_siginfo info{};
      if (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
        StopBySignal(static_cast<int>(info.ssi_signo));
      }
    });
  }

  void StopBySignal(int signal) {
    machine_->Stop(control::kExitSignalBase + signal,
                   "stopped by signal " + std::to_string(signal));
  }

  void OnRequest() {
    control::Request request;
    std::vector<UniqueFd> descriptors;
    const absl::Status status = channel_.Receive(&request, &descriptors);
    if (absl::IsUnavailable(status)) {  // whoever started us is gone
      loop_->Remove(channel_.fd());
      return machine_->Stop(control::kExitSignalBase + SIGHUP, "the controlling process is gone");
    }
    if (!status.ok()) return Log(Message(status));
    if (request.has_stop()) {
      StopBySignal(request.stop().signal());
    } else if (request.has_get_stats()) {
      SendStats();
    } else if (request.id() != 0) {
      machine_->Handle(request, std::move(descriptors),
                       [this, id = request.id()](control::Reply reply) {
                         control::Event event;
                         *event.mutable_reply() = std::move(reply);
                         event.mutable_reply()->set_id(id);
                         const absl::Status sent = channel_.Send(event);
                         if (sent.ok()) return;
                         // Whoever asked is told in any case, or it would wait for ever.
                         event.mutable_reply()->Clear();
                         event.mutable_reply()->set_id(id);
                         event.mutable_reply()->set_error("the answer could not be sent: " +
                                                          std::string(Message(sent)));
                         if (!channel_.Send(event).ok()) Log(Message(sent));
                       });
    }
  }

  std::unique_ptr<EventLoop> loop_;
  control::Channel channel_;
  UniqueFd signals_;
  std::unique_ptr<Machine> machine_;
  int status_ = control::kExitStartFailed;
};

int Main() {
  UseAllDescriptors();
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  signal(SIGPIPE, SIG_IGN);  // a console's reader that leaves is an error of that write alone
  auto loop = EventLoop::Create();
  if (!loop.ok()) {
    Log(Message(loop.status()));
    return control::kExitStartFailed;
  }
  return Worker(*std::move(loop), control::Channel(UniqueFd(kControlFd))).Run();
}

}  // namespace
}  // namespace partita

int main() { return partita::Main(); }
