// Starts a worker process and talks to it. One thread.
#ifndef PARTITA_TOOLS_HOST_WORKER_PROCESS_H_
#define PARTITA_TOOLS_HOST_WORKER_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/control/channel.h"
#include "tools/control/control.pb.h"

namespace partita {

struct SpawnedWorker {
  control::Channel channel;
  UniqueFd words;  // see WorkerProcess
  pid_t pid;
};
// The path of a program that lies beside this one.
absl::StatusOr<std::string> ProgramBeside(const char* name);
// In a process group of its own, or a session, so that no terminal and no group reaches it.
absl::StatusOr<SpawnedWorker> SpawnWorker(std::string path, bool own_session);

class WorkerProcess {
 public:
  // Runs the partita-worker that lies beside this program.
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Spawn();
  ~WorkerProcess();

  absl::Status Start(control::Start start, std::vector<int> descriptors);
  absl::Status Send(const control::Request& request, std::span<const int> descriptors = {}) {
    return channel_.Send(request, descriptors);
  }
  absl::Status Receive(control::Event* event) { return channel_.Receive(event); }
  [[nodiscard]] int fd() const { return channel_.fd(); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  // The reading end of the worker's stderr, not blocking on either end: a worker that has something
  // to say waits for nobody.
  [[nodiscard]] UniqueFd& words() { return words_; }
  // Waits for the process; its raw wait status.
  int Wait();

 private:
  WorkerProcess(control::Channel channel, UniqueFd words, pid_t pid)
      : channel_(std::move(channel)), words_(std::move(words)), pid_(pid) {}
  control::Channel channel_;
  UniqueFd words_;
  pid_t pid_;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_WORKER_PROCESS_H_
