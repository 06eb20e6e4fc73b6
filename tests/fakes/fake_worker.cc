// A worker without a partition: speaks the control link as partita-worker does, by the same
// SupervisorLink, and does what is asked of a machine that is none. For tests of the service.
//
// What it does is steered by the partition's command line: "fail=TEXT" fails to start, "die=MS"
// ends by SIGKILL after a while, "panic=MS" reports a guest's panic, "refuse" has no shutdown
// service, "silent" answers nothing, "full=MS" is paused by a full disk.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/worker/supervisor_link.h"

namespace partita {
namespace {

class FakeWorker {
 public:
  explicit FakeWorker(std::unique_ptr<EventLoop> loop)
      : loop_(std::move(loop)), link_(*loop_, UniqueFd(3)) {}

  int Run() {
    control::Request request;
    if (!link_.ReceiveStart(&request, &files_).ok() || !request.has_start()) return 1;
    start_ = request.start();
    UniqueFd listener;
    if (start_.has_listen_fd()) listener = std::move(files_[Index(start_.listen_fd())]);
    if (start_.has_report_fd()) report_ = std::move(files_[Index(start_.report_fd())]);
    if (const char* why = Word("fail=")) {
      End(control::kExitStartFailed, why);
      return 1;
    }
    control::Event started;
    started.set_started(true);
    link_.Send(started);
    const absl::Status served = link_.Serve(
        std::move(listener), start_.secret(),
        {.request = [this](const control::Request& asked, std::vector<UniqueFd> files,
                           uint64_t session) { Handle(asked, std::move(files), session); },
         .lost = [this] { loop_->Stop(); },
         .connected =
             [this] {
               control::Event event;
               event.set_started(true);
               link_.Send(event);
               TellCondition();
             }});
    if (!served.ok()) return 1;
    if (const char* ms = Word("die=")) loop_->After(Number(ms), [] { raise(SIGKILL); });
    if (const char* ms = Word("panic=")) {
      loop_->After(Number(ms), [this] {
        End(control::kExitGuestPanic, "the guest panicked");
        loop_->Stop();
      });
    }
    if (const char* ms = Word("full=")) {
      loop_->After(Number(ms), [this] {
        full_ = true;
        TellCondition();
      });
    }
    loop_->Run();
    return 0;
  }

 private:
  static size_t Index(int32_t index) { return static_cast<size_t>(index); }
  static uint32_t Number(const char* text) {
    return static_cast<uint32_t>(strtoul(text, nullptr, 10));
  }
  const char* Word(const char* word) const {
    const size_t at = start_.command_line().find(word);
    return at == std::string::npos ? nullptr
                                   : start_.command_line().c_str() + at + std::string(word).size();
  }
  void TellCondition() {
    control::Event event;
    event.mutable_condition()->set_paused(paused_ || full_);
    event.mutable_condition()->set_waiting_for_space(full_);
    event.mutable_condition()->set_pid(getpid());
    link_.Send(event);
  }
  void End(int status, std::string reason) {
    control::Event event;
    event.mutable_ended()->set_status(status);
    event.mutable_ended()->set_reason(std::move(reason));
    const std::string text = event.ended().SerializeAsString();
    if (report_.valid()) static_cast<void>(pwrite(report_.get(), text.data(), text.size(), 0) > 0);
    link_.Send(event);
  }
  void Handle(const control::Request& request, std::vector<UniqueFd> files, uint64_t session) {
    if (request.id() == 0 || Word("silent") != nullptr) return;
    control::Reply reply;
    switch (request.kind_case()) {
      case control::Request::kPowerOff:
        link_.Reply(session, request.id(), reply);
        End(control::kExitPowerOff, "powered off by request");
        return loop_->Stop();
      case control::Request::kShutdownGuest:
        if (Word("refuse") != nullptr) {
          reply.set_error("the guest has no driver for shutdown");
          break;
        }
        link_.Reply(session, request.id(), reply);
        if (request.shutdown_guest().kind() == control::ShutdownGuest::REBOOT) return;
        End(control::kExitPowerOff, "the guest powered off");
        return loop_->Stop();
      case control::Request::kPause:
      case control::Request::kResume:
        paused_ = request.has_pause();
        TellCondition();
        break;
      case control::Request::kGetStatus: {
        control::Pair* pair = reply.add_texts();
        pair->set_name("heartbeat");
        pair->set_value("OK");
        (*reply.mutable_numbers())["memory_assigned_bytes"] = start_.memory_bytes();
        (*reply.mutable_numbers())["service.shutdown"] = 1;
        (*reply.mutable_numbers())["service.key-value pairs"] = 1;
        break;
      }
      case control::Request::kLiveStats:
        (*reply.mutable_numbers())["disk.read_bytes"] = 4096;
        break;
      case control::Request::kAttachConsole:
        if (files.empty()) break;
        visitors_.push_back(std::move(files[0]));
        static_cast<void>(write(visitors_.back().get(), "kept\n", 5) == 5);
        break;
      case control::Request::kAddresses: {
        control::Pair* pair = reply.add_texts();
        pair->set_name("nic0.addresses");
        pair->set_value("10.0.0.2;fe80::2");
        break;
      }
      case control::Request::kAddDisk: {
        control::Pair* pair = reply.add_texts();
        pair->set_name("id");
        pair->set_value("disk1");
        break;
      }
      default:
        break;
    }
    link_.Reply(session, request.id(), std::move(reply));
  }

  std::unique_ptr<EventLoop> loop_;
  SupervisorLink link_;
  control::Start start_;
  std::vector<UniqueFd> files_;  // the disks' locks among them
  std::vector<UniqueFd> visitors_;
  UniqueFd report_;
  bool paused_ = false, full_ = false;
};

}  // namespace
}  // namespace partita

int main() {
  signal(SIGPIPE, SIG_IGN);
  auto loop = partita::EventLoop::Create();
  return loop.ok() ? partita::FakeWorker(*std::move(loop)).Run() : 1;
}
