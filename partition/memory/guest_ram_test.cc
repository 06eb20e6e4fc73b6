// Guest RAM of each kind: what the guest reads, what the host has to give, and what it gets back.
#include "partition/memory/guest_ram.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>

#include "partition/machine.h"

namespace partita {
namespace {

constexpr uint64_t kMib = 1 << 20, kBlock = 2 * kMib;

// One line of /proc/self/smaps for the mapping that `address` lies in, or "" (old kernels).
std::string SmapsLine(const void* address, const std::string& key) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t start = 0, end = 0;
    if (sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2) {
      const auto at = reinterpret_cast<uintptr_t>(address);
      inside = at >= start && at < end;
      if (inside && key.empty()) return line;
    } else if (inside && line.starts_with(key)) {
      return line + " ";
    }
  }
  return "";
}
bool HasFlag(const void* address, const std::string& flag) {
  return SmapsLine(address, "VmFlags:").find(" " + flag + " ") != std::string::npos;
}

class GuestRamKinds : public testing::TestWithParam<PageKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, GuestRamKinds,
                         testing::Values(PageKind::kAuto, PageKind::kSmall, PageKind::kShared),
                         [](const auto& param) {
                           return param.param == PageKind::kAuto    ? "Auto"
                                  : param.param == PageKind::kSmall ? "Small"
                                                                    : "Shared";
                         });

TEST_P(GuestRamKinds, SizesAndTheHole) {
  EXPECT_FALSE(GuestRam::Create(1 << 20, GetParam()).ok());
  EXPECT_FALSE(GuestRam::Create((64 << 20) + 4096, GetParam()).ok());
  EXPECT_FALSE(GuestRam::Create(2ull << 40, GetParam()).ok());
  auto ram = GuestRam::Create(200ull << 30, GetParam());  // far more than the host has
  ASSERT_TRUE(ram.ok()) << ram.status();
  GuestMemory& memory = (*ram)->memory();
  EXPECT_EQ(memory.Range(machine::kHoleStart, 1), nullptr);
  EXPECT_NE(memory.Range(machine::kHighRamStart, 4096), nullptr);
}

TEST_P(GuestRamKinds, ClearGivesEverythingBack) {
  auto ram = GuestRam::Create(64 * kMib, GetParam());
  ASSERT_TRUE(ram.ok()) << ram.status();
  GuestMemory& memory = (*ram)->memory();
  for (uint64_t at = 0; at < 64 * kMib; at += kPageSize) ASSERT_TRUE(memory.Store(at, at + 1));
  EXPECT_GE((*ram)->AllocatedBytes(), 64 * kMib);
  ASSERT_TRUE((*ram)->Clear().ok());
  EXPECT_EQ((*ram)->AllocatedBytes(), 0u);
  EXPECT_EQ(memory.Load<uint64_t>(5 * kPageSize), 0u);
}

// What is given back is gone from the host and reads as zeroes; its neighbours stay.
TEST_P(GuestRamKinds, DiscardTakesThesePagesOnly) {
  auto ram = GuestRam::Create(64 * kMib, GetParam());
  ASSERT_TRUE(ram.ok()) << ram.status();
  GuestMemory& memory = (*ram)->memory();
  for (uint64_t at = 0; at < 8 * kMib; at += kPageSize) ASSERT_TRUE(memory.Store(at, at + 1));
  const uint64_t before = (*ram)->AllocatedBytes();
  ASSERT_TRUE((*ram)->Discard(700, 1));
  ASSERT_TRUE((*ram)->Discard(1000, 600));  // the end of a block, all of the next, some of a third
  EXPECT_EQ((*ram)->AllocatedBytes(), before - 601 * kPageSize);
  for (const uint64_t pfn : {699, 701, 999, 1600}) {
    EXPECT_EQ(memory.Load<uint64_t>(pfn << kPageShift), (pfn << kPageShift) + 1) << pfn;
  }
  for (const uint64_t pfn : {700, 1000, 1024, 1599}) {
    EXPECT_EQ(memory.Load<uint64_t>(pfn << kPageShift), 0u) << pfn;
  }
  EXPECT_FALSE((*ram)->Discard(64 * kMib >> kPageShift, 1));
  EXPECT_FALSE((*ram)->Discard(0, UINT64_MAX));
  EXPECT_FALSE((*ram)->Discard(UINT64_MAX, 2));
}

// Rings, transfers and tables must not lie in memory that the guest does not have yet (it could
// name its addresses from the start), and a guest that begins anew does not have it any more.
TEST_P(GuestRamKinds, MemoryThatMayBeAddedIsNotThereBefore) {
  auto created = GuestRam::Create(64 * kMib, GetParam(), 256 * kMib);
  ASSERT_TRUE(created.ok()) << created.status();
  GuestMemory& memory = (*created)->memory();
  const uint64_t start = memory.regions().back().gpa;
  ASSERT_TRUE(memory.regions().back().added_later);
  EXPECT_EQ(memory.Page(start >> kPageShift), nullptr);
  EXPECT_FALSE(memory.Store<uint64_t>(start, 1));
  EXPECT_FALSE((*created)->Discard(start >> kPageShift, 1));

  EXPECT_EQ(memory.Room(start + kBlock, 64 * kMib), nullptr);  // leaves a gap
  EXPECT_EQ(memory.Room(start, 256 * kMib), nullptr);          // more than was set aside
  EXPECT_EQ(memory.Room(start, 0), nullptr);
  EXPECT_EQ(memory.Room(0, kBlock), nullptr);  // the guest's from the start
  ASSERT_EQ(memory.Room(start, 64 * kMib), memory.regions().back().host);
  memory.Extend(64 * kMib);
  EXPECT_TRUE(memory.Store<uint64_t>(start + 64 * kMib - 8, 1));
  EXPECT_FALSE(memory.Store<uint64_t>(start + 64 * kMib - 4, 1));
  EXPECT_EQ(memory.Room(start, 64 * kMib), nullptr);  // it is there
  EXPECT_NE(memory.Room(start + 64 * kMib, 128 * kMib), nullptr);
  EXPECT_TRUE((*created)->Discard(start >> kPageShift, 16384));

  ASSERT_TRUE((*created)->Clear().ok());
  EXPECT_EQ(memory.Page(start >> kPageShift), nullptr);
  EXPECT_NE(memory.Room(start, 64 * kMib), nullptr);
}

// A huge page under the guest needs an address that is a multiple of 2 MiB on both sides; a dump
// or a child must not carry the guest's RAM; who measures the worker finds the RAM by its name.
TEST(GuestRam, AutomaticPagesAreAlignedAdvisedAndNamed) {
  auto ram = GuestRam::Create(64 * kMib, PageKind::kAuto);
  ASSERT_TRUE(ram.ok()) << ram.status();
  std::byte* host = (*ram)->memory().Range(0, 64 * kMib);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(host) % kBlock, 0u);
  EXPECT_EQ((*ram)->memory().fd(), -1);
  if (access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0) {
    EXPECT_TRUE(HasFlag(host, "hg"));
  }
  EXPECT_TRUE(HasFlag(host, "dd"));
  EXPECT_TRUE(HasFlag(host, "dc"));
  const std::string line = SmapsLine(host, "");
  if (line.find("[anon") == std::string::npos) GTEST_SKIP() << "this kernel does not name memory";
  EXPECT_NE(line.find("[anon:partita-ram]"), std::string::npos) << line;
}

// With huge pages the host's collector would fill a hole of 4 KiB again; so no block with a hole is
// left to it, and no other block is taken from it.
TEST(GuestRam, ABlockWithAHoleIsNotMadeHugeAgain) {
  if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) {
    GTEST_SKIP() << "this kernel has no transparent huge pages";
  }
  auto ram = GuestRam::Create(64 * kMib, PageKind::kAuto);
  ASSERT_TRUE(ram.ok()) << ram.status();
  std::byte* host = (*ram)->memory().Range(0, 64 * kMib);
  ASSERT_TRUE((*ram)->Discard(512 + 7, 1));
  EXPECT_TRUE(HasFlag(host, "hg"));
  EXPECT_TRUE(HasFlag(host + kBlock, "nh"));
  EXPECT_TRUE(HasFlag(host + 2 * kBlock, "hg"));
  ASSERT_TRUE((*ram)->Discard(512 + 9, 1));
  ASSERT_TRUE((*ram)->Discard(512, 512));  // the rest of it: whole again
  EXPECT_TRUE(HasFlag(host + kBlock, "hg"));
  ASSERT_TRUE((*ram)->Discard(512 + 7, 1));
  ASSERT_TRUE((*ram)->Clear().ok());
  EXPECT_TRUE(HasFlag(host + kBlock, "hg"));
  EXPECT_FALSE(HasFlag(host + kBlock, "nh"));
  // A guest that gives every second page of all it has costs the worker a bounded list of mappings.
  for (uint64_t pfn = 0; pfn < 16384; pfn += 2) ASSERT_TRUE((*ram)->Discard(pfn, 1));
  std::ifstream maps("/proc/self/maps");
  const auto lines =
      std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n');
  EXPECT_LT(lines, 1000);
}

// --- the host's pool of huge pages ---

class HugePool : public testing::Test {
 protected:
  static constexpr const char* kPool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
  static uint64_t Number(const char* path) {
    uint64_t value = 0;
    std::ifstream(path) >> value;
    return value;
  }
  void SetUp() override {
    before_ = Number(kPool);
    if (access(kPool, W_OK) != 0) GTEST_SKIP() << "the pool of huge pages cannot be changed";
  }
  void TearDown() override {
    if (access(kPool, W_OK) == 0) std::ofstream(kPool) << before_;
  }
  // Makes exactly `count` pages free for this test.
  static bool Offer(uint64_t count) {
    const uint64_t taken =
        Number(kPool) - Number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    std::ofstream(kPool) << taken + count;
    return Number(kPool) == taken + count;
  }
  uint64_t before_ = 0;
};

// Too small a pool is an error before the guest starts, not a signal at its first touch.
TEST_F(HugePool, TooSmallAPoolIsSaid) {
  if (!Offer(15)) GTEST_SKIP() << "the host has no 15 huge pages";
  const auto ram = GuestRam::Create(32 * kMib, PageKind::kHuge);
  ASSERT_FALSE(ram.ok());
  EXPECT_NE(ram.status().message().find("no 16 free 2 MiB huge pages"), std::string::npos)
      << ram.status();
}

// Through a reset and a balloon the guest keeps what was set aside: nobody else can take it.
TEST_F(HugePool, ResetKeepsTheReservation) {
  if (!Offer(16)) GTEST_SKIP() << "the host has no 16 huge pages";
  auto ram = GuestRam::Create(32 * kMib, PageKind::kHuge);
  ASSERT_TRUE(ram.ok()) << ram.status();
  GuestMemory& memory = (*ram)->memory();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.Range(0, 1)) % kBlock, 0u);
  for (uint64_t at = 0; at < 16 * kMib; at += kBlock) ASSERT_TRUE(memory.Store(at, ~uint64_t{0}));
  EXPECT_FALSE((*ram)->Discard(0, 512));
  ASSERT_TRUE((*ram)->Clear().ok());
  EXPECT_FALSE(GuestRam::Create(32 * kMib, PageKind::kHuge).ok());
  for (uint64_t at = 0; at < 32 * kMib; at += kPageSize) {
    ASSERT_EQ(memory.Load<uint64_t>(at), 0u) << at;
    ASSERT_TRUE(memory.Store(at, at));
  }
  // Memory that may be added would have to be set aside as well.
  EXPECT_FALSE(GuestRam::Create(32 * kMib, PageKind::kHuge, 64 * kMib).ok());
  ram->reset();
  EXPECT_TRUE(GuestRam::Create(32 * kMib, PageKind::kHuge).ok());
}

}  // namespace
}  // namespace partita
