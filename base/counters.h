// Counters and latency histograms, and the sink every component describes its own to.
//
// A Counter is one relaxed atomic: any thread may add, by a locked operation. On a path that runs
// for every I/O or frame that is too dear: there a loop has a block of LoopCounters of its own,
// which it leases from the component's PerLoop and which is summed when somebody looks. A
// LoopCounter or Histogram has one writer at a time; readers see a slightly old picture. All are
// part of a component, not of a registry.
#ifndef PARTITA_BASE_COUNTERS_H_
#define PARTITA_BASE_COUNTERS_H_

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace partita {

class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  [[nodiscard]] uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_ = 0;
};

// One writer at a time, any readers: an add is a load and a store, neither of them locked.
class LoopCounter {
 public:
  void Add(uint64_t n = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  [[nodiscard]] uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_ = 0;
};

// Log-linear: 16 steps per power of two, so a quantile is at most 1/16 above the true value.
class Histogram {
 public:
  void Record(uint64_t value) {
    Bump(buckets_[Index(value)]);
    Bump(count_);
  }
  [[nodiscard]] uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  // Adds what another one has counted; as a write.
  void Merge(const Histogram& other) {
    for (size_t i = 0; i < kBuckets; ++i) Bump(buckets_[i], other.buckets_[i].load());
    Bump(count_, other.count_.load());
  }
  // Upper bound of the bucket that holds quantile `q` (0..1); 0 when empty.
  [[nodiscard]] uint64_t Quantile(double q) const;

 private:
  static constexpr unsigned kSubBits = 4;
  static constexpr size_t kBuckets = (64 - kSubBits + 1) << kSubBits;
  static size_t Index(uint64_t value) {
    if (value < (1u << kSubBits)) return value;
    const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - kSubBits - 1;
    return (static_cast<size_t>(shift + 1) << kSubBits) +
           ((value >> shift) & ((1u << kSubBits) - 1));
  }
  static void Bump(std::atomic<uint64_t>& counter, uint64_t by = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }
  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
  std::atomic<uint64_t> count_ = 0;
};

// The blocks of counters of a component's loops. `Block` is a struct of LoopCounters and
// Histograms. A block whose lease has ended keeps its values and goes to the next loop, so sums
// never fall and memory stays with the most loops there were at once. Any thread; outlives its
// leases.
template <typename Block>
class PerLoop {
 public:
  // A loop's block, for as long as the lease lives. Writing through it is for one thread at a time.
  class Lease {
   public:
    explicit Lease(PerLoop& owner) : owner_(&owner), block_(owner.Take()) {}
    ~Lease() { owner_->Give(block_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Block* operator->() const { return block_; }
    Block& operator*() const { return *block_; }

   private:
    PerLoop* owner_;
    Block* block_;
  };

  // Calls `see` with every block there is; to sum them.
  template <typename See>
  void ForEach(See see) const {
    MutexLock lock(mutex_);
    for (const Padded& padded : all_) see(padded.block);
  }

 private:
  static constexpr size_t kCacheLine = 64;
  struct alignas(kCacheLine) Padded {
    Block block;
  };
  Block* Take() {
    MutexLock lock(mutex_);
    if (free_.empty()) return &all_.emplace_back().block;
    Block* block = free_.back();
    free_.pop_back();
    return block;
  }
  void Give(Block* block) {
    MutexLock lock(mutex_);
    free_.push_back(block);
  }
  mutable Mutex mutex_;
  std::deque<Padded> all_ ABSL_GUARDED_BY(mutex_);  // never moves them
  std::vector<Block*> free_ ABSL_GUARDED_BY(mutex_);
};

// Collects "component.name" -> value. Values of the same name add up, so channels may share names.
class StatSink {
 public:
  void Add(std::string_view name, uint64_t value) { values_[std::string(name)] += value; }
  void Add(std::string_view name, const Counter& counter) { Add(name, counter.value()); }
  void Add(std::string_view name, const LoopCounter& counter) { Add(name, counter.value()); }
  [[nodiscard]] const std::map<std::string, uint64_t>& values() const { return values_; }

 private:
  std::map<std::string, uint64_t> values_;
};

}  // namespace partita

#endif  // PARTITA_BASE_COUNTERS_H_
