#include "base/guest_memory.h"

#include <algorithm>
#include <gsl/assert>

namespace partita {

GuestMemory::GuestMemory(std::span<const Region> regions, int fd)
    : count_(regions.size()), fd_(fd) {
  Expects(regions.size() <= kMaxRegions);
  std::copy(regions.begin(), regions.end(), regions_.begin());
  for (size_t i = 0; i < count_; ++i) reachable_[i] = regions[i].added_later ? 0 : regions[i].size;
}

std::byte* GuestMemory::Room(uint64_t gpa, uint64_t length) const noexcept {
  for (size_t i = 0; i < count_; ++i) {
    const uint64_t added = reachable_[i];
    if (!regions_[i].added_later || gpa != regions_[i].gpa + added) continue;
    if (length != 0 && length <= regions_[i].size - added) return regions_[i].host + added;
  }
  return nullptr;
}

void GuestMemory::Extend(uint64_t length) noexcept {
  for (size_t i = 0; i < count_; ++i) {
    if (!regions_[i].added_later) continue;
    Expects(length <= regions_[i].size - reachable_[i]);
    reachable_[i] += length;
  }
}

void GuestMemory::ForgetAdded() noexcept {
  for (size_t i = 0; i < count_; ++i) {
    if (regions_[i].added_later) reachable_[i] = 0;
  }
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
