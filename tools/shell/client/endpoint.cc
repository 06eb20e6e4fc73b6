#include "tools/shell/client/endpoint.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace partita::shell {
namespace {

constexpr const char* kSystemSocket = "/run/partita/partitad.sock";
constexpr std::chrono::seconds kStartTime{30};

std::string Reason(int error) { return std::generic_category().message(error); }

// The folder of a user's socket: his, and nobody else's to enter.
std::optional<ErrorRecord> PrepareFolder(const std::string& socket) {
  const std::string folder = socket.substr(0, socket.rfind('/'));
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return Unreachable(socket, "making " + folder + ": " + Reason(errno), "");
  }
  struct stat info {};
  if (lstat(folder.c_str(), &info) != 0)
    return Unreachable(socket, "looking at " + folder + ": " + Reason(errno), "");
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
    return Unreachable(socket, folder + " is not a folder that belongs to this user alone",
                       "remove it, or set XDG_RUNTIME_DIR");
  }
  return std::nullopt;
}

// What the service said last.
std::string LastLine(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> buffer{};
  const off_t size = file.valid() ? lseek(file.get(), 0, SEEK_END) : 0;
  const off_t from = std::max<off_t>(0, size - static_cast<off_t>(buffer.size()));
  const ssize_t got = file.valid() ? pread(file.get(), buffer.data(), buffer.size(), from) : 0;
  std::string text(buffer.data(), static_cast<size_t>(std::max<ssize_t>(got, 0)));
  text.erase(text.find_last_not_of("\r\n ") + 1);
  return text.substr(text.rfind('\n') + 1);
}

// -1 with errno, or the process. It is in a session of its own, so that Ctrl-C and a closed
// terminal do not reach it.
pid_t Spawn(const std::string& program, const std::string& socket, const std::string& log) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&files);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
  posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  posix_spawn_file_actions_addchdir_np(&files, "/");
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  std::vector<std::string> kept = {"PARTITA_SOCKET=" + socket};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::string_view(*entry).substr(0, 15) != "PARTITA_SOCKET=") kept.emplace_back(*entry);
  }
  std::vector<char*> environment;
  for (std::string& entry : kept) environment.push_back(entry.data());
  environment.push_back(nullptr);
  std::string name = program;
  std::array<char*, 2> arguments = {name.data(), nullptr};
  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, program.c_str(), &files, &attributes, arguments.data(), environment.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error == 0) return pid;
  errno = error;
  return -1;
}

}  // namespace

ErrorRecord Unreachable(const std::string& socket, std::string why, std::string next_step) {
  ErrorRecord error;
  error.id = "service.unreachable";
  error.category = ErrorCategory::kUnreachable;
  error.target = socket;
  error.message = "the management service cannot be reached at " + socket;
  error.cause.push_back(std::move(why));
  error.next_step = std::move(next_step);
  return error;
}

Surroundings ThisProcess() {
  return {[](const char* name) -> std::optional<std::string> {
            const char* value = std::getenv(name);
            if (value == nullptr || *value == '\0') return std::nullopt;
            return value;
          },
          [](const std::string& path) { return access(path.c_str(), W_OK) == 0; }, geteuid()};
}

Endpoint FindEndpoint(const Surroundings& surroundings) {
  if (const auto named = surroundings.environment("PARTITA_SOCKET")) return {*named, false};
  if (surroundings.may_use(kSystemSocket)) return {kSystemSocket, false};
  if (const auto runtime = surroundings.environment("XDG_RUNTIME_DIR"))
    return {*runtime + "/partita/partitad.sock", true};
  return {"/tmp/partita-" + std::to_string(surroundings.uid) + "/partitad.sock", true};
}

bool Answers(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return fd.valid() &&
         connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

std::string ServiceProgram() {
  std::array<char, PATH_MAX> own{};
  const ssize_t length = readlink("/proc/self/exe", own.data(), own.size() - 1);
  if (length <= 0) return {};
  const std::string self(own.data(), static_cast<size_t>(length));
  const std::string folder = self.substr(0, self.rfind('/') + 1);
  for (const char* place : {"partitad", "../libexec/partita/partitad", "../sbin/partitad"}) {
    if (access((folder + place).c_str(), X_OK) == 0) return folder + place;
  }
  return {};
}

std::optional<ErrorRecord> StartService(const std::string& program, const std::string& socket,
                                        const CancelToken& cancel) {
  if (auto error = PrepareFolder(socket)) return error;
  const std::string log = socket.substr(0, socket.rfind('/') + 1) + "partitad.log";
  const pid_t pid = Spawn(program, socket, log);
  if (pid < 0) return Unreachable(socket, "starting " + program + ": " + Reason(errno), "");
  const auto end = std::chrono::steady_clock::now() + kStartTime;
  bool gone = false;
  // It says that it is ready by answering; one that was started at the same time by another shell
  // has the socket, and this one ends.
  while (!Answers(socket)) {
    int status = 0;
    if (gone) {
      return Unreachable(socket, program + " has ended: " + LastLine(log), "look into " + log);
    }
    gone = waitpid(pid, &status, WNOHANG) == pid;
    if (std::chrono::steady_clock::now() > end) {
      return Unreachable(socket, program + " did not answer within 30 s", "look into " + log);
    }
    if (!gone && !cancel.Sleep(std::chrono::milliseconds(10))) {
      ErrorRecord error;
      error.id = "Cancelled";
      error.category = ErrorCategory::kCancelled;
      error.message = "the wait for the service was ended";
      return error;
    }
  }
  return std::nullopt;
}

}  // namespace partita::shell
