// Guest RAM: one memfd, lazily populated, split around the hole below 4 GiB.
#ifndef PARTITA_PARTITION_MEMORY_GUEST_RAM_H_
#define PARTITA_PARTITION_MEMORY_GUEST_RAM_H_

#include <memory>

#include "base/guest_memory.h"
#include "base/unique_fd.h"

namespace partita {

enum class PageKind : uint8_t {
  kSmall,        // 4 KiB pages, populated on first touch
  kTransparent,  // advise huge pages; the host's shmem_enabled decides
  kHuge,         // 2 MiB hugetlb pages
};

class GuestRam {
 public:
  // `size` in bytes, a multiple of 2 MiB between kMinMemory and kMaxMemory. `maximum` > size: room
  // for memory that the guest may get later, in a region of its own (not for huge pages).
  static absl::StatusOr<std::unique_ptr<GuestRam>> Create(uint64_t size, PageKind kind,
                                                          uint64_t maximum = 0);
  // Gives pages back to the host; the guest would read zeroes. False: not RAM, or the host refuses.
  bool Discard(uint64_t pfn, uint64_t count);
  // Gives every page back to the host; the guest then reads zeroes.
  absl::Status Clear();
  [[nodiscard]] GuestMemory& memory() { return *memory_; }
  // Without what may be added.
  [[nodiscard]] uint64_t size() const { return size_; }
  // 512-byte blocks of the memfd that are really allocated, in bytes.
  [[nodiscard]] uint64_t AllocatedBytes() const;

 private:
  GuestRam() = default;
  UniqueFd fd_;
  Mapping mapping_;
  uint64_t size_ = 0;
  std::unique_ptr<GuestMemory> memory_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_MEMORY_GUEST_RAM_H_
