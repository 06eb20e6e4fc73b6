#include "tools/partita/output.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace partita {

struct Output::State {
  State(int to, EventFd event) : fd(to), progress(std::move(event)) {}
  const int fd;
  const EventFd progress;
  Mutex mutex;
  std::string waiting ABSL_GUARDED_BY(mutex);
  size_t writing ABSL_GUARDED_BY(mutex) = 0;  // bytes with the thread
  bool running ABSL_GUARDED_BY(mutex) = false;
  bool closed ABSL_GUARDED_BY(mutex) = false;  // the owner has gone
  bool broken ABSL_GUARDED_BY(mutex) = false;  // the reader has gone

  // False: the reader has gone.
  bool WriteAll(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = write(fd, text.data(), text.size());
      if (written > 0) {
        text.remove_prefix(static_cast<size_t>(written));
      } else if (written == 0 || errno != EINTR) {
        return false;
      }
    }
    return true;
  }
  void Main() {
    while (true) {
      std::string text;
      {
        MutexLock lock(mutex);
        mutex.Await(
            [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return !waiting.empty() || closed; });
        if (waiting.empty()) return;
        text.swap(waiting);
        writing = text.size();
      }
      const bool ok = WriteAll(text);
      {
        MutexLock lock(mutex);
        writing = 0;
        broken = broken || !ok;
      }
      progress.Set();
    }
  }
};

absl::StatusOr<Output> Output::Create(int fd) {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return Output(std::make_shared<State>(fd, std::move(event)));
}

Output::~Output() {
  if (state_ == nullptr) return;
  MutexLock lock(state_->mutex);
  state_->closed = true;
}

void Output::Write(std::string_view text) {
  MutexLock lock(state_->mutex);
  if (state_->broken || text.empty()) return;
  if (!state_->running) {
    auto thread = StartThread("the output", [state = state_] { state->Main(); });
    if (!thread.ok()) {  // then it has to be done here
      state_->broken = !state_->WriteAll(text);
      return;
    }
    thread->detach();
    state_->running = true;
  }
  state_->waiting += text;
}

bool Output::HasRoom() const {
  MutexLock lock(state_->mutex);
  return state_->broken || state_->waiting.size() + state_->writing < kRoom;
}

bool Output::Drained() const {
  MutexLock lock(state_->mutex);
  return state_->broken || (state_->waiting.empty() && state_->writing == 0);
}

int Output::progress_fd() const { return state_->progress.fd(); }
void Output::TakeProgress() const { std::ignore = state_->progress.Take(); }

}  // namespace partita
