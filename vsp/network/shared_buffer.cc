#include "vsp/network/shared_buffer.h"

#include <algorithm>
#include <cstring>

#include "vsp/guest_buffer.h"

namespace partita::network {

std::unique_ptr<SharedBuffer> SharedBuffer::Create(GuestMemory& memory,
                                                   std::span<const uint64_t> pfns, uint64_t bytes) {
  std::unique_ptr<SharedBuffer> buffer(new SharedBuffer(memory));
  if (pfns.empty() || bytes > pfns.size() * kPageSize) return nullptr;
  for (const uint64_t pfn : pfns) {
    std::byte* page = memory.Page(pfn);
    if (page == nullptr) return nullptr;
    buffer->pages_.push_back(page);
  }
  buffer->pfns_.assign(pfns.begin(), pfns.end());
  buffer->size_ = bytes;
  return buffer;
}

template <typename Visit>
void SharedBuffer::Each(uint64_t offset, uint64_t length, Visit visit) const {
  while (length > 0) {
    const uint64_t in_page = offset % kPageSize;
    const uint64_t part = std::min(length, kPageSize - in_page);
    visit(offset / kPageSize, in_page, part);
    offset += part;
    length -= part;
  }
}

void SharedBuffer::AppendTo(std::vector<iovec>& out, uint64_t offset, uint64_t length) const {
  Each(offset, length, [&](uint64_t page, uint64_t at, uint64_t part) {
    AppendMerged(out, pages_[page] + at, part);
  });
}

void SharedBuffer::Read(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  Each(offset, out.size(), [&](uint64_t page, uint64_t at, uint64_t part) {
    std::memcpy(out.data() + done, pages_[page] + at, part);
    done += part;
  });
}

void SharedBuffer::Write(uint64_t offset, std::span<const std::byte> bytes) const {
  size_t done = 0;
  Each(offset, bytes.size(), [&](uint64_t page, uint64_t at, uint64_t part) {
    std::memcpy(pages_[page] + at, bytes.data() + done, part);
    done += part;
  });
}

void SharedBuffer::MarkDirty(uint64_t offset, uint64_t length) const {
  Each(offset, length, [&](uint64_t page, uint64_t at, uint64_t part) {
    memory_.MarkDirty((pfns_[page] << kPageShift) + at, part);
  });
}

}  // namespace partita::network
