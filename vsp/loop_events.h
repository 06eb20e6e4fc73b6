// How other threads reach a channel's loop: tasks left in an inbox, and eventfds that the loop
// reads through its own io_uring.
#ifndef PARTITA_VSP_LOOP_EVENTS_H_
#define PARTITA_VSP_LOOP_EVENTS_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/io_ring.h"
#include "base/mutex.h"
#include "base/unique_fd.h"

namespace partita {

// A read of an eventfd, one at a time. Belongs to the loop; lives longer than the ring.
class EventRead final : public IoRing::Op {
 public:
  // `arrived` gets the eventfd's count.
  EventRead(int fixed_file, std::function<void(uint64_t)> arrived)
      : fixed_file_(fixed_file), arrived_(std::move(arrived)) {}

  // Waits for the next event; nothing changes when it does so already.
  void Arm(IoRing& ring) {
    if (armed_) return;
    io_uring_sqe* sqe = ring.Prepare(this);
    if (sqe == nullptr) return;
    armed_ = true;
    sqe->opcode = IORING_OP_READ;
    sqe->fd = fixed_file_;
    sqe->addr = reinterpret_cast<uintptr_t>(&count_);
    sqe->len = sizeof(count_);
  }
  void OnComplete(int32_t, uint32_t) override {
    armed_ = false;
    arrived_(std::exchange(count_, 0));
  }

 private:
  const int fixed_file_;
  const std::function<void(uint64_t)> arrived_;
  bool armed_ = false;
  uint64_t count_ = 0;
};

// Tasks for a loop. Any thread, unless it says otherwise.
class LoopInbox {
 public:
  // The loop's ring has fd() as `fixed_file`.
  LoopInbox(EventFd wake, int fixed_file)
      : wake_(std::move(wake)), read_(fixed_file, [this](uint64_t) { Run(); }) {}

  [[nodiscard]] int fd() const { return wake_.fd(); }
  // The loop, before it waits: Wake and Post end the wait, and Reap runs the tasks.
  void Arm(IoRing& ring) { read_.Arm(ring); }
  void Wake() const { wake_.Set(); }
  // Runs `task` on the loop, unless the loop ends first: then it is destroyed, here or there.
  void Post(std::function<void()> task) {
    {
      MutexLock lock(mutex_);
      if (closed_) return;
      tasks_.push_back(std::move(task));
      Wake();  // under the lock: a loop that has run the task may close and be gone after it
    }
  }
  // The loop, at its end.
  void Close() { static_cast<void>(Take(true)); }

 private:
  void Run() {
    for (const auto& task : Take(false)) task();
  }
  std::vector<std::function<void()>> Take(bool close) {
    MutexLock lock(mutex_);
    closed_ = closed_ || close;
    return std::exchange(tasks_, {});
  }

  EventFd wake_;
  EventRead read_;
  Mutex mutex_;
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace partita

#endif  // PARTITA_VSP_LOOP_EVENTS_H_
