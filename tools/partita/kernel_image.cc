#include "tools/partita/kernel_image.h"

#include <lz4.h>
#include <lzma.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace partita {
namespace {

constexpr size_t kMaxKernel = 512u << 20;
using Bytes = std::vector<uint8_t>;

uint32_t Little32(const Bytes& bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

absl::StatusOr<Bytes> Unxz(std::span<const uint8_t> in) {
  Bytes out(kMaxKernel);
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, UINT64_MAX, 0) != LZMA_OK) return Internal("no xz decoder");
  stream.next_in = in.data();
  stream.avail_in = in.size();
  stream.next_out = out.data();
  stream.avail_out = out.size();
  const lzma_ret result = lzma_code(&stream, LZMA_FINISH);
  out.resize(stream.total_out);
  lzma_end(&stream);
  if (result != LZMA_STREAM_END && out.empty()) return InvalidArgument("the xz payload is damaged");
  return out;
}

// "Legacy" framing: magic, then blocks of {compressed size, data}, 8 MiB each when unpacked.
absl::StatusOr<Bytes> Unlz4(std::span<const uint8_t> in) {
  constexpr size_t kBlock = 8u << 20;
  Bytes out;
  Bytes block(kBlock);
  const Bytes data(in.begin(), in.end());
  for (size_t at = 4; at + 4 <= data.size();) {
    const size_t size = Little32(data, at);
    at += 4;
    if (size == 0 || size > data.size() - at) break;
    const int got =
        LZ4_decompress_safe(reinterpret_cast<const char*>(data.data() + at),
                            reinterpret_cast<char*>(block.data()), static_cast<int>(size), kBlock);
    if (got < 0) break;  // the size word behind the last block
    out.insert(out.end(), block.begin(), block.begin() + got);
    at += size;
    if (out.size() > kMaxKernel) return InvalidArgument("the kernel is too large");
  }
  return out;
}

absl::StatusOr<Bytes> Unzstd(std::span<const uint8_t> in) {
  Bytes out(kMaxKernel);
  ZSTD_DCtx* context = ZSTD_createDCtx();
  ZSTD_inBuffer input = {in.data(), in.size(), 0};
  ZSTD_outBuffer output = {out.data(), out.size(), 0};
  const size_t result = ZSTD_decompressStream(context, &output, &input);
  ZSTD_freeDCtx(context);
  if (ZSTD_isError(result) != 0) return InvalidArgument("the zstd payload is damaged");
  out.resize(output.pos);
  return out;
}

}  // namespace

absl::StatusOr<UniqueFd> UnpackKernel(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return SystemError("reading the kernel's size");
  if (info.st_size < 1024 || static_cast<size_t>(info.st_size) > kMaxKernel) {
    return InvalidArgument("the kernel file has an impossible size");
  }
  Bytes file(static_cast<size_t>(info.st_size));
  if (pread(fd, file.data(), file.size(), 0) != info.st_size)
    return SystemError("reading the kernel");
  if (std::memcmp(file.data(), "\177ELF", 4) == 0) return UniqueFd(dup(fd));
  if (std::memcmp(file.data() + 0x202, "HdrS", 4) != 0) {
    return InvalidArgument("the kernel is not a bzImage");
  }
  // Offset and length of the payload inside the protected-mode part (boot protocol 2.08).
  const size_t setup = (file[0x1F1] == 0 ? 4u : file[0x1F1]) + size_t{1};
  const size_t start = setup * 512 + Little32(file, 0x248);
  const size_t length = Little32(file, 0x24C);
  if (start > file.size() || length > file.size() - start || length < 8) {
    return InvalidArgument("the bzImage is cut short");
  }
  const auto payload = std::span<const uint8_t>(file).subspan(start, length);
  absl::StatusOr<Bytes> elf =
      InvalidArgument("the kernel's compression is not supported (xz, lz4 and zstd are)");
  if (std::memcmp(payload.data(),
                  "\xFD"
                  "7zXZ",
                  5) == 0) {
    elf = Unxz(payload);
  } else if (std::memcmp(payload.data(), "\x02\x21\x4C\x18", 4) == 0) {
    elf = Unlz4(payload);
  } else if (std::memcmp(payload.data(), "\x28\xB5\x2F\xFD", 4) == 0) {
    elf = Unzstd(payload);
  }
  if (!elf.ok()) return elf.status();
  UniqueFd out(memfd_create("partita-kernel", MFD_CLOEXEC));
  if (!out.valid()) return SystemError("creating a memfd for the kernel");
  size_t at = 0;
  while (at < elf->size()) {
    const ssize_t written = write(out.get(), elf->data() + at, elf->size() - at);
    if (written <= 0) return SystemError("writing the unpacked kernel");
    at += static_cast<size_t>(written);
  }
  return out;
}

}  // namespace partita
