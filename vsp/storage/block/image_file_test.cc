#include "vsp/storage/block/image_file.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <random>

#include "tests/fakes/memory_image.h"

namespace partita::storage {
namespace {

std::vector<std::byte> Filled(size_t size, int value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

// The overlay is what a plain array is, whatever pieces are laid over each other.
TEST(OverlayReader, EqualsAnArray) {
  MemoryImage base;
  base.bytes = Filled(4096, 0xbb);
  OverlayReader overlay(base);
  std::vector<std::byte> model = base.bytes;
  std::mt19937 random(7);
  for (int step = 1; step < 2000; ++step) {
    const uint64_t offset = random() % 6000, length = 1 + random() % 700;
    if (model.size() < offset + length) model.resize(offset + length);
    const bool zero = random() % 3 == 0;
    const auto piece = Filled(length, zero ? 0 : step & 0xff);
    std::copy(piece.begin(), piece.end(), model.begin() + static_cast<ptrdiff_t>(offset));
    if (zero) {
      overlay.PutZeroes(offset, length);
    } else {
      overlay.Put(offset, piece);
    }
    std::vector<std::byte> all(overlay.size());
    ASSERT_TRUE(overlay.Read(0, all).ok());
    ASSERT_EQ(all, model) << "step " << step;
    std::vector<std::byte> part(random() % 300);
    const uint64_t from = random() % (model.size() - part.size());
    ASSERT_TRUE(overlay.Read(from, part).ok());
    ASSERT_TRUE(std::equal(part.begin(), part.end(), model.begin() + static_cast<ptrdiff_t>(from)));
  }
  EXPECT_LT(overlay.pieces(), 200u) << "what is covered must go";
  std::byte one[1];
  EXPECT_TRUE(absl::IsOutOfRange(overlay.Read(overlay.size(), one)));
}

TEST(DescriptorFile, WritesZeroesAndExtends) {
  const UniqueFd fd(memfd_create("image", MFD_CLOEXEC));
  auto file = DescriptorFile::Create(fd.get());
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->size(), 0u);
  ASSERT_TRUE(file->Write(100, Filled(100, 0xcc)).ok());
  EXPECT_EQ(file->size(), 200u);
  ASSERT_TRUE(file->WriteZeroes(150, 1000).ok());
  EXPECT_EQ(file->size(), 1150u);
  ASSERT_TRUE(file->Extend(500).ok());
  EXPECT_EQ(file->size(), 1150u) << "never shorter";
  std::vector<std::byte> all(1150);
  ASSERT_TRUE(file->Read(0, all).ok());
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(all[i], i >= 100 && i < 150 ? std::byte{0xcc} : std::byte{0}) << i;
  }
  EXPECT_TRUE(absl::IsOutOfRange(file->Read(1100, std::span(all).first(51))));
}

TEST(DescriptorFile, APipeIsNoImage) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd out(ends[0]), in(ends[1]);
  EXPECT_TRUE(absl::IsInvalidArgument(DescriptorFile::Create(out.get()).status()));
}

}  // namespace
}  // namespace partita::storage
