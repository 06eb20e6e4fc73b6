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

// Tasks for a loop. Any thread, unless it says otherwise.
class LoopInbox {
 public:
  explicit LoopInbox(EventFd wake) : wake_(std::move(wake)) {}

  // Becomes readable by Wake and Post; the loop waits for it.
  [[nodiscard]] int fd() const { return wake_.fd(); }
  void Wake() const { wake_.Set(); }
  // Runs `task` on the loop, unless the loop ends first: then it is destroyed, here or there.
  void Post(std::function<void()> task) {
    {
      MutexLock lock(mutex_);
      if (closed_) return;
      tasks_.push_back(std::move(task));
    }
    Wake();
  }
  // The loop: runs what is there.
  void Run() {
    for (const auto& task : Take(false)) task();
  }
  // The loop, at its end.
  void Close() { static_cast<void>(Take(true)); }

 private:
  std::vector<std::function<void()>> Take(bool close) {
    MutexLock lock(mutex_);
    closed_ = closed_ || close;
    return std::exchange(tasks_, {});
  }

  EventFd wake_;
  Mutex mutex_;
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

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

}  // namespace partita

#endif  // PARTITA_VSP_LOOP_EVENTS_H_
