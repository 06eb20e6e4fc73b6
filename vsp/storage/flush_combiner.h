// One disk's flushes, over all its loops. The kernel tells a failed write-back once, to whoever
// asks first; so there is one fdatasync at a time, whose outcome counts for all that waited for it,
// and nothing else of the disk (no RWF_DSYNC, no O_DSYNC) may ask. Who comes while one is under way
// joins the next, because the one under way may have passed by what he wrote. After a failure there
// is no success any more: what the kernel dropped cannot be written again.
#ifndef PARTITA_VSP_STORAGE_FLUSH_COMBINER_H_
#define PARTITA_VSP_STORAGE_FLUSH_COMBINER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "base/mutex.h"

namespace partita::storage {

// Belongs to the disk; any thread.
class FlushCombiner {
 public:
  // One loop's end of it. Called on any thread, without a lock held; a loop that waits for a flush
  // stays until it is told.
  class Loop {
   public:
    // Asks this loop to run the next flush and to report it to Finish.
    virtual void Lead() = 0;
    // A flush that `waiter` waited for has ended: 0 or an errno.
    virtual void Flushed(void* waiter, int error) = 0;

   protected:
    ~Loop() = default;
  };

  // Waits for a flush that starts after this call. Lead() or Flushed() may be called before it
  // returns.
  void Join(Loop& loop, void* waiter);
  // The flush that a loop led has ended.
  void Finish(int error);
  // Runs `flush` (0 or an errno) in its turn and returns its outcome; blocks.
  int Run(const std::function<int()>& flush);

 private:
  struct Waiter {
    Loop* loop;
    void* waiter;
  };
  Mutex mutex_;
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  int failed_ ABSL_GUARDED_BY(mutex_) = 0;   // the first failure's errno
  int blocked_ ABSL_GUARDED_BY(mutex_) = 0;  // callers of Run that wait; they go first
  std::vector<Waiter> current_ ABSL_GUARDED_BY(mutex_), next_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_FLUSH_COMBINER_H_
