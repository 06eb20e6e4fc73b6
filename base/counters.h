// Counters and latency histograms, and the sink every component describes its own to.
//
// A Counter is one relaxed atomic: any thread may add. A Histogram has one writer; readers see a
// slightly old picture. Both are part of a component, not of a registry.
#ifndef PARTITA_BASE_COUNTERS_H_
#define PARTITA_BASE_COUNTERS_H_

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace partita {

class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
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
  static void Bump(std::atomic<uint64_t>& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
  std::atomic<uint64_t> count_ = 0;
};

// Collects "component.name" -> value. Values of the same name add up, so channels may share names.
class StatSink {
 public:
  void Add(std::string_view name, uint64_t value) { values_[std::string(name)] += value; }
  void Add(std::string_view name, const Counter& counter) { Add(name, counter.value()); }
  [[nodiscard]] const std::map<std::string, uint64_t>& values() const { return values_; }

 private:
  std::map<std::string, uint64_t> values_;
};

}  // namespace partita

#endif  // PARTITA_BASE_COUNTERS_H_
