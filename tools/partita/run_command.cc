#include "tools/partita/run_command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/descriptor_limit.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "tools/control/identity.h"
#include "tools/host/disk_option.h"
#include "tools/host/net_option.h"
#include "tools/host/start_builder.h"
#include "tools/host/terminal.h"
#include "tools/host/unix_socket.h"
#include "tools/host/worker_process.h"
#include "tools/partita/control_server.h"
#include "tools/partita/output.h"
#include "tools/partita/vsock_server.h"

namespace partita {
namespace {

// Its console, and what of it stays here.
struct RunConsole {
  UniqueFd ours;  // our end, when the console is this program's terminal
  std::string note;
  std::optional<SocketFile> file;
};

// With signals blocked: what it makes has to be removed again.
absl::StatusOr<RunConsole> OpenConsole(const RunOptions& options, const RunHooks& hooks,
                                       StartPackage& out) {
  const std::string& serial = options.serial;
  RunConsole console;
  out.start.set_console(control::CONSOLE_STREAM);
  if (hooks.output || serial == "stdio") {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      return SystemError("creating the console's socket pair");
    }
    console.ours = UniqueFd(ends[0]);
    out.start.set_console_fd(out.Own(UniqueFd(ends[1])));
  } else if (serial.starts_with("file:")) {
    UniqueFd fd(open(serial.c_str() + 5, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd.valid()) return SystemError("serial file " + serial.substr(5));
    out.start.set_console_fd(out.Own(std::move(fd)));
  } else if (serial == "pty") {
    UniqueFd fd(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!fd.valid() || grantpt(fd.get()) != 0 || unlockpt(fd.get()) != 0) {
      return SystemError("opening a pseudo-terminal");
    }
    console.note = std::string("serial console at ") + ptsname(fd.get());
    out.start.set_console_fd(out.Own(std::move(fd)));
  } else if (serial.starts_with("unix:")) {
    const std::string path = serial.substr(5);
    ASSIGN_OR_RETURN(UniqueFd fd, ListenForOwner("--serial unix:", path, SOCK_STREAM, 1));
    console.file.emplace(path);
    out.start.set_console(control::CONSOLE_LISTEN);
    out.start.set_console_fd(out.Own(std::move(fd)));
  } else {
    return InvalidArgument("--serial takes stdio, pty, file:PATH or unix:PATH");
  }
  return console;
}

absl::Status ParseVersion(const std::string& text, uint32_t* version) {
  if (text.empty()) return absl::OkStatus();
  unsigned major = 0, minor = 0;
  char rest = 0;
  if (sscanf(text.c_str(), "%u.%u%c", &major, &minor, &rest) != 2 || major > 100 || minor > 100) {
    return InvalidArgument("--vmbus-version takes a version like 5.3");
  }
  *version = major << 16 | minor;
  return absl::OkStatus();
}

// What the flags say, as the definition that everything else works with.
absl::StatusOr<control::PartitionDefinition> DefinitionOf(const RunOptions& options) {
  control::PartitionDefinition d;
  d.set_name(options.name);
  uint64_t bytes = 0, maximum = 0;
  int pages = 0;
  RETURN_IF_ERROR(ParseMemory(options.memory, &bytes, &pages, &maximum));
  d.mutable_memory()->set_startup_bytes(bytes);
  d.mutable_memory()->set_maximum_bytes(maximum);
  d.mutable_memory()->set_pages(static_cast<control::MemoryDefinition::Pages>(pages));
  d.mutable_processors()->set_count(options.cpus);
  for (const int cpu : options.affinity) d.mutable_processors()->add_affinity(cpu);
  d.mutable_boot()->set_kernel(options.kernel);
  d.mutable_boot()->set_initrd(options.initrd);
  d.mutable_boot()->set_command_line(options.command_line);
  d.mutable_boot()->set_unpack_kernel(options.unpack_kernel);
  d.mutable_tuning()->set_synthetic_timers(options.synthetic_timers);
  d.mutable_tuning()->set_storage_queues(options.queues);
  d.mutable_tuning()->set_exit_on_reset(options.on_reset == "exit");
  uint32_t version = 0;
  RETURN_IF_ERROR(ParseVersion(options.vmbus_version, &version));
  d.mutable_tuning()->set_vmbus_version(version);
  d.set_asset_tag(options.asset_tag);
  d.set_synic(options.synic == "kernel" ? control::PartitionDefinition::KERNEL
              : options.synic == "user" ? control::PartitionDefinition::USER_SPACE
                                        : control::PartitionDefinition::AUTO);
  for (const std::string& text : options.disks) {
    ASSIGN_OR_RETURN(*d.add_disks(), ParseDiskOption(text));
  }
  for (const std::string& text : options.nets) {
    ASSIGN_OR_RETURN(*d.add_adapters(), ParseNetOption(text));
  }
  return d;
}

absl::StatusOr<StartPackage> OpenAll(const RunOptions& options, const RunHooks& hooks) {
  if (options.kernel.empty() && hooks.kernel_fd < 0) return InvalidArgument("--kernel is missing");
  ASSIGN_OR_RETURN(const control::PartitionDefinition definition, DefinitionOf(options));
  // Two partitions that nobody gave a name must not be one to their guests, networks and clusters.
  std::string identity = StableIdentity(options.name);
  if (options.name == kUnnamed) {
    if (getrandom(identity.data(), identity.size(), 0) != static_cast<ssize_t>(identity.size())) {
      return SystemError("getrandom");
    }
  }
  return OpenPartition(
      definition, {.identity = identity, .disk_key = options.name, .kernel_fd = hooks.kernel_fd});
}

// Relays between the worker, the console and the user until the worker reports its end.
class Session {
 public:
  Session(WorkerProcess& worker, Output out, Output words, UniqueFd console,
          std::unique_ptr<ControlServer> control, std::unique_ptr<VsockServer> vsock,
          const RunOptions& options, const RunHooks& hooks)
      : worker_(worker),
        out_(std::move(out)),
        words_(std::move(words)),
        console_(std::move(console)),
        control_(std::move(control)),
        vsock_(std::move(vsock)),
        options_(options),
        hooks_(hooks) {}

  int Run();

 private:
  // Waits for something to happen and does it.
  void Step();
  [[nodiscard]] int PatienceMs();
  void OnEvent();
  void CopyWords();
  bool CopyOutput();  // false at the end of the console
  void CopyInput();
  void OnSignal();
  void RequestStop(int signal);
  void WriteStats() const;
  int Finish();

  WorkerProcess& worker_;
  Output out_, words_;  // stdout and stderr
  UniqueFd console_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<VsockServer> vsock_;
  const RunOptions& options_;
  const RunHooks& hooks_;
  UniqueFd signals_;
  std::optional<RawTerminal> terminal_;
  EscapeFilter escape_;
  bool input_open_ = true;
  bool worker_open_ = true;
  bool stop_asked_ = false;     // by a signal: then nobody waits for a reader that is stuck
  uint64_t give_up_at_ms_ = 0;  // 0: no reason to
  std::optional<control::Ended> ended_;
  std::map<std::string, uint64_t> stats_;
};

// From here on signals are read, never delivered; threads and children made later see to
// themselves.
sigset_t BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  // A reader of stdout that leaves (`| head`) is no reason to end a partition.
  signal(SIGPIPE, SIG_IGN);
  return set;
}

int Session::Run() {
  const sigset_t set = BlockSignals();
  signals_ = UniqueFd(signalfd(-1, &set, SFD_CLOEXEC));
  const bool interactive = console_.valid() && !hooks_.output;
  if (interactive) {
    terminal_.emplace();
    if (terminal_->active()) words_.Write("partita: Ctrl-A x ends the partition\r\n");
  }
  input_open_ = interactive;
  while (worker_open_ || console_.valid() || worker_.words().valid()) {
    if (PatienceMs() == 0) break;
    Step();
  }
  terminal_.reset();
  const int status = Finish();
  control_.reset();
  vsock_.reset();
  // A reader gets everything at its own pace, unless a signal says that it is enough.
  while (!out_.Drained() || !words_.Drained()) {
    if (PatienceMs() == 0) break;
    Step();
  }
  return status;
}

// How long to wait for the next event: for ever, but for a second behind the end of a partition
// that a signal stopped.
int Session::PatienceMs() {
  constexpr uint64_t kGraceMs = 1000;
  if (worker_open_ || !stop_asked_) return -1;
  const uint64_t now = MonotonicNs() / 1'000'000;
  if (give_up_at_ms_ == 0) give_up_at_ms_ = now + kGraceMs;
  return now >= give_up_at_ms_ ? 0 : static_cast<int>(give_up_at_ms_ - now);
}

void Session::Step() {
  const auto forward = [this](const control::Request& request, std::span<const int> descriptors) {
    return worker_open_ ? worker_.Send(request, descriptors) : Unavailable("the worker is gone");
  };
  const auto watch = [](int fd, bool wanted) {
    return pollfd{.fd = wanted ? fd : -1, .events = POLLIN, .revents = 0};
  };
  // The guest's output waits in the console, and the worker's words in their pipe, while nobody
  // reads ours: the ends there drop and count, and nobody waits.
  std::vector<pollfd> fds = {
      watch(worker_.fd(), worker_open_),
      watch(signals_.get(), true),
      watch(console_.get(), console_.valid() && out_.HasRoom()),
      watch(STDIN_FILENO, input_open_),
      watch(worker_.words().get(), worker_.words().valid() && words_.HasRoom()),
      watch(out_.progress_fd(), true),
      watch(words_.progress_fd(), true)};
  const size_t own_fds = fds.size();
  if (control_ != nullptr) control_->AddTo(fds);
  const size_t vsock_fds = fds.size();
  if (vsock_ != nullptr) vsock_->AddTo(fds);
  if (poll(fds.data(), fds.size(), PatienceMs()) < 0) return;
  if (fds[5].revents != 0) out_.TakeProgress();
  if (fds[6].revents != 0) words_.TakeProgress();
  if (fds[2].revents != 0 && !CopyOutput()) console_.Reset();
  if (fds[4].revents != 0) CopyWords();
  if (fds[0].revents != 0) OnEvent();
  if (fds[1].revents != 0) OnSignal();
  if (fds[3].revents != 0) CopyInput();
  if (control_ != nullptr) control_->HandleEvents(fds, own_fds, forward);
  if (vsock_ != nullptr) vsock_->HandleEvents(fds, vsock_fds, forward);
}

void Session::CopyWords() {
  std::array<char, 4096> bytes{};
  const ssize_t got = read(worker_.words().get(), bytes.data(), bytes.size());
  if (got > 0) return words_.Write({bytes.data(), static_cast<size_t>(got)});
  if (got == 0 || (errno != EINTR && errno != EAGAIN)) worker_.words().Reset();
}

void Session::OnEvent() {
  control::Event event;
  const absl::Status status = worker_.Receive(&event);
  if (absl::IsInvalidArgument(status)) {  // that one alone
    return words_.Write("partita: from the worker: " + std::string(Message(status)) + "\r\n");
  }
  if (!status.ok()) {
    worker_open_ = false;
    input_open_ = false;
    return;
  }
  if (event.has_ended()) ended_ = event.ended();
  if (event.has_reply() && control_ != nullptr)
    control_->OnReply(std::move(*event.mutable_reply()));
  if (event.has_socket_wanted()) {
    // Without --vsock nobody listens.
    UniqueFd socket;
    if (vsock_ != nullptr) socket = vsock_->ConnectToHost(event.socket_wanted().port());
    control::Request request;
    request.set_id(UINT64_MAX);  // nobody waits for the reply
    request.mutable_accept_socket()->set_wanted(event.socket_wanted().wanted());
    const int fd = socket.get();
    static_cast<void>(
        worker_.Send(request, std::span(&fd, socket.valid() ? size_t{1} : size_t{0})).ok());
  }
  if (event.has_stats()) {
    stats_.clear();
    for (const auto& [name, value] : event.stats().values()) stats_[name] = value;
  }
  if (!event.notice().empty()) words_.Write("partita: " + event.notice() + "\r\n");
}

bool Session::CopyOutput() {
  std::array<char, 16384> bytes{};
  const ssize_t got = read(console_.get(), bytes.data(), bytes.size());
  if (got <= 0) return got < 0 && errno == EINTR;
  const std::string_view text(bytes.data(), static_cast<size_t>(got));
  if (hooks_.output) {
    hooks_.output(text);
    return true;
  }
  out_.Write(text);
  return true;
}

void Session::CopyInput() {
  std::array<char, 512> bytes{};
  const ssize_t got = read(STDIN_FILENO, bytes.data(), bytes.size());
  if (got <= 0) {
    input_open_ = false;
    return;
  }
  std::string text(bytes.data(), static_cast<size_t>(got));
  bool leave = false;
  if (terminal_ && terminal_->active()) text = escape_.Feed(text, &leave);
  if (!text.empty() && console_.valid()) {
    // MSG_DONTWAIT: a guest that reads nothing must not make this program deaf to signals.
    static_cast<void>(send(console_.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
  }
  if (leave) RequestStop(SIGTERM);
}

void Session::OnSignal() {
  signalfd_siginfo info{};
  if (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    RequestStop(static_cast<int>(info.ssi_signo));
  }
}

void Session::RequestStop(int signal) {
  stop_asked_ = true;
  control::Request request;
  request.mutable_stop()->set_signal(signal);
  static_cast<void>(worker_.Send(request).ok());
}

void Session::WriteStats() const {
  if (hooks_.stats != nullptr) *hooks_.stats = stats_;
  if (options_.stats_file.empty()) return;
  std::ofstream file(options_.stats_file);
  file << nlohmann::json(stats_).dump(2) << '\n';
  if (!file) Log("could not write " + options_.stats_file);
}

int Session::Finish() {
  const int status = worker_.Wait();
  WriteStats();
  const auto say = [this](const std::string& line) { words_.Write("partita: " + line + "\n"); };
  if (!ended_) {
    say(WIFSIGNALED(status) ? "the worker was killed by signal " + std::to_string(WTERMSIG(status))
                            : "the worker ended without a word");
    return control::kExitMachineFault;
  }
  const bool plain = ended_->status() == control::kExitPowerOff;
  if (!plain || !options_.quiet) say(ended_->reason());
  return ended_->status();
}

}  // namespace

namespace {
absl::StatusOr<uint64_t> ParseSize(const std::string& size) {
  char* end = nullptr;
  const uint64_t value = strtoull(size.c_str(), &end, 10);
  std::string unit(end);
  if (unit.ends_with('B')) unit.pop_back();
  const uint64_t scale = unit == "T"   ? 1ull << 40
                         : unit == "G" ? 1ull << 30
                         : unit == "M" ? 1ull << 20
                                       : 0;
  if (end == size.c_str() || scale == 0 || value == 0 || value > UINT64_MAX / scale) {
    return InvalidArgument("--memory takes a size like 512M or 2G, not '" + size + "'");
  }
  return value * scale;
}
}  // namespace

absl::Status ParseMemory(const std::string& text, uint64_t* bytes, int* pages, uint64_t* maximum) {
  size_t at = text.find(',');
  ASSIGN_OR_RETURN(*bytes, ParseSize(text.substr(0, at)));
  *pages = control::PAGES_AUTO;
  *maximum = 0;
  while (at != std::string::npos) {
    const size_t next = text.find(',', at + 1);
    const std::string word = text.substr(at + 1, next == std::string::npos ? next : next - at - 1);
    at = next;
    if (word == "pages=4k") {
      *pages = control::PAGES_SMALL;
    } else if (word == "pages=shared") {
      *pages = control::PAGES_SHARED;
    } else if (word == "pages=2m") {
      *pages = control::PAGES_HUGE;
    } else if (word.starts_with("max=")) {
      ASSIGN_OR_RETURN(*maximum, ParseSize(word.substr(4)));
    } else if (word != "pages=auto") {
      return InvalidArgument("--memory does not know '" + word +
                             "'; it takes pages=auto, 4k, 2m or shared, and max=SIZE");
    }
  }
  return absl::OkStatus();
}

int RunPartition(const RunOptions& options) { return RunPartition(options, RunHooks{}); }

int RunPartition(const RunOptions& options, const RunHooks& hooks) {
  UseAllDescriptors();
  absl::StatusOr<StartPackage> package = OpenAll(options, hooks);
  std::ignore = BlockSignals();
  absl::StatusOr<RunConsole> console = package.ok() ? OpenConsole(options, hooks, *package)
                                                    : absl::StatusOr<RunConsole>(package.status());
  if (!console.ok()) {
    Log(Message(console.status()));
    return control::kExitStartFailed;
  }
  std::unique_ptr<ControlServer> control;
  if (!options.control.empty()) {
    auto created = ControlServer::Create(options.control);
    if (!created.ok()) {
      Log(Message(created.status()));
      return control::kExitStartFailed;
    }
    control = *std::move(created);
  }
  std::unique_ptr<VsockServer> vsock;
  if (!options.vsock.empty()) {
    auto created = VsockServer::Create(options.vsock);
    if (!created.ok()) {
      Log(Message(created.status()));
      return control::kExitStartFailed;
    }
    vsock = *std::move(created);
  }
  auto out = Output::Create(STDOUT_FILENO), words = Output::Create(STDERR_FILENO);
  if (!out.ok() || !words.ok()) {
    Log("no descriptors for the output");
    return control::kExitStartFailed;
  }
  auto worker = WorkerProcess::Spawn();
  if (!worker.ok()) {
    Log(Message(worker.status()));
    return control::kExitStartFailed;
  }
  if (!console->note.empty()) Log(console->note);
  const absl::Status sent = (*worker)->Start(std::move(package->start), package->descriptors());
  package->ReleaseDescriptors();  // the worker has them, and with them the disks' locks
  if (!sent.ok()) {
    Log(Message(sent));
    return control::kExitStartFailed;
  }
  return Session(**worker, *std::move(out), *std::move(words), std::move(console->ours),
                 std::move(control), std::move(vsock), options, hooks)
      .Run();
}

}  // namespace partita
