// A disk image's file as the format code sees it: bytes at offsets. Synchronous: for opening,
// checking, creating and converting images, never for a guest's I/O. One thread at a time.
#ifndef PARTITA_VSP_STORAGE_BLOCK_IMAGE_FILE_H_
#define PARTITA_VSP_STORAGE_BLOCK_IMAGE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"

namespace partita::storage {

class ImageReader {
 public:
  virtual ~ImageReader() = default;
  [[nodiscard]] virtual uint64_t size() const = 0;
  // All of `bytes`, or an error: OUT_OF_RANGE where they reach beyond the end.
  virtual absl::Status Read(uint64_t offset, std::span<std::byte> bytes) const = 0;

  template <typename T>
  absl::StatusOr<T> ReadStruct(uint64_t offset) const {
    T value{};
    RETURN_IF_ERROR(Read(offset, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
};

class ImageFile : public ImageReader {
 public:
  // Both extend the file as needed.
  virtual absl::Status Write(uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual absl::Status WriteZeroes(uint64_t offset, uint64_t length) = 0;
  // Makes the file at least `size` bytes long.
  virtual absl::Status Extend(uint64_t size) = 0;
  // Takes room for a part of the file, so that writing there cannot find the disk full. The file
  // becomes no longer; where the file system cannot do it, nothing happens.
  virtual absl::Status Reserve(uint64_t offset, uint64_t length) {
    static_cast<void>(offset);
    static_cast<void>(length);
    return absl::OkStatus();
  }
  // What was written is durable. After a failure nothing about the file's content is known.
  virtual absl::Status Flush() = 0;
};

// An open file. The descriptor is borrowed.
class DescriptorFile final : public ImageFile {
 public:
  static absl::StatusOr<DescriptorFile> Create(int fd);
  [[nodiscard]] uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<std::byte> bytes) const override;
  absl::Status Write(uint64_t offset, std::span<const std::byte> bytes) override;
  absl::Status WriteZeroes(uint64_t offset, uint64_t length) override;
  absl::Status Extend(uint64_t size) override;
  absl::Status Reserve(uint64_t offset, uint64_t length) override;
  absl::Status Flush() override;

 private:
  DescriptorFile(int fd, uint64_t size) : fd_(fd), size_(size) {}
  int fd_;
  uint64_t size_;
};

// Another reader with changes laid over it that are never written: an image that is opened
// read-only but has a log to replay. Pieces refer to bytes in `base` (a copy elsewhere in the
// file), to owned bytes, or are zeroes.
class OverlayReader final : public ImageReader {
 public:
  explicit OverlayReader(const ImageReader& base) : base_(base), size_(base.size()) {}
  [[nodiscard]] uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<std::byte> bytes) const override;
  void Put(uint64_t offset, std::vector<std::byte> bytes);
  void PutZeroes(uint64_t offset, uint64_t length);
  void Extend(uint64_t size) { size_ = size > size_ ? size : size_; }
  [[nodiscard]] size_t pieces() const { return pieces_.size(); }
  // Whether anything lies over this part.
  [[nodiscard]] bool Covers(uint64_t offset, uint64_t length) const;

 private:
  struct Piece {
    uint64_t length = 0;
    std::vector<std::byte> bytes;  // empty: zeroes
  };
  // Removes what [offset, offset + length) covers; cuts pieces at its ends.
  void Clear(uint64_t offset, uint64_t length);
  const ImageReader& base_;
  uint64_t size_;
  std::map<uint64_t, Piece> pieces_;  // by offset, disjoint
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_BLOCK_IMAGE_FILE_H_
