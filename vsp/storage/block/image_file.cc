#include "vsp/storage/block/image_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace partita::storage {

absl::StatusOr<DescriptorFile> DescriptorFile::Create(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return SystemError("reading an image's size");
  auto size = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode) && ioctl(fd, BLKGETSIZE64, &size) != 0) {
    return SystemError("reading a block device's size");
  }
  if (!S_ISBLK(info.st_mode) && !S_ISREG(info.st_mode)) {
    return InvalidArgument("a disk image must be a regular file or a block device");
  }
  return DescriptorFile(fd, size);
}

absl::Status DescriptorFile::Read(uint64_t offset, std::span<std::byte> bytes) const {
  if (offset > size_ || bytes.size() > size_ - offset) {
    return absl::OutOfRangeError("reading beyond the end of the image");
  }
  while (!bytes.empty()) {
    const ssize_t got = pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("reading the image at " + std::to_string(offset));
    if (got == 0) return absl::OutOfRangeError("the image became shorter while it was read");
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

absl::Status DescriptorFile::Write(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return SystemError("writing the image at " + std::to_string(offset));
    bytes = bytes.subspan(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
    size_ = std::max(size_, offset);
  }
  return absl::OkStatus();
}

absl::Status DescriptorFile::WriteZeroes(uint64_t offset, uint64_t length) {
  if (length == 0) return absl::OkStatus();
  RETURN_IF_ERROR(Extend(offset + length));
  for (const int mode : {FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE}) {
    if (fallocate(fd_, mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) {
      return absl::OkStatus();
    }
    if (errno != EOPNOTSUPP) return SystemError("zeroing a part of the image");
  }
  const std::vector<std::byte> zeroes(std::min<uint64_t>(length, 1u << 20));
  for (uint64_t at = 0; at < length; at += zeroes.size()) {
    const uint64_t chunk = std::min<uint64_t>(zeroes.size(), length - at);
    RETURN_IF_ERROR(Write(offset + at, std::span(zeroes).first(chunk)));
  }
  return absl::OkStatus();
}

absl::Status DescriptorFile::Extend(uint64_t size) {
  if (size <= size_) return absl::OkStatus();
  if (ftruncate(fd_, static_cast<off_t>(size)) != 0) return SystemError("extending the image");
  size_ = size;
  return absl::OkStatus();
}

absl::Status DescriptorFile::Reserve(uint64_t offset, uint64_t length) {
  if (fallocate(fd_, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(length)) ==
          0 ||
      errno == EOPNOTSUPP) {
    return absl::OkStatus();
  }
  return SystemError("reserving room for the image");
}

absl::Status DescriptorFile::Flush() {
  return fdatasync(fd_) == 0 ? absl::OkStatus() : SystemError("flushing the image");
}

absl::Status OverlayReader::Read(uint64_t offset, std::span<std::byte> bytes) const {
  if (offset > size_ || bytes.size() > size_ - offset) {
    return absl::OutOfRangeError("reading beyond the end of the image");
  }
  // The base first, as far as it goes (what the log extends reads as zeroes), then what lies over
  // it.
  const uint64_t below =
      offset < base_.size() ? std::min<uint64_t>(bytes.size(), base_.size() - offset) : 0;
  if (below > 0) RETURN_IF_ERROR(base_.Read(offset, bytes.first(below)));
  std::fill(bytes.begin() + static_cast<ptrdiff_t>(below), bytes.end(), std::byte{0});
  const uint64_t end = offset + bytes.size();
  auto piece = pieces_.upper_bound(offset);
  if (piece != pieces_.begin()) --piece;
  for (; piece != pieces_.end() && piece->first < end; ++piece) {
    const uint64_t from = std::max(offset, piece->first);
    const uint64_t to = std::min(end, piece->first + piece->second.length);
    if (from >= to) continue;
    std::byte* target = bytes.data() + (from - offset);
    if (piece->second.bytes.empty()) {
      std::memset(target, 0, to - from);
    } else {
      std::memcpy(target, piece->second.bytes.data() + (from - piece->first), to - from);
    }
  }
  return absl::OkStatus();
}

bool OverlayReader::Covers(uint64_t offset, uint64_t length) const {
  auto piece = pieces_.upper_bound(offset);
  if (piece != pieces_.begin()) --piece;
  for (; piece != pieces_.end() && piece->first < offset + length; ++piece) {
    if (piece->first + piece->second.length > offset) return true;
  }
  return false;
}

void OverlayReader::Clear(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  auto piece = pieces_.upper_bound(offset);
  if (piece != pieces_.begin()) --piece;
  while (piece != pieces_.end() && piece->first < end) {
    const uint64_t start = piece->first;
    Piece old = std::move(piece->second);
    if (start + old.length <= offset) {
      piece->second = std::move(old);
      ++piece;
      continue;
    }
    piece = pieces_.erase(piece);
    const auto part = [&](uint64_t from, uint64_t to) {
      Piece cut{.length = to - from, .bytes = {}};
      if (!old.bytes.empty()) {
        cut.bytes.assign(old.bytes.begin() + static_cast<ptrdiff_t>(from - start),
                         old.bytes.begin() + static_cast<ptrdiff_t>(to - start));
      }
      pieces_.emplace(from, std::move(cut));
    };
    if (start < offset) part(start, offset);
    if (start + old.length > end) part(end, start + old.length);
  }
}

void OverlayReader::Put(uint64_t offset, std::vector<std::byte> bytes) {
  if (bytes.empty()) return;
  Clear(offset, bytes.size());
  Extend(offset + bytes.size());
  const uint64_t length = bytes.size();
  pieces_.emplace(offset, Piece{.length = length, .bytes = std::move(bytes)});
}

void OverlayReader::PutZeroes(uint64_t offset, uint64_t length) {
  if (length == 0) return;
  Clear(offset, length);
  Extend(offset + length);
  pieces_.emplace(offset, Piece{.length = length, .bytes = {}});
}

}  // namespace partita::storage
