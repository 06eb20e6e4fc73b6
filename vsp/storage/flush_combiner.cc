#include "vsp/storage/flush_combiner.h"

#include <utility>

namespace partita::storage {

void FlushCombiner::Join(Loop& loop, void* waiter) {
  int failed = 0;
  {
    MutexLock lock(mutex_);
    failed = failed_;
    if (failed == 0 && (running_ || blocked_ > 0)) return next_.push_back({&loop, waiter});
    if (failed == 0) {
      running_ = true;
      current_.push_back({&loop, waiter});
    }
  }
  if (failed != 0) return loop.Flushed(waiter, failed);
  loop.Lead();
}

void FlushCombiner::Finish(int error) {
  std::vector<Waiter> done;
  Loop* leader = nullptr;
  {
    MutexLock lock(mutex_);
    done = std::exchange(current_, {});
    running_ = false;
    if (error != 0) {
      if (failed_ == 0) failed_ = error;
      done.insert(done.end(), next_.begin(), next_.end());
      next_.clear();
    } else if (!next_.empty() && blocked_ == 0) {
      current_ = std::exchange(next_, {});
      running_ = true;
      leader = current_.front().loop;  // waits itself, so it cannot end meanwhile
    }
  }
  // The leader first: whoever is told may be gone at once.
  if (leader != nullptr) leader->Lead();
  for (const Waiter& waiter : done) waiter.loop->Flushed(waiter.waiter, error);
}

int FlushCombiner::Run(const std::function<int()>& flush) {
  {
    MutexLock lock(mutex_);
    ++blocked_;
    mutex_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !running_; });
    --blocked_;
    if (failed_ != 0) return failed_;
    running_ = true;
    current_ = std::exchange(next_, {});
  }
  const int error = flush();
  Finish(error);
  return error;
}

}  // namespace partita::storage
