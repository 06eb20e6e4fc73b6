// bzImages whose payload is packed in every way that Linux knows and that we take, whole and
// damaged.
#include "tools/host/kernel_image.h"

#include <bzlib.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <lzma.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cstring>
#include <functional>
#include <vector>

namespace partita {
namespace {

using Bytes = std::vector<uint8_t>;

void Append32(Bytes& bytes, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) {
    bytes.push_back(static_cast<uint8_t>(value >> shift));
  }
}

Bytes Kernel(size_t size) {
  Bytes bytes(size);
  uint32_t state = 1;
  for (size_t i = 0; i < size; ++i) {  // half of it compresses
    state = state * 1664525 + 1013904223;
    bytes[i] = (i & 512) != 0 ? static_cast<uint8_t>(state >> 24) : static_cast<uint8_t>(i >> 10);
  }
  return bytes;
}

// gzip ends with the size by itself; to the others Linux's build appends it.
Bytes Gzip(const Bytes& in) {
  Bytes out(compressBound(in.size()) + 64);
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = const_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}
Bytes Bzip2(const Bytes& in) {
  Bytes out(in.size() + in.size() / 50 + 1024);
  auto size = static_cast<unsigned>(out.size());
  EXPECT_EQ(BZ2_bzBuffToBuffCompress(reinterpret_cast<char*>(out.data()), &size,
                                     const_cast<char*>(reinterpret_cast<const char*>(in.data())),
                                     static_cast<unsigned>(in.size()), 9, 0, 0),
            BZ_OK);
  out.resize(size);
  Append32(out, static_cast<uint32_t>(in.size()));
  return out;
}
Bytes Xz(const Bytes& in) {
  Bytes out(lzma_stream_buffer_bound(in.size()));
  size_t size = 0;
  EXPECT_EQ(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, nullptr, in.data(), in.size(), out.data(),
                                    &size, out.size()),
            LZMA_OK);
  out.resize(size);
  Append32(out, static_cast<uint32_t>(in.size()));
  return out;
}
Bytes Lz4(const Bytes& in) {
  constexpr size_t kBlock = 8 << 20;
  Bytes out = {0x02, 0x21, 0x4C, 0x18};
  for (size_t at = 0; at < in.size(); at += kBlock) {
    const auto size = static_cast<int>(std::min(kBlock, in.size() - at));
    Bytes block(static_cast<size_t>(LZ4_compressBound(size)));
    const int got = LZ4_compress_default(reinterpret_cast<const char*>(in.data() + at),
                                         reinterpret_cast<char*>(block.data()), size,
                                         static_cast<int>(block.size()));
    Append32(out, static_cast<uint32_t>(got));
    out.insert(out.end(), block.begin(), block.begin() + got);
  }
  Append32(out, static_cast<uint32_t>(in.size()));
  return out;
}
Bytes Zstd(const Bytes& in) {
  Bytes out(ZSTD_compressBound(in.size()));
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  out.resize(ZSTD_compress2(context, out.data(), out.size(), in.data(), in.size()));
  ZSTD_freeCCtx(context);
  Append32(out, static_cast<uint32_t>(in.size()));
  return out;
}

struct Packer {
  const char* name;
  Bytes (*pack)(const Bytes&);
  bool has_checksum;
  size_t blocks;  // a size that takes more than one block
};
constexpr Packer kPackers[] = {{"gzip", Gzip, true, 1},
                               {"bzip2", Bzip2, true, 1'000'000},
                               {"xz", Xz, true, 1},
                               {"lz4", Lz4, false, 9 << 20},
                               {"zstd", Zstd, true, 1'000'000}};

class KernelImageTest : public testing::TestWithParam<Packer> {
 protected:
  static UniqueFd File(const Bytes& bytes) {
    UniqueFd fd(memfd_create("image", MFD_CLOEXEC));
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    return fd;
  }
  static Bytes Image(const Bytes& payload) {
    Bytes image(1024);
    image[0x1F1] = 1;
    std::memcpy(image.data() + 0x202, "HdrS", 4);
    image[0x206] = 0x0F;
    image[0x207] = 0x02;
    const auto length = static_cast<uint32_t>(payload.size());
    std::memcpy(image.data() + 0x24C, &length, sizeof(length));
    image.insert(image.end(), payload.begin(), payload.end());
    return image;
  }
  static absl::StatusOr<UniqueFd> Unpack(const Bytes& payload) {
    const UniqueFd fd = File(Image(payload));
    return UnpackKernel(fd.get());
  }
  static Bytes Contents(const UniqueFd& fd) {
    Bytes bytes(static_cast<size_t>(lseek(fd.get(), 0, SEEK_END)));
    EXPECT_EQ(pread(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
};

TEST_P(KernelImageTest, ComesOutAsItWas) {
  for (const size_t size : {size_t{1}, size_t{70'000}, size_t{600'000}, GetParam().blocks}) {
    const Bytes kernel = Kernel(size);
    const auto out = Unpack(GetParam().pack(kernel));
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_TRUE(Contents(*out) == kernel) << size;
  }
}

TEST_P(KernelImageTest, CutShortAnywhereIsAnError) {
  const Bytes payload = GetParam().pack(Kernel(70'000));
  for (size_t length = 16; length < payload.size(); length += payload.size() / 50 + 1) {
    Bytes cut(payload.begin(), payload.begin() + static_cast<ptrdiff_t>(length));
    EXPECT_FALSE(Unpack(cut).ok()) << length;
    // The same with the size word that belongs to it.
    std::copy(payload.end() - 4, payload.end(), cut.end() - 4);
    EXPECT_FALSE(Unpack(cut).ok()) << length;
  }
}

TEST_P(KernelImageTest, AFlippedBitIsAnErrorWhereThereIsAChecksum) {
  const Bytes kernel = Kernel(70'000);
  const Bytes payload = GetParam().pack(kernel);
  for (size_t at = 16; at + 4 < payload.size(); at += payload.size() / 50 + 1) {
    Bytes flipped = payload;
    flipped[at] ^= 0x10;
    const auto out = Unpack(flipped);  // lz4's framing has none; it must not crash
    if (GetParam().has_checksum) {
      EXPECT_FALSE(out.ok()) << at;
    }
  }
}

// What it says it unpacks to is neither trusted nor allocated; more than that is not written.
TEST_P(KernelImageTest, AClaimedSizeIsNotBelieved) {
  Bytes payload = GetParam().pack(Bytes(4 << 20));  // zeroes: a small file
  EXPECT_LT(payload.size(), 128u << 10);
  for (const uint32_t claim : {0u, 4096u, (4u << 20) - 1, (4u << 20) + 1, 512u << 20, ~0u}) {
    std::memcpy(payload.data() + payload.size() - 4, &claim, sizeof(claim));
    rusage before{}, after{};
    getrusage(RUSAGE_SELF, &before);
    const auto out = Unpack(payload);
    getrusage(RUSAGE_SELF, &after);
    EXPECT_FALSE(out.ok()) << claim;
    EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 128 << 10) << claim;  // KiB
  }
}

INSTANTIATE_TEST_SUITE_P(Packers, KernelImageTest, testing::ValuesIn(kPackers),
                         [](const auto& test) { return test.param.name; });

TEST_F(KernelImageTest, OtherFilesGetAClearLine) {
  const auto says = [&](const Bytes& file, const std::string& text) {
    const UniqueFd fd = File(file);
    const auto out = UnpackKernel(fd.get());
    ASSERT_FALSE(out.ok());
    EXPECT_NE(out.status().ToString().find(text), std::string::npos) << out.status();
  };
  says(Bytes(100), "too short");
  says(Bytes(5000), "not a bzImage");
  Bytes image = Image(Bytes(100, 1));
  says(image, "not supported");
  image[0x206] = 0x07;  // protocol 2.07
  says(image, "2.08");
  image = Image(Gzip(Kernel(100)));
  const uint32_t huge = 0xFFFFFFFF;
  std::memcpy(image.data() + 0x248, &huge, sizeof(huge));
  says(image, "cut short");
  image = Image(Gzip(Kernel(100)));
  std::memcpy(image.data() + 0x24C, &huge, sizeof(huge));
  says(image, "cut short");
  image = Image(Bytes(100));
  image.resize(1024);  // the payload is missing
  says(image, "cut short");
}

}  // namespace
}  // namespace partita
