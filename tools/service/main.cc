// partitad: the parent partition. Owns the definitions of all partitions, starts and supervises
// their workers, and answers HTTP on a Unix socket.
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/descriptor_limit.h"
#include "base/event_loop.h"
#include "base/file_lock.h"
#include "base/log.h"
#include "tools/host/unix_socket.h"
#include "tools/host/worker_process.h"
#include "tools/service/api.h"
#include "tools/service/notify.h"
#include "tools/service/version.h"

namespace partita::service {
namespace {

struct Flags {
  std::string socket, state, worker;
  bool system = false, without_kvm = false;
  uint32_t poll_ms = 2000, back_off_ms = 1000, silent_ms = 30'000, kill_ms = 20'000;
};

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

void Complete(Flags& flags) {
  if (flags.socket.empty()) flags.socket = Environment("PARTITA_SOCKET");
  if (flags.socket.empty()) {
    const std::string run = Environment("XDG_RUNTIME_DIR");
    flags.socket = flags.system  ? "/run/partita/partitad.sock"
                   : run.empty() ? absl::StrCat("/tmp/partita-", geteuid(), "/partitad.sock")
                                 : run + "/partita/partitad.sock";
  }
  flags.socket = std::filesystem::absolute(flags.socket).string();
  if (!flags.state.empty()) {
    flags.state = std::filesystem::absolute(flags.state).string();
    return;
  }
  const std::string home = Environment("XDG_STATE_HOME");
  flags.state = flags.system   ? "/var/lib/partita"
                : home.empty() ? Environment("HOME") + "/.local/state/partita"
                               : home + "/partita";
}

// For its owner only, and nobody else's: it may lie in /tmp.
absl::Status OwnDirectory(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return SystemError("making " + path);
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return SystemError("looking at " + path);
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 022) != 0) {
    return FailedPrecondition(
        absl::StrCat(path, " must be a directory of this user that no other may write"));
  }
  return absl::OkStatus();
}

std::optional<gid_t> GroupNumber(const char* name) {
  const group* entry = getgrnam(name);
  if (entry == nullptr) return std::nullopt;
  return entry->gr_gid;
}

// The name of the socket is ours while we have the lock beside it. What bears the name then is of a
// service that was killed, although a child of it that has yet to execute its program may still
// seem to listen. (Without a lock file it is not of a service: ListenForOwner looks who has it.)
absl::StatusOr<UniqueFd> LockSocketName(const std::string& socket) {
  const std::string path = socket + ".lock";
  const bool known = access(path.c_str(), F_OK) == 0;
  UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return SystemError("opening " + path);
  if (!LockForProcess(lock.get())) {
    if (errno != EAGAIN && errno != EACCES) return SystemError("locking " + path);
    return FailedPrecondition("another service answers at " + socket);
  }
  struct stat info {};
  if (known && lstat(socket.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) unlink(socket.c_str());
  return lock;
}

absl::StatusOr<UniqueFd> Listen(const Flags& flags, UniqueFd* lock) {
  // systemd made it and listens (LISTEN_FDS); descriptor 3 is the first.
  constexpr int kFirst = 3;
  if (Environment("LISTEN_PID") == std::to_string(getpid()) && Environment("LISTEN_FDS") == "1") {
    fcntl(kFirst, F_SETFD, FD_CLOEXEC);
    fcntl(kFirst, F_SETFL, fcntl(kFirst, F_GETFL) | O_NONBLOCK);
    return UniqueFd(kFirst);
  }
  constexpr size_t kBacklog = 1024;
  ASSIGN_OR_RETURN(*lock, LockSocketName(flags.socket));
  ASSIGN_OR_RETURN(UniqueFd fd, ListenForOwner("--socket", flags.socket, SOCK_STREAM, kBacklog));
  // Who may is decided by who asks, and others are told so.
  if (flags.system && chmod(flags.socket.c_str(), 0666) != 0) return SystemError(flags.socket);
  return fd;
}

class Service {
 public:
  absl::Status Start(const Flags& flags) {
    ASSIGN_OR_RETURN(loop_, EventLoop::Create());
    ASSIGN_OR_RETURN(store_, Store::Open(flags.state));
    const std::string directory = flags.socket.substr(0, flags.socket.rfind('/'));
    RETURN_IF_ERROR(OwnDirectory(directory, flags.system ? 0755 : 0700));
    Supervisor::Options options;
    options.worker = flags.worker;
    options.sockets = directory + "/workers";
    options.without_kvm = flags.without_kvm;
    options.poll_ms = flags.poll_ms;
    options.back_off_ms = flags.back_off_ms;
    options.silent_ms = flags.silent_ms;
    options.kill_ms = flags.kill_ms;
    RETURN_IF_ERROR(OwnDirectory(options.sockets, 0700));
    if (options.worker.empty()) {
      ASSIGN_OR_RETURN(options.worker, ProgramBeside("partita-worker"));
    }
    RETURN_IF_ERROR(WatchSignals());
    ASSIGN_OR_RETURN(UniqueFd listener, Listen(flags, &socket_lock_));
    events_ = EventLog::Open(flags.state);
    events_->Add("service.started", "", "", absl::StrCat("partitad ", kVersion));
    inventory_ = std::make_unique<Inventory>(*store_, *events_);
    inventory_->Load();
    operations_ = std::make_unique<Operations>(*loop_);
    supervisor_ = std::make_unique<Supervisor>(*loop_, *store_, *inventory_, *operations_, *events_,
                                               std::move(options));
    const Api::Access access{.system = flags.system,
                             .owner = geteuid(),
                             .admins = GroupNumber("partita-admin"),
                             .viewers = GroupNumber("partita-view")};
    api_ = std::make_unique<Api>(*inventory_, *supervisor_, *operations_, *events_, access);
    const HttpServer::Limits limits;
    HttpServer::Refusals refusals;
    refusals.too_large = Body({413,
                               "request.too_large",
                               "LimitsExceeded",
                               "",
                               absl::StrCat("a request's body has at most ", limits.body, " bytes"),
                               {},
                               ""});
    refusals.too_many = Body({429,
                              "limit.requests",
                              "LimitsExceeded",
                              "",
                              "too many requests in a short time",
                              {},
                              "Wait a second."});
    ASSIGN_OR_RETURN(server_,
                     HttpServer::Create(*loop_, std::move(listener), limits, std::move(refusals),
                                        [this](HttpRequest request, auto exchange) {
                                          api_->Handle(request, exchange);
                                        }));
    api_->SetServer(server_.get());
    supervisor_->Begin();
    NotifySystemd("READY=1");
    return absl::OkStatus();
  }
  // Workers go on without it.
  void Run() {
    loop_->Run();
    NotifySystemd("STOPPING=1");
    events_->Add("service.ended", "", "", "the service ends; its VMs go on");
  }

 private:
  absl::Status WatchSignals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signals_ = UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) return SystemError("watching for signals");
    return loop_->Add(signals_.get(), EPOLLIN, [this](uint32_t) { loop_->Stop(); });
  }

  // Destroyed in reverse order.
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Store> store_;
  UniqueFd socket_lock_;  // empty: the socket is systemd's
  UniqueFd signals_;
  std::unique_ptr<EventLog> events_;
  std::unique_ptr<Inventory> inventory_;
  std::unique_ptr<Operations> operations_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<HttpServer> server_;
};

int Main(int argc, char** argv) {
  CLI::App app("The parent partition: owns, starts and supervises partitions.", "partitad");
  Flags flags;
  app.add_option("--socket", flags.socket, "Unix socket of the API");
  app.add_option("--state", flags.state, "Directory for definitions and events");
  app.add_flag("--system", flags.system,
               "For all users: root and the groups partita-admin and partita-view");
  app.set_version_flag("--version", kVersion);
  // For tests of the service itself; in no help.
  app.add_option("--worker", flags.worker)->group("");
  app.add_flag("--without-kvm", flags.without_kvm)->group("");
  app.add_option("--poll-ms", flags.poll_ms)->group("");
  app.add_option("--back-off-ms", flags.back_off_ms)->group("");
  app.add_option("--silent-ms", flags.silent_ms)->group("");
  app.add_option("--kill-ms", flags.kill_ms)->group("");
  CLI11_PARSE(app, argc, argv);
  Complete(flags);
  UseAllDescriptors();
  signal(SIGPIPE, SIG_IGN);
  Service service;
  if (const absl::Status started = service.Start(flags); !started.ok()) {
    Log(Message(started));
    return 1;
  }
  Log(absl::StrCat("partitad ", kVersion, " serves at ", flags.socket));
  service.Run();
  return 0;
}

}  // namespace
}  // namespace partita::service

int main(int argc, char** argv) { return partita::service::Main(argc, argv); }
