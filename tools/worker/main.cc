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
#include "tools/worker/supervisor_link.h"

namespace partita {
namespace {

constexpr int kControlFd = 3;

class Worker {
 public:
  explicit Worker(std::unique_ptr<EventLoop> loop)
      : loop_(std::move(loop)), link_(*loop_, UniqueFd(kControlFd)) {}

  int Run() {
    if (const absl::Status status = WatchSignals(); !status.ok()) return Fail(status);
    control::Request request;
    std::vector<UniqueFd> descriptors;
    if (absl::Status s = link_.ReceiveStart(&request, &descriptors); !s.ok()) return Fail(s);
    if (!request.has_start()) return Fail(InvalidArgument("the first request is not Start"));
    const control::Start& start = request.start();
    const auto take = [&descriptors](bool given, int32_t index) {
      const auto at = static_cast<size_t>(index);
      return given && index >= 0 && at < descriptors.size() ? std::move(descriptors[at])
                                                            : UniqueFd();
    };
    UniqueFd listener = take(start.has_listen_fd(), start.listen_fd());
    report_ = take(start.has_report_fd(), start.report_fd());
    machine_ = std::make_unique<Machine>(*loop_, start, std::move(descriptors), MachineEvents());
    if (absl::Status s = machine_->Start(); !s.ok()) return Fail(s);
    control::Event started;
    started.set_started(true);
    link_.Send(started);
    const absl::Status served = link_.Serve(
        std::move(listener), start.secret(),
        {.request = [this](const control::Request& asked, std::vector<UniqueFd> files,
                           uint64_t session) { OnRequest(asked, std::move(files), session); },
         .lost =
             [this] {
               machine_->Stop(control::kExitSignalBase + SIGHUP, "the controlling process is gone");
             },
         .connected =
             [this] {
               control::Event event;
               event.set_started(true);
               link_.Send(event);
               machine_->TellCondition();
             }});
    if (!served.ok()) return Fail(served);
    loop_->Run();
    machine_.reset();
    return status_;
  }

 private:
  Machine::Events MachineEvents() {
    return {.ended =
                [this](int status, std::string reason) {
                  SendEnded(status, std::move(reason));
                  loop_->Stop();
                },
            .notice =
                [this](std::string text) {
                  control::Event event;
                  event.set_notice(std::move(text));
                  link_.Send(event);
                },
            .socket_wanted =
                [this](uint32_t port, uint64_t id) {
                  control::Event event;
                  event.mutable_socket_wanted()->set_port(port);
                  event.mutable_socket_wanted()->set_wanted(id);
                  link_.Send(event);
                },
            .condition =
                [this](bool paused, bool waiting_for_space) {
                  control::Event event;
                  event.mutable_condition()->set_paused(paused);
                  event.mutable_condition()->set_waiting_for_space(waiting_for_space);
                  event.mutable_condition()->set_pid(getpid());
                  link_.Send(event);
                }};
  }

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
    // For a supervisor that is away.
    const std::string text = event.ended().SerializeAsString();
    if (report_.valid() &&
        pwrite(report_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
      Log("how the partition ended could not be written");
    }
    link_.Send(event);
  }

  void SendStats() {
    if (machine_ == nullptr) return;
    StatSink sink;
    machine_->DescribeTo(sink);
    control::Event event;
    for (const auto& [name, value] : sink.values()) {
      (*event.mutable_stats()->mutable_values())[name] = value;
    }
    link_.Send(event);
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

  void OnRequest(const control::Request& request, std::vector<UniqueFd> descriptors,
                 uint64_t session) {
    if (request.has_stop()) {
      StopBySignal(request.stop().signal());
    } else if (request.has_get_stats()) {
      SendStats();
    } else if (request.id() != 0) {
      machine_->Handle(request, std::move(descriptors),
                       [this, session, id = request.id()](control::Reply reply) {
                         link_.Reply(session, id, std::move(reply));
                       });
    }
  }

  std::unique_ptr<EventLoop> loop_;
  SupervisorLink link_;
  UniqueFd signals_;
  UniqueFd report_;
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
  return Worker(*std::move(loop)).Run();
}

}  // namespace
}  // namespace partita

int main() { return partita::Main(); }
