#include "tools/host/worker_process.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/monotonic.h"

namespace partita {

absl::StatusOr<std::string> ProgramBeside(const char* name) {
  char self[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (length <= 0) return SystemError("finding this program's own path");
  std::string path(self, static_cast<size_t>(length));
  path = path.substr(0, path.rfind('/') + 1) + name;
  if (access(path.c_str(), X_OK) != 0) return SystemError("no program at " + path);
  return path;
}

absl::StatusOr<SpawnedWorker> SpawnWorker(std::string path, bool own_session) {
  ASSIGN_OR_RETURN(auto pair, control::Channel::CreatePair());
  int words[2];
  if (pipe2(words, O_CLOEXEC | O_NONBLOCK) != 0) return SystemError("creating the worker's stderr");
  UniqueFd read_words(words[0]);
  const UniqueFd write_words(words[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  constexpr int kControlFd = 3;
  // dup2 onto itself would keep close-on-exec, so the worker's end is moved out of the way first.
  const int high = fcntl(pair.second.fd(), F_DUPFD_CLOEXEC, 10);
  posix_spawn_file_actions_adddup2(&actions, high, kControlFd);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, write_words.get(), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A group of its own: Ctrl-C reaches this program, which asks the worker to stop in order.
  posix_spawnattr_setflags(
      &attributes, static_cast<short>((own_session ? POSIX_SPAWN_SETSID : POSIX_SPAWN_SETPGROUP) |
                                      POSIX_SPAWN_SETSIGMASK));
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  char* arguments[] = {path.data(), nullptr};
  pid_t pid = -1;
  const int error = posix_spawn(&pid, path.c_str(), &actions, &attributes, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(high);
  if (error != 0) return SystemError("starting " + path, error);
  return SpawnedWorker{std::move(pair.first), std::move(read_words), pid};
}

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Spawn() {
  ASSIGN_OR_RETURN(std::string path, ProgramBeside("partita-worker"));
  ASSIGN_OR_RETURN(SpawnedWorker spawned, SpawnWorker(std::move(path), false));
  return std::unique_ptr<WorkerProcess>(
      new WorkerProcess(std::move(spawned.channel), std::move(spawned.words), spawned.pid));
}

WorkerProcess::~WorkerProcess() {
  if (pid_ <= 0) return;
  channel_ = control::Channel(UniqueFd());  // the worker stops in order when this end closes
  Wait();
}

absl::Status WorkerProcess::Start(control::Start start, std::vector<int> descriptors) {
  start.set_exec_monotonic_ns(MonotonicNs());
  control::Request request;
  *request.mutable_start() = std::move(start);
  return channel_.Send(request, descriptors);
}

int WorkerProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

}  // namespace partita
