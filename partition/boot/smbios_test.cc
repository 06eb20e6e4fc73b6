// The tables as a guest's firmware scan reads them (DSP0134): found by the anchor, walked by
// lengths.
#include "partition/boot/smbios.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "partition/boot/acpi.h"
#include "partition/machine.h"
#include "partition/memory/guest_ram.h"

namespace partita {
namespace {

struct Parsed {
  std::vector<uint8_t> formatted;
  std::vector<std::string> texts;
  [[nodiscard]] std::string Text(size_t at) const {
    const uint8_t number = formatted.at(at);
    return number == 0 ? "" : texts.at(number - 1u);
  }
};

class SmbiosTest : public testing::Test {
 protected:
  const uint8_t* At(uint64_t gpa, uint64_t length) {
    return reinterpret_cast<const uint8_t*>((*ram)->memory().Range(gpa, length));
  }
  void Parse() {
    uint64_t found = 0;
    for (uint64_t at = 0xF0000; at < 0x100000 && found == 0; at += 16) {
      if (std::memcmp(At(at, 16), "_SM3_", 5) == 0) found = at;
    }
    ASSERT_NE(found, 0u);
    const uint8_t* entry = At(found, 24);
    ASSERT_EQ(entry[6], 24);
    EXPECT_EQ(std::accumulate(entry, entry + 24, 0) & 0xFF, 0);
    const auto size = *(*ram)->memory().Load<uint32_t>(found + 12);
    const auto table = *(*ram)->memory().Load<uint64_t>(found + 16);
    const uint8_t* p = At(table, size);
    ASSERT_NE(p, nullptr);
    const uint8_t* end = p + size;
    while (p < end) {
      const uint8_t type = p[0], length = p[1];
      Parsed& parsed = structures[type];
      ASSERT_TRUE(parsed.formatted.empty()) << "two of type " << int{type};
      ASSERT_LE(p + length + 2, end);
      parsed.formatted.assign(p, p + length);
      p += length;
      if (*p == 0) ++p;
      while (*p != 0) {
        parsed.texts.emplace_back(reinterpret_cast<const char*>(p));
        p += parsed.texts.back().size() + 1;
      }
      ++p;
    }
    EXPECT_EQ(p, end);
  }
  absl::StatusOr<std::unique_ptr<GuestRam>> ram = GuestRam::Create(64 << 20, PageKind::kSmall);
  std::map<uint8_t, Parsed> structures;
};

TEST_F(SmbiosTest, SaysHyperVWithTheIdentityAndTheTag) {
  SmbiosOptions options;
  std::iota(options.uuid.begin(), options.uuid.end(), uint8_t{0x10});
  options.asset_tag = "7783-7084-3265-9085-8269-3286-77";
  ASSERT_TRUE(WriteSmbiosTables((*ram)->memory(), options).ok());
  Parse();
  ASSERT_TRUE(structures.contains(127));
  EXPECT_EQ(structures[1].Text(4), "Microsoft Corporation");
  EXPECT_EQ(structures[1].Text(5), "Virtual Machine");
  EXPECT_EQ(std::memcmp(structures[1].formatted.data() + 8, options.uuid.data(), 16), 0);
  EXPECT_EQ(structures[1].Text(7), "1617-1819-2021-2223-2425-2627-28");
  EXPECT_EQ(structures[2].Text(5), "Virtual Machine");
  EXPECT_EQ(structures[3].Text(4), "Microsoft Corporation");
  EXPECT_EQ(structures[3].Text(8), options.asset_tag);
  EXPECT_EQ(structures[0].formatted[0x13] & (1 << 4), 1 << 4);  // a virtual machine
}

TEST_F(SmbiosTest, WithoutATagThereIsNone) {
  ASSERT_TRUE(WriteSmbiosTables((*ram)->memory(), {}).ok());
  Parse();
  EXPECT_EQ(structures[3].formatted[8], 0);
}

TEST_F(SmbiosTest, TagsThatWouldBreakTheTableAreRefused) {
  for (const std::string& tag : {std::string(65, 'x'), std::string("a\0b", 3),
                                 std::string("\xC3\xA9"), std::string("line\n")}) {
    SmbiosOptions options;
    options.asset_tag = tag;
    EXPECT_FALSE(WriteSmbiosTables((*ram)->memory(), options).ok()) << tag;
  }
}

// Both lie below 1 MiB, with the reset code behind them.
TEST_F(SmbiosTest, LeavesTheAcpiTablesAlone) {
  const auto rsdp = WriteAcpiTables((*ram)->memory(), {.vp_count = 64});
  ASSERT_TRUE(rsdp.ok());
  const std::vector<uint8_t> before(At(machine::kAcpiStart, 0x10000),
                                    At(machine::kAcpiStart, 0x10000) + 0x10000);
  const uint8_t reset = *At(machine::kResetVector, 1);
  ASSERT_TRUE(WriteSmbiosTables((*ram)->memory(), {.asset_tag = std::string(64, 'x')}).ok());
  EXPECT_EQ(std::memcmp(before.data(), At(machine::kAcpiStart, 0x10000), 0x10000), 0);
  EXPECT_EQ(*At(machine::kResetVector, 1), reset);
}

}  // namespace
}  // namespace partita
