// A mutex with thread-safety annotations and conditions. Over std::mutex rather than Abseil's:
// Debian's Abseil is built without ThreadSanitizer's hooks, which then takes every lock for none.
#ifndef PARTITA_BASE_MUTEX_H_
#define PARTITA_BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace partita {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    const bool wake = waiters_ > 0;
    mutex_.unlock();
    if (wake) changed_.notify_all();  // whatever the holder changed may be what somebody waits for
  }
  // Waits until `condition` holds. It is looked at under the lock whenever somebody releases it.
  template <typename Condition>
  void Await(Condition condition)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    ++waiters_;
    changed_.wait(lock, condition);
    --waiters_;
    lock.release();
  }
  // As Await, but gives up after `longest`; returns whether the condition holds. By the steady
  // clock: an administrator who sets the host's clock back must not make anybody wait for longer.
  template <typename Condition>
  [[nodiscard]] bool AwaitFor(std::chrono::nanoseconds longest, Condition condition)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    ++waiters_;
    const bool held =
        changed_.wait_until(lock, std::chrono::steady_clock::now() + longest, condition);
    --waiters_;
    lock.release();
    return held;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiters_ = 0;  // under mutex_
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace partita

#endif  // PARTITA_BASE_MUTEX_H_
