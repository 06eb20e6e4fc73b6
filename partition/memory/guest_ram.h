// Guest RAM: lazily populated, 2 MiB aligned, split around the hole below 4 GiB. Private anonymous
// memory unless it has to be handed to another process. Control thread, but for what `memory()`
// allows others.
#ifndef PARTITA_PARTITION_MEMORY_GUEST_RAM_H_
#define PARTITA_PARTITION_MEMORY_GUEST_RAM_H_

#include <memory>
#include <vector>

#include "base/guest_memory.h"
#include "base/unique_fd.h"

namespace partita {

enum class PageKind : uint8_t {
  kAuto,    // anonymous, huge pages where the host allows them
  kSmall,   // anonymous, 4 KiB pages only
  kHuge,    // 2 MiB pages of the host's pool, set aside for this guest before it starts
  kShared,  // a memfd: another process can map it, but few hosts give it huge pages
};

class GuestRam {
 public:
  // `size` in bytes, a multiple of 2 MiB between kMinMemory and kMaxMemory. `maximum` > size: room
  // for memory that the guest may get later, in a region of its own (not for kHuge).
  static absl::StatusOr<std::unique_ptr<GuestRam>> Create(uint64_t size, PageKind kind,
                                                          uint64_t maximum = 0);
  // Gives pages back to the host; the guest would read zeroes. False: not RAM, or the host refuses.
  // Pages of the host's pool stay: what was set aside would go to others and be missing later.
  bool Discard(uint64_t pfn, uint64_t count);
  // For a guest that begins anew: it reads zeroes, and what was added is not there. Every page goes
  // back to the host but those of its pool, which are wiped.
  absl::Status Clear();
  [[nodiscard]] GuestMemory& memory() { return *memory_; }
  // Without what may be added.
  [[nodiscard]] uint64_t size() const { return size_; }
  // What is really allocated.
  [[nodiscard]] uint64_t AllocatedBytes() const;

 private:
  GuestRam() = default;
  absl::Status MapAnonymous(uint64_t total);
  absl::Status MapShared(uint64_t total);
  void Advise();
  void KeepSmall(const std::byte* start, uint64_t length);

  PageKind kind_ = PageKind::kAuto;
  UniqueFd fd_;  // kShared
  Mapping mapping_;
  uint64_t size_ = 0;
  // kAuto: blocks of 2 MiB of which a part was given back. The host must not make a huge page of
  // such a block: it would fill the hole again.
  std::vector<bool> small_blocks_;
  uint32_t small_count_ = 0;
  std::unique_ptr<GuestMemory> memory_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_MEMORY_GUEST_RAM_H_
