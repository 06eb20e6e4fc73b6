#include "base/counters.h"

#include <cmath>

namespace partita {

uint64_t Histogram::Quantile(double q) const {
  const uint64_t total = count();
  if (total == 0) return 0;
  const auto rank = static_cast<uint64_t>(std::ceil(q * static_cast<double>(total)));
  uint64_t seen = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    seen += buckets_[i].load(std::memory_order_relaxed);
    if (seen >= rank && seen > 0) {
      const size_t group = i >> kSubBits;
      if (group == 0) return i;
      const uint64_t base = (1u << kSubBits) + (i & ((1u << kSubBits) - 1));
      return ((base + 1) << (group - 1)) - 1;
    }
  }
  return UINT64_MAX;
}

}  // namespace partita
