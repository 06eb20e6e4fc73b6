// The guest's buffer behind a GPA-direct packet: ranges of page frame numbers, which come from the
// guest and lie until shown otherwise.
#ifndef PARTITA_VSP_GUEST_BUFFER_H_
#define PARTITA_VSP_GUEST_BUFFER_H_

#include <sys/uio.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/guest_memory.h"
#include "vmbus/protocol/vmbus_protocol.h"

namespace partita {

// Appends `bytes` at `start` to a list, merged with what ends there.
inline void AppendMerged(std::vector<iovec>& out, std::byte* start, size_t bytes) {
  if (!out.empty() && static_cast<std::byte*>(out.back().iov_base) + out.back().iov_len == start) {
    out.back().iov_len += bytes;
  } else {
    out.push_back({start, bytes});
  }
}

// Reads the headers of one packet, in private memory.
class GuestBufferReader {
 public:
  explicit GuestBufferReader(std::span<const std::byte> headers) : rest_(headers) {
    vmbus::GpaDirectHeader header{};
    if (Take(&header)) ranges_ = header.range_count;
  }
  // As claimed; 0 when not even that is there.
  [[nodiscard]] uint32_t ranges() const { return ranges_; }
  // The next range; false when its page frame numbers are not all there.
  [[nodiscard]] bool Next(vmbus::GpaRange* range) {
    if (!Take(range) || range->byte_offset >= kPageSize) return false;
    const uint64_t pages =
        (uint64_t{range->byte_offset} + range->byte_count + kPageSize - 1) / kPageSize;
    if (rest_.size() / sizeof(uint64_t) < pages) return false;
    pfns_ = rest_.first(pages * sizeof(uint64_t));
    rest_ = rest_.subspan(pfns_.size());
    return true;
  }
  // The first `bytes` of that range as host memory. `pfns`, if any, gets the pages. False: one of
  // them is not RAM.
  [[nodiscard]] bool Map(const GuestMemory& memory, const vmbus::GpaRange& range, uint32_t bytes,
                         std::vector<iovec>& out, std::vector<uint64_t>* pfns) const {
    uint32_t offset = range.byte_offset;
    for (size_t i = 0; bytes > 0; ++i) {
      uint64_t pfn = 0;
      std::memcpy(&pfn, pfns_.data() + i * sizeof(pfn), sizeof(pfn));
      std::byte* page = memory.Page(pfn);
      if (page == nullptr) return false;
      if (pfns != nullptr) pfns->push_back(pfn);
      const auto part = std::min(bytes, static_cast<uint32_t>(kPageSize) - offset);
      AppendMerged(out, page + offset, part);
      bytes -= part;
      offset = 0;
    }
    return true;
  }

 private:
  template <typename T>
  bool Take(T* value) {
    if (rest_.size() < sizeof(T)) return false;
    std::memcpy(value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return true;
  }
  std::span<const std::byte> rest_, pfns_;
  uint32_t ranges_ = 0;
};

}  // namespace partita

#endif  // PARTITA_VSP_GUEST_BUFFER_H_
