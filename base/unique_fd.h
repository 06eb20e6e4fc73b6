// Owning file descriptor and owning memory mapping.
#ifndef PARTITA_BASE_UNIQUE_FD_H_
#define PARTITA_BASE_UNIQUE_FD_H_

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace partita {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// A non-blocking eventfd. Set() may be called from any thread; a full counter already means "set".
class EventFd {
 public:
  static absl::StatusOr<EventFd> Create() {
    UniqueFd fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!fd.valid()) return SystemError("creating an eventfd");
    return EventFd(std::move(fd));
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  void Set() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd_.get(), &one, sizeof(one));
  }
  // Returns the count and zeroes it; 0 when nothing was set.
  [[nodiscard]] uint64_t Take() const {
    uint64_t count = 0;
    return read(fd_.get(), &count, sizeof(count)) == sizeof(count) ? count : 0;
  }

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

class Mapping {
 public:
  Mapping() = default;
  Mapping(void* address, size_t size) : address_(address), size_(size) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      Unmap();
      address_ = std::exchange(other.address_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { Unmap(); }

  static absl::StatusOr<Mapping> Map(size_t size, int protection, int flags, int fd,
                                     off_t offset = 0) {
    void* address = mmap(nullptr, size, protection, flags, fd, offset);
    if (address == MAP_FAILED) return SystemError("mapping memory");
    return Mapping(address, size);
  }
  // Gives up all but `size` bytes that start at a multiple of `alignment` (a power of two). The
  // mapping is at least `alignment` longer than that.
  void Trim(size_t alignment, size_t size) {
    const auto start = reinterpret_cast<uintptr_t>(address_);
    const size_t head = (alignment - start % alignment) % alignment;
    std::byte* kept = data() + head;
    if (head != 0) munmap(address_, head);
    if (size_ - head > size) munmap(kept + size, size_ - head - size);
    address_ = kept;
    size_ = size;
  }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(address_); }
  [[nodiscard]] size_t size() const { return size_; }

 private:
  void Unmap() {
    if (address_ != nullptr) munmap(address_, size_);
    address_ = nullptr;
  }
  void* address_ = nullptr;
  size_t size_ = 0;
};

}  // namespace partita

#endif  // PARTITA_BASE_UNIQUE_FD_H_
