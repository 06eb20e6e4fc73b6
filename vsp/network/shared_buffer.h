// The two buffers a guest shares with its adapter (receive and send), as page lists in guest
// memory, and the pool of the receive buffer's sections.
#ifndef PARTITA_VSP_NETWORK_SHARED_BUFFER_H_
#define PARTITA_VSP_NETWORK_SHARED_BUFFER_H_

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/guest_memory.h"
#include "base/mutex.h"

namespace partita::network {

class SharedBuffer {
 public:
  // Null when a page is not RAM. `bytes` may be less than the pages hold.
  static std::unique_ptr<SharedBuffer> Create(GuestMemory& memory, std::span<const uint64_t> pfns,
                                              uint64_t bytes);
  [[nodiscard]] uint64_t size() const { return size_; }
  // Appends the memory of [offset, offset + length), which must lie inside; adjacent pages merged.
  void AppendTo(std::vector<iovec>& out, uint64_t offset, uint64_t length) const;
  void Read(uint64_t offset, std::span<std::byte> out) const;
  void Write(uint64_t offset, std::span<const std::byte> bytes) const;
  void MarkDirty(uint64_t offset, uint64_t length) const;

 private:
  explicit SharedBuffer(GuestMemory& memory) : memory_(memory) {}
  template <typename Visit>
  void Each(uint64_t offset, uint64_t length, Visit visit) const;
  GuestMemory& memory_;
  std::vector<std::byte*> pages_;
  std::vector<uint64_t> pfns_;
  uint64_t size_ = 0;
};

// Sections of the receive buffer that the guest does not hold. Any thread. The last few are for
// control messages: a guest that holds all others waits for its answer, and for ever.
class SectionPool {
 public:
  explicit SectionPool(uint32_t count)
      : reserved_(count < 2 ? 0 : std::clamp<uint32_t>(count / 16, 1, 8)) {
    free_.reserve(count);
    for (uint32_t i = count; i-- > 0;) free_.push_back(i);
  }
  // For frames: all `count` sections or none.
  [[nodiscard]] bool Take(uint32_t count, std::vector<uint32_t>& out) {
    MutexLock lock(mutex_);
    if (free_.size() < reserved_ + count) return false;
    out.insert(out.end(), free_.end() - count, free_.end());
    free_.resize(free_.size() - count);
    return true;
  }
  // As many as there are, up to `most`.
  void TakeSome(uint32_t most, std::vector<uint32_t>& out) {
    MutexLock lock(mutex_);
    const size_t there = free_.size() > reserved_ ? free_.size() - reserved_ : 0;
    const size_t count = std::min<size_t>(there, most);
    out.insert(out.end(), free_.end() - count, free_.end());
    free_.resize(free_.size() - count);
  }
  // For a control message.
  [[nodiscard]] bool TakeForControl(std::vector<uint32_t>& out) {
    MutexLock lock(mutex_);
    if (free_.empty()) return false;
    out.push_back(free_.back());
    free_.pop_back();
    return true;
  }
  void Return(std::span<const uint32_t> sections) {
    MutexLock lock(mutex_);
    free_.insert(free_.end(), sections.begin(), sections.end());
  }
  [[nodiscard]] size_t free_sections() {
    MutexLock lock(mutex_);
    return free_.size();
  }

 private:
  const uint32_t reserved_;
  Mutex mutex_;
  std::vector<uint32_t> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_SHARED_BUFFER_H_
