#include "base/guest_memory.h"

#include <algorithm>
#include <gsl/assert>

namespace partita {

GuestMemory::GuestMemory(std::span<const Region> regions, int fd)
    : count_(regions.size()), fd_(fd) {
  Expects(regions.size() <= kMaxRegions);
  std::copy(regions.begin(), regions.end(), regions_.begin());
}

bool GuestMemory::Read(uint64_t gpa, std::span<std::byte> out) const noexcept {
  const std::byte* from = Range(gpa, out.size());
  if (from == nullptr) return false;
  std::memcpy(out.data(), from, out.size());
  return true;
}

bool GuestMemory::Write(uint64_t gpa, std::span<const std::byte> data) noexcept {
  std::byte* to = Range(gpa, data.size());
  if (to == nullptr) return false;
  std::memcpy(to, data.data(), data.size());
  MarkDirty(gpa, data.size());
  return true;
}

uint64_t GuestMemory::size() const {
  uint64_t total = 0;
  for (const Region& region : regions()) total += region.size;
  return total;
}

}  // namespace partita
