#include "tools/host/kernel_image.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/host/stream_decoder.h"

namespace partita {
namespace {

constexpr uint32_t kMaxKernel = 512u << 20;
constexpr size_t kInputPiece = 64 << 10, kOutputPiece = 256 << 10;

bool ReadAt(int fd, uint64_t offset, std::span<uint8_t> out) {
  for (size_t at = 0; at < out.size();) {
    const ssize_t got =
        pread(fd, out.data() + at, out.size() - at, static_cast<off_t>(offset + at));
    if (got <= 0) return false;
    at += static_cast<size_t>(got);
  }
  return true;
}

uint32_t Little32(std::span<const uint8_t> bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

bool WriteAll(int fd, std::span<const uint8_t> bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t written = write(fd, bytes.data() + at, bytes.size() - at);
    if (written <= 0) return false;
    at += static_cast<size_t>(written);
  }
  return true;
}

// Where the packed kernel lies in the file. Its last word tells the size when unpacked.
struct Payload {
  uint64_t start = 0, length = 0;
  uint32_t unpacked = 0;
};

absl::StatusOr<Payload> FindPayload(int fd, std::span<const uint8_t> header, uint64_t file_size) {
  // Offset and length inside the protected-mode part: Linux, Documentation/x86/boot.rst, 2.08.
  constexpr size_t kSetupSects = 0x1F1, kVersion = 0x206, kOffset = 0x248, kLength = 0x24C;
  const uint64_t setup = (header[kSetupSects] == 0 ? 4u : header[kSetupSects]) + uint64_t{1};
  Payload payload{.start = setup * 512 + Little32(header, kOffset),
                  .length = Little32(header, kLength)};
  if (header[kVersion + 1] < 2 || (header[kVersion + 1] == 2 && header[kVersion] < 8)) {
    return InvalidArgument("this bzImage does not tell where its payload lies (protocol 2.08)");
  }
  std::array<uint8_t, 4> last{};
  constexpr uint64_t kShortest = 12;
  if (payload.length < kShortest || payload.start > file_size ||
      payload.length > file_size - payload.start ||
      !ReadAt(fd, payload.start + payload.length - last.size(), last)) {
    return InvalidArgument("the bzImage is cut short");
  }
  payload.unpacked = Little32(last, 0);
  if (payload.unpacked == 0 || payload.unpacked > kMaxKernel) {
    return InvalidArgument("the kernel's payload is damaged: it claims to unpack to " +
                           std::to_string(payload.unpacked) + " bytes");
  }
  return payload;
}

absl::Status Unpack(int fd, const Payload& payload, StreamDecoder& decoder, int to) {
  std::vector<uint8_t> input(kInputPiece), output(kOutputPiece);
  std::span<const uint8_t> ready;
  uint64_t read = 0, written = 0;
  while (true) {
    if (ready.empty() && read < payload.length) {
      const size_t piece = std::min<uint64_t>(kInputPiece, payload.length - read);
      if (!ReadAt(fd, payload.start + read, std::span(input).first(piece))) {
        return SystemError("reading the kernel (short file?)");
      }
      ready = std::span(input).first(piece);
      read += piece;
    }
    const auto progress = decoder.Step(ready, read == payload.length, output);
    ready = ready.subspan(progress.consumed);
    written += progress.produced;
    const bool stuck = progress.consumed == 0 && progress.produced == 0 &&
                       progress.state == StreamDecoder::State::kMore;
    if (progress.state == StreamDecoder::State::kDamaged || written > payload.unpacked ||
        (stuck && !(ready.empty() && read < payload.length))) {
      return InvalidArgument("the kernel's payload is damaged or cut short");
    }
    if (!WriteAll(to, std::span(output).first(progress.produced))) {
      return SystemError("writing the unpacked kernel");
    }
    if (progress.state == StreamDecoder::State::kEnd) break;
  }
  if (written != payload.unpacked) {
    return InvalidArgument("the kernel's payload is damaged: " + std::to_string(written) +
                           " bytes instead of " + std::to_string(payload.unpacked));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> UnpackKernel(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return SystemError("reading the kernel's size");
  std::array<uint8_t, 1024> header{};
  if (info.st_size < static_cast<off_t>(header.size()) || !ReadAt(fd, 0, header)) {
    return InvalidArgument("the kernel file is too short to be a kernel");
  }
  if (std::memcmp(header.data(), "\177ELF", 4) == 0) return UniqueFd(dup(fd));
  if (std::memcmp(header.data() + 0x202, "HdrS", 4) != 0) {
    return InvalidArgument("the kernel is not a bzImage");
  }
  ASSIGN_OR_RETURN(const Payload payload,
                   FindPayload(fd, header, static_cast<uint64_t>(info.st_size)));
  std::array<uint8_t, StreamDecoder::kMagic> magic{};
  if (!ReadAt(fd, payload.start, magic)) return SystemError("reading the kernel");
  const std::unique_ptr<StreamDecoder> decoder = StreamDecoder::For(magic);
  if (decoder == nullptr) {
    return InvalidArgument(
        "the kernel's compression is not supported (gzip, bzip2, xz, lz4 and zstd are)");
  }
  UniqueFd out(memfd_create("partita-kernel", MFD_CLOEXEC));
  if (!out.valid()) return SystemError("creating a memfd for the kernel");
  RETURN_IF_ERROR(Unpack(fd, payload, *decoder, out.get()));
  return out;
}

}  // namespace partita
