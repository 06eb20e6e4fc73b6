// Golden tables: what a guest with N VPs is told on hosts of three shapes, as KVM reports them.
// Windows client editions use two sockets at most, and Linux from 6.9 on reads these leaves
// strictly: without a core level each VP would be a socket of its own.
#include "partition/hypervisor/cpuid_topology.h"

#include <gtest/gtest.h>

#include "partition/hypervisor/cpuid.h"

namespace partita {
namespace {

struct Row {
  uint32_t leaf, index, eax, ebx, ecx, edx;
};

CpuidTable Table(const std::vector<Row>& rows) {
  CpuidTable table;
  for (const Row& row : rows) {
    kvm_cpuid_entry2 entry{};
    entry.function = row.leaf;
    entry.index = row.index;
    entry.eax = row.eax, entry.ebx = row.ebx, entry.ecx = row.ecx, entry.edx = row.edx;
    table.push_back(entry);
  }
  return table;
}

void ExpectRows(const CpuidTable& table, const std::vector<Row>& golden) {
  ASSERT_EQ(table.size(), golden.size());
  for (size_t i = 0; i < golden.size(); ++i) {
    SCOPED_TRACE(testing::Message() << std::hex << golden[i].leaf << "." << golden[i].index);
    EXPECT_EQ(table[i].function, golden[i].leaf);
    EXPECT_EQ(table[i].index, golden[i].index);
    EXPECT_EQ(table[i].eax, golden[i].eax);
    EXPECT_EQ(table[i].ebx, golden[i].ebx);
    EXPECT_EQ(table[i].ecx, golden[i].ecx);
    EXPECT_EQ(table[i].edx, golden[i].edx);
  }
}

// A Xeon with two threads per core and 32 ids per package; KVM reports 0xB and 0x1F without levels.
const std::vector<Row> kIntel = {
    {0x0, 0, 0x20, 0x756E6547, 0x6C65746E, 0x49656E69},  // "GenuineIntel"
    {0x1, 0, 0x00050657, 0x07400800, 0x7FFEFBFF, 0xBFEBFBFF},
    {0x4, 0, 0x7C004121, 0x01C0003F, 0x0000003F, 0},  // L1 data, shared by two threads
    {0x4, 1, 0x7C004122, 0x01C0003F, 0x0000003F, 0},
    {0x4, 2, 0x7C004143, 0x03C0003F, 0x000003FF, 0},  // L2
    {0x4, 3, 0x7C0FC163, 0x02C0003F, 0x0000FFFF, 4},  // L3, shared by 64
    {0x4, 4, 0, 0, 0, 0},
    {0xB, 0, 0, 0, 0, 7},
    {0x1F, 0, 0, 0, 0, 7},
    {0x80000001, 0, 0, 0, 0x121, 0x2C100800},
    {0x80000008, 0, 0x0000302E, 0, 0, 0},
};

// An EPYC of the second generation: eight cores share an L3, two threads per core.
const std::vector<Row> kAmd = {
    {0x0, 0, 0x10, 0x68747541, 0x444D4163, 0x69746E65},  // "AuthenticAMD"
    {0x1, 0, 0x00830F10, 0x09800800, 0x7EF8320B, 0x178BFBFF},
    {0xB, 0, 0, 0, 0, 9},
    {0x80000001, 0, 0x00830F10, 0x40000000, 0x75C237FF, 0x2FD3FBFF},
    {0x80000008, 0, 0x00003030, 0x010EB757, 0x0000707F, 0},
    {0x8000001D, 0, 0x00004121, 0x01C0003F, 0x0000003F, 0},
    {0x8000001D, 1, 0x00004122, 0x01C0003F, 0x0000003F, 0},
    {0x8000001D, 2, 0x00004143, 0x01C0003F, 0x000003FF, 2},
    {0x8000001D, 3, 0x0001C163, 0x03C0003F, 0x00003FFF, 1},
    {0x8000001D, 4, 0, 0, 0, 0},
    {0x8000001E, 0, 9, 0x00000104, 0x00000300, 0},
};

// A processor older than leaf 0xB.
const std::vector<Row> kOld = {
    {0x0, 0, 0x7, 0x756E6547, 0x6C65746E, 0x49656E69},
    {0x1, 0, 0x000006F2, 0x01020800, 0, 0x10000000},
};

TEST(CpuidTopology, IntelWithFourVps) {
  CpuidTable table = Table(kIntel);
  SetTopology(table, 4, 2);
  ExpectRows(table, {
                        {0x0, 0, 0x20, 0x756E6547, 0x6C65746E, 0x49656E69},
                        {0x1, 0, 0x00050657, 0x02040800, 0x7FFEFBFF, 0xBFEBFBFF},
                        {0x4, 0, 0x0C000121, 0x01C0003F, 0x0000003F, 0},
                        {0x4, 1, 0x0C000122, 0x01C0003F, 0x0000003F, 0},
                        {0x4, 2, 0x0C000143, 0x03C0003F, 0x000003FF, 0},
                        {0x4, 3, 0x0C00C163, 0x02C0003F, 0x0000FFFF, 4},
                        {0x4, 4, 0, 0, 0, 0},
                        {0x80000001, 0, 0, 0, 0x121, 0x2C100800},
                        {0x80000008, 0, 0x0000302E, 0, 0, 0},
                        {0xB, 0, 0, 1, 0x100, 2},
                        {0xB, 1, 2, 4, 0x201, 2},
                        {0xB, 2, 0, 0, 2, 2},
                        {0x1F, 0, 0, 1, 0x100, 2},
                        {0x1F, 1, 2, 4, 0x201, 2},
                        {0x1F, 2, 0, 0, 2, 2},
                    });
}

// A number that is no power of two: ids are rounded up, processors are not.
TEST(CpuidTopology, AmdWithSixVps) {
  CpuidTable table = Table(kAmd);
  SetTopology(table, 6, 5);
  ExpectRows(table, {
                        {0x0, 0, 0x10, 0x68747541, 0x444D4163, 0x69746E65},
                        {0x1, 0, 0x00830F10, 0x05080800, 0x7EF8320B, 0x178BFBFF},
                        {0x80000001, 0, 0x00830F10, 0x40000000, 0x75C237FF, 0x2FD3FBFF},
                        {0x80000008, 0, 0x00003030, 0x010EB757, 0x00003005, 0},
                        {0x8000001D, 0, 0x00000121, 0x01C0003F, 0x0000003F, 0},
                        {0x8000001D, 1, 0x00000122, 0x01C0003F, 0x0000003F, 0},
                        {0x8000001D, 2, 0x00000143, 0x01C0003F, 0x000003FF, 2},
                        {0x8000001D, 3, 0x00014163, 0x03C0003F, 0x00003FFF, 1},
                        {0x8000001D, 4, 0, 0, 0, 0},
                        {0x8000001E, 0, 5, 5, 0, 0},
                        {0xB, 0, 0, 1, 0x100, 5},
                        {0xB, 1, 3, 6, 0x201, 5},
                        {0xB, 2, 0, 0, 2, 5},
                    });
}

TEST(CpuidTopology, OneVpIsNotMultiThreaded) {
  CpuidTable table = Table(kAmd);
  SetTopology(table, 1, 0);
  for (const auto& entry : table) {
    if (entry.function == 1) {
      EXPECT_EQ(entry.ebx, 0x00010800u);
      EXPECT_EQ(entry.edx & (1 << 28), 0u);
    }
    if (entry.function == 0x80000001) {
      EXPECT_EQ(entry.ecx & 2, 0u);
    }
    if (entry.function == 0xB && entry.index == 1) {
      EXPECT_EQ(entry.eax, 0u);
      EXPECT_EQ(entry.ebx, 1u);
      EXPECT_EQ(entry.ecx, 0x201u);
    }
  }
}

TEST(CpuidTopology, NoLeafBeyondTheLast) {
  CpuidTable table = Table(kOld);
  SetTopology(table, 64, 63);
  ExpectRows(table, {{0x0, 0, 0x7, 0x756E6547, 0x6C65746E, 0x49656E69},
                     {0x1, 0, 0x000006F2, 0x3F400800, 0, 0x10000000}});
}

// What Linux from 6.9 on derives: from the ids alone, every VP must lie in package 0, in a core of
// its own, for every number of VPs.
TEST(CpuidTopology, EveryVpIsACoreOfPackageZero) {
  for (uint32_t count = 1; count <= 64; ++count) {
    for (uint32_t vp = 0; vp < count; ++vp) {
      CpuidTable table = BuildCpuid({.vp_count = count}, Table(kIntel), {}, vp);
      for (const auto& entry : table) {
        if (entry.function != 0xB && entry.function != 0x1F) continue;
        EXPECT_NE(entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0u);
        EXPECT_EQ(entry.edx, vp);
        if (entry.index == 0) {
          EXPECT_EQ(entry.eax, 0u);  // one thread
        } else if (entry.index == 1) {
          EXPECT_EQ(vp >> entry.eax, 0u);
          EXPECT_EQ(entry.ebx, count);
        }
      }
    }
  }
}

}  // namespace
}  // namespace partita
