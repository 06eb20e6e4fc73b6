// A small epoll loop: the worker's control thread. Callbacks run on the thread inside Run(); Post
// and Stop may be called from any thread.
//
// Posted tasks run in order, but only a bounded share of them before descriptors and timers are
// looked at again: guests cause tasks, and must not be able to make the thread deaf to signals.
#ifndef PARTITA_BASE_EVENT_LOOP_H_
#define PARTITA_BASE_EVENT_LOOP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "base/unique_fd.h"

namespace partita {

class EventLoop {
 public:
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();

  // `callback` gets the epoll events. `fd` is not owned; Remove it before closing it.
  absl::Status Add(int fd, uint32_t events, std::function<void(uint32_t)> callback);
  void Remove(int fd);
  void Post(std::function<void()> task);
  // Calls `callback` once after `milliseconds`.
  void After(uint32_t milliseconds, std::function<void()> callback);

  void Run();
  void Stop();

 private:
  EventLoop(UniqueFd epoll, EventFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  // Runs some of the posted tasks; true if there are more.
  bool RunPosted();
  [[nodiscard]] int TimeoutMs() const;

  UniqueFd epoll_;
  EventFd wake_;
  std::map<int, std::shared_ptr<std::function<void(uint32_t)>>> watched_;
  std::multimap<uint64_t, std::function<void()>> timers_;  // by CLOCK_MONOTONIC milliseconds
  Mutex mutex_;
  std::deque<std::function<void()>> taken_;  // from posted_, not run yet
  std::deque<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace partita

#endif  // PARTITA_BASE_EVENT_LOOP_H_
