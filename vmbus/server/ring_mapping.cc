#include "vmbus/server/ring_mapping.h"

#include <sys/mman.h>

namespace partita::vmbus {
namespace {

// Offset of a guest page inside the RAM memfd; RAM regions were checked by the caller.
uint64_t FileOffset(const GuestMemory& memory, uint64_t pfn) {
  const uint64_t gpa = pfn << kPageShift;
  for (const GuestMemory::Region& region : memory.regions()) {
    if (gpa - region.gpa < region.size) return region.file_offset + (gpa - region.gpa);
  }
  return UINT64_MAX;
}

}  // namespace

std::unique_ptr<RingMapping> RingMapping::Create(GuestMemory& memory,
                                                 std::span<const uint64_t> pfns,
                                                 MappingBudget& budget) {
  if (pfns.size() < 2) return nullptr;
  std::unique_ptr<RingMapping> self(new RingMapping(budget));
  self->pfns_.assign(pfns.begin(), pfns.end());
  for (const uint64_t pfn : pfns) {
    std::byte* page = memory.Page(pfn);
    if (page == nullptr) return nullptr;
    self->pages_.push_back(page);
  }
  self->ring_.control = reinterpret_cast<RingControl*>(self->pages_[0]);
  self->ring_.pages = std::span(self->pages_).subspan(1);
  self->ring_.size = static_cast<uint32_t>((pfns.size() - 1) * kPageSize);
  if (memory.fd() >= 0 && self->Alias(memory)) {
    self->ring_.linear = self->alias_.data();
    self->ring_.linear_size = 2 * self->ring_.size;
  } else if (self->Contiguous()) {
    self->ring_.linear = self->pages_[1];
    self->ring_.linear_size = self->ring_.size;
  }
  return self;
}

// Most guests allocate a ring in one piece.
bool RingMapping::Contiguous() const {
  for (size_t i = 2; i < pages_.size(); ++i) {
    if (pages_[i] != pages_[1] + (i - 1) * kPageSize) return false;
  }
  return true;
}

bool RingMapping::Alias(const GuestMemory& memory) {
  struct Run {
    uint64_t file_offset, size;
  };
  std::vector<Run> runs;
  for (size_t i = 1; i < pfns_.size(); ++i) {
    const uint64_t offset = FileOffset(memory, pfns_[i]);
    if (!runs.empty() && runs.back().file_offset + runs.back().size == offset) {
      runs.back().size += kPageSize;
    } else {
      if (runs.size() == kMaxRuns) return false;
      runs.push_back({offset, kPageSize});
    }
  }
  const auto needed = static_cast<uint32_t>(2 * runs.size());
  if (!budget_.Take(needed)) return false;
  taken_ = needed;
  // Reserve the whole range first, then lay the pieces over it.
  auto reserved = Mapping::Map(size_t{2} * ring_.size, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  if (!reserved.ok()) return false;
  std::byte* at = reserved->data();
  for (int copy = 0; copy < 2; ++copy) {
    for (const Run& run : runs) {
      if (mmap(at, run.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.fd(),
               static_cast<off_t>(run.file_offset)) == MAP_FAILED) {
        return false;  // huge-page memory cannot be mapped in 4 KiB pieces; the page list serves
      }
      at += run.size;
    }
  }
  alias_ = *std::move(reserved);
  return true;
}

RingMapping::~RingMapping() { budget_.Return(taken_); }

void RingMapping::MarkDirty(GuestMemory& memory, uint32_t from, uint32_t to) const {
  if (!memory.tracks_writes()) return;
  MarkControlDirty(memory);
  while (from != to) {
    const uint32_t offset = from % kRingPage;
    uint32_t chunk = kRingPage - offset;
    if (to > from && to - from < chunk) chunk = to - from;
    memory.MarkDirty((pfns_[1 + from / kRingPage] << kPageShift) + offset, chunk);
    from += chunk;
    if (from == ring_.size) from = 0;
  }
}

}  // namespace partita::vmbus
