// One child partition's RAM as the parent sees it: a short, fixed list of regions.
//
// Every address and length that reaches this class may come from the guest and is checked here.
// Guest memory changes under the reader at any time: whoever decides on a value reads it once, into
// private memory (Read, Load), and decides on the copy. Bulk data may be moved in place through
// Range(). Every write by the parent goes through Write/Store, or is followed by MarkDirty, so that
// a dirty bitmap can be fed (KVM's own dirty log does not see writes made by this process).
//
// Thread safety: all methods may be called from any thread; regions never change after
// construction, except that Extend and ForgetAdded move the end of what was added (control thread).
#ifndef PARTITA_BASE_GUEST_MEMORY_H_
#define PARTITA_BASE_GUEST_MEMORY_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace partita {

inline constexpr uint64_t kPageSize = 4096;  // Hyper-V's page size, whatever the host's is
inline constexpr unsigned kPageShift = 12;

// Receives every range the parent wrote. Called from any thread.
class DirtySink {
 public:
  virtual ~DirtySink() = default;
  virtual void Mark(uint64_t gpa, uint64_t length) = 0;
};

class GuestMemory {
 public:
  static constexpr size_t kMaxRegions = 4;
  struct Region {
    uint64_t gpa = 0;
    uint64_t size = 0;
    std::byte* host = nullptr;
    uint64_t file_offset = 0;  // where the region starts in `fd()`
    bool added_later = false;  // the guest's as far as Extend says (dynamic memory); one at most
  };

  // `fd` is the memfd behind the regions, or -1 (tests); it is not owned.
  explicit GuestMemory(std::span<const Region> regions, int fd = -1);

  // Host address of [gpa, gpa + length), or null unless all of it lies in one region.
  [[nodiscard]] std::byte* Range(uint64_t gpa, uint64_t length) const noexcept {
    for (size_t i = 0; i < count_; ++i) {
      const Region& region = regions_[i];
      const uint64_t size = reachable_[i].load(std::memory_order_relaxed);
      const uint64_t offset = gpa - region.gpa;  // wraps to a huge value below the region
      if (offset < size && length <= size - offset) return region.host + offset;
    }
    return nullptr;
  }
  // Host address of [gpa, gpa + length), or null unless that is what can be added next: memory is
  // added from the start of its region on, without gaps.
  [[nodiscard]] std::byte* Room(uint64_t gpa, uint64_t length) const noexcept;
  // From now on what Room() answered for is the guest's.
  void Extend(uint64_t length) noexcept;
  // Nothing has been added (a guest that begins anew).
  void ForgetAdded() noexcept;
  [[nodiscard]] std::byte* Page(uint64_t pfn) const noexcept {
    return pfn > (UINT64_MAX >> kPageShift) ? nullptr : Range(pfn << kPageShift, kPageSize);
  }
  // The other way round: the pages that [host, host + length) lies in; none if it is not RAM.
  void AppendPages(const void* host, size_t length, std::vector<uint64_t>& pfns) const;
  [[nodiscard]] bool Read(uint64_t gpa, std::span<std::byte> out) const noexcept;
  [[nodiscard]] bool Write(uint64_t gpa, std::span<const std::byte> data) noexcept;

  template <typename T>
  [[nodiscard]] std::optional<T> Load(uint64_t gpa) const noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (!Read(gpa, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }
  template <typename T>
  [[nodiscard]] bool Store(uint64_t gpa, const T& value) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    return Write(gpa, std::as_bytes(std::span(&value, 1)));
  }

  void MarkDirty(uint64_t gpa, uint64_t length) noexcept {
    if (DirtySink* sink = dirty_.load(std::memory_order_acquire); sink != nullptr) [[unlikely]] {
      sink->Mark(gpa, length);
    }
  }
  // `sink` outlives its use; null turns tracking off.
  void SetDirtySink(DirtySink* sink) { dirty_.store(sink, std::memory_order_release); }
  // Whether anybody listens; for those to whom naming what they wrote is work.
  [[nodiscard]] bool tracks_writes() const noexcept {
    return dirty_.load(std::memory_order_acquire) != nullptr;
  }

  [[nodiscard]] std::span<const Region> regions() const { return {regions_.data(), count_}; }
  [[nodiscard]] uint64_t size() const;
  [[nodiscard]] int fd() const { return fd_; }

 private:
  std::array<Region, kMaxRegions> regions_{};
  std::array<std::atomic<uint64_t>, kMaxRegions> reachable_{};  // bytes of each region
  size_t count_ = 0;
  int fd_;
  std::atomic<DirtySink*> dirty_ = nullptr;
};

}  // namespace partita

#endif  // PARTITA_BASE_GUEST_MEMORY_H_
