// Asks every device which pages of the guest its transfers use right now. Each loop that has to be
// asked holds the census until it has answered or ended; the last one to let go completes it.
#ifndef PARTITA_VMBUS_SERVER_PAGE_CENSUS_H_
#define PARTITA_VMBUS_SERVER_PAGE_CENSUS_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/event_loop.h"
#include "base/mutex.h"

namespace partita::vmbus {

class PageCensus {
 public:
  // Page frame numbers, ascending, each once.
  using Done = std::function<void(std::vector<uint64_t> pfns)>;
  // `done` is called on `loop`, after the last holder is gone.
  PageCensus(EventLoop& loop, Done done) : loop_(loop), done_(std::move(done)) {}
  PageCensus(const PageCensus&) = delete;
  PageCensus& operator=(const PageCensus&) = delete;
  ~PageCensus() {
    MutexLock lock(mutex_);
    loop_.Post([done = std::move(done_), pfns = std::move(pfns_)]() mutable {
      std::sort(pfns.begin(), pfns.end());
      pfns.erase(std::unique(pfns.begin(), pfns.end()), pfns.end());
      done(std::move(pfns));
    });
  }

  // Any thread.
  void Add(std::span<const uint64_t> pfns) {
    MutexLock lock(mutex_);
    pfns_.insert(pfns_.end(), pfns.begin(), pfns.end());
  }

 private:
  EventLoop& loop_;
  Done done_;
  Mutex mutex_;
  std::vector<uint64_t> pfns_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_SERVER_PAGE_CENSUS_H_
