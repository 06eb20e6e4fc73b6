// Reaches the rings of one channel in guest memory: as a page list always; doubly mapped where RAM
// is a memfd, the guest's frames are contiguous enough and the partition's budget of mappings
// allows it; else in a row where it lies in a row.
#ifndef PARTITA_VMBUS_SERVER_RING_MAPPING_H_
#define PARTITA_VMBUS_SERVER_RING_MAPPING_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/guest_memory.h"
#include "base/unique_fd.h"
#include "vmbus/ring/ring.h"

namespace partita::vmbus {

// Kernel mappings a partition may spend on rings. A guest with shuffled frames would otherwise
// exhaust the host kernel's limit (vm.max_map_count, 65,530 by default).
class MappingBudget {
 public:
  explicit MappingBudget(uint32_t limit = 8192) : left_(limit) {}
  [[nodiscard]] bool Take(uint32_t count) {
    uint32_t left = left_.load();
    while (left >= count) {
      if (left_.compare_exchange_weak(left, left - count)) return true;
    }
    return false;
  }
  void Return(uint32_t count) { left_.fetch_add(count); }
  [[nodiscard]] uint32_t left() const { return left_.load(); }

 private:
  std::atomic<uint32_t> left_;
};

class RingMapping {
 public:
  static constexpr uint32_t kMaxRuns = 16;

  // `pfns`: control page, then data pages. Null when one of them is not RAM.
  static std::unique_ptr<RingMapping> Create(GuestMemory& memory, std::span<const uint64_t> pfns,
                                             MappingBudget& budget);
  ~RingMapping();
  RingMapping(const RingMapping&) = delete;
  RingMapping& operator=(const RingMapping&) = delete;

  [[nodiscard]] const RingMemory& memory() const { return ring_; }
  [[nodiscard]] bool aliased() const { return ring_.linear_size > ring_.size; }
  // Marks the control page and data bytes [from, to) (indices, may wrap) as written.
  void MarkDirty(GuestMemory& memory, uint32_t from, uint32_t to) const;
  // After a write to the control page alone.
  void MarkControlDirty(GuestMemory& memory) const {
    memory.MarkDirty(pfns_[0] << kPageShift, sizeof(RingControl));
  }

 private:
  explicit RingMapping(MappingBudget& budget) : budget_(budget) {}
  bool Alias(const GuestMemory& memory);
  [[nodiscard]] bool Contiguous() const;

  MappingBudget& budget_;
  uint32_t taken_ = 0;
  std::vector<uint64_t> pfns_;
  std::vector<std::byte*> pages_;
  Mapping alias_;
  RingMemory ring_;
};

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_SERVER_RING_MAPPING_H_
