// An image file in memory that can be made to fail: after a number of writes everything is lost, as
// by a power cut (`fuse`), whole or in the middle of a write.
#ifndef PARTITA_TESTS_FAKES_MEMORY_IMAGE_H_
#define PARTITA_TESTS_FAKES_MEMORY_IMAGE_H_

#include <algorithm>
#include <cstring>
#include <vector>

#include "vsp/storage/block/image_file.h"

namespace partita::storage {

class MemoryImage final : public ImageFile {
 public:
  [[nodiscard]] uint64_t size() const override { return bytes.size(); }
  absl::Status Read(uint64_t offset, std::span<std::byte> to) const override {
    if (offset > bytes.size() || to.size() > bytes.size() - offset) {
      return absl::OutOfRangeError("reading beyond the end of the image");
    }
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(offset), to.size(), to.begin());
    return absl::OkStatus();
  }
  absl::Status Write(uint64_t offset, std::span<const std::byte> from) override {
    if (Blown()) {
      // A torn write: whole sectors of 512 bytes reach the disk, the rest does not.
      from = from.first(from.size() / 2 / 512 * 512);
      if (fuse == 0) Put(offset, from);
      return Unavailable("the power is out");
    }
    if (offset > kMaxSize || from.size() > kMaxSize - offset) {
      return ResourceExhausted("the disk is full");
    }
    Put(offset, from);
    return absl::OkStatus();
  }
  absl::Status WriteZeroes(uint64_t offset, uint64_t length) override {
    if (length > kMaxSize) return ResourceExhausted("the disk is full");
    return Write(offset, std::vector<std::byte>(length));
  }
  absl::Status Extend(uint64_t size) override {
    if (Blown()) return Unavailable("the power is out");
    if (size > kMaxSize) return ResourceExhausted("the disk is full");
    bytes.resize(std::max<uint64_t>(bytes.size(), size));
    return absl::OkStatus();
  }
  absl::Status Flush() override {
    return Blown() ? Unavailable("the power is out") : absl::OkStatus();
  }
  template <typename T>
  T Load(uint64_t at) const {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
  }
  template <typename T>
  void Store(uint64_t at, const T& value) {
    std::memcpy(bytes.data() + at, &value, sizeof(value));
  }

  std::vector<std::byte> bytes;
  int fuse = -1;  // operations that still succeed; -1: all

 private:
  static constexpr uint64_t kMaxSize = 64u << 20;
  // Counts down to 0, the operation that tears, and below, where nothing arrives.
  bool Blown() {
    if (fuse == -1) return false;
    if (fuse > 0) return --fuse == 0;
    fuse = -2;
    return true;
  }
  void Put(uint64_t offset, std::span<const std::byte> from) {
    bytes.resize(std::max<uint64_t>(bytes.size(), offset + from.size()));
    std::copy(from.begin(), from.end(), bytes.begin() + static_cast<ptrdiff_t>(offset));
  }
};

}  // namespace partita::storage

#endif  // PARTITA_TESTS_FAKES_MEMORY_IMAGE_H_
