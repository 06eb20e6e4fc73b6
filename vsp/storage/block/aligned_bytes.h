// Memory that O_DIRECT accepts.
#ifndef PARTITA_VSP_STORAGE_BLOCK_ALIGNED_BYTES_H_
#define PARTITA_VSP_STORAGE_BLOCK_ALIGNED_BYTES_H_

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>

namespace partita::storage {

// Zeroes at first.
class AlignedBytes {
 public:
  static constexpr size_t kAlignment = 4096;
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size)
      : size_(size),
        bytes_(static_cast<std::byte*>(
            std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment))) {
    if (bytes_ == nullptr) throw std::bad_alloc();
    std::memset(bytes_.get(), 0, size_);
  }
  [[nodiscard]] std::span<std::byte> span() const { return {bytes_.get(), size_}; }
  [[nodiscard]] size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  size_t size_ = 0;
  std::unique_ptr<std::byte, Free> bytes_;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_BLOCK_ALIGNED_BYTES_H_
