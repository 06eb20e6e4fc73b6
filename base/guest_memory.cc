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

void GuestMemory::AppendPages(const void* host, size_t length, std::vector<uint64_t>& pfns) const {
  if (length == 0) return;
  for (const Region& region : regions()) {
    const auto offset =
        reinterpret_cast<uintptr_t>(host) - reinterpret_cast<uintptr_t>(region.host);
    if (offset >= region.size || length > region.size - offset) continue;
    const uint64_t last = (region.gpa + offset + length - 1) >> kPageShift;
    for (uint64_t pfn = (region.gpa + offset) >> kPageShift; pfn <= last; ++pfn)
      pfns.push_back(pfn);
  }
}

uint64_t GuestMemory::size() const {
  uint64_t total = 0;
  for (const Region& region : regions()) total += region.size;
  return total;
}

}  // namespace partita
