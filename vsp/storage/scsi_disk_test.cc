// SCSI commands against SPC-4 and SBC-3, and against what stock Linux needs (drivers/scsi/sd.c).
#include "vsp/storage/scsi_disk.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>

namespace partita::storage {
namespace {

class NullBackend : public BlockBackend {
 public:
  explicit NullBackend(BlockProperties properties) : properties_(properties) {}
  [[nodiscard]] const BlockProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files() const override { return {}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return {}; }
  absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing&, int, LoopPoster) override {
    return Unavailable("no queue");
  }
  [[nodiscard]] absl::Status Sync() override { return absl::OkStatus(); }
  void DescribeTo(StatSink&) const override {}

 private:
  BlockProperties properties_;
};

constexpr uint64_t kBlocks = 2048;  // 1 MiB of 512-byte blocks

BlockProperties Properties(bool read_only = false) {
  return {.size = kBlocks * 512, .read_only = read_only, .discard = !read_only};
}

class ScsiDiskTest : public testing::Test {
 protected:
  ScsiOutcome Run(std::initializer_list<int> cdb, uint32_t length = 4096,
                  std::vector<uint8_t> parameters = {}) {
    std::array<uint8_t, 16> bytes{};
    size_t at = 0;
    for (const int b : cdb) bytes[at++] = static_cast<uint8_t>(b);
    return disk->Execute(bytes, length, parameters);
  }
  void ExpectSense(const ScsiOutcome& outcome, Sense sense) {
    EXPECT_EQ(outcome.kind, ScsiOutcome::Kind::kCheck);
    EXPECT_EQ(outcome.sense, sense) << int{outcome.sense.key} << "/" << int{outcome.sense.code};
  }
  std::unique_ptr<ScsiDisk> disk =
      std::make_unique<ScsiDisk>(std::make_unique<NullBackend>(Properties()),
                                 ScsiDisk::Identity{.id = {1, 2, 3}, .serial = "0011"});
};

TEST_F(ScsiDiskTest, ReadsAndWritesOfEverySize) {
  struct Case {
    std::initializer_list<int> cdb;
    BlockOp op;
    uint64_t lba, blocks;
    bool fua;
  };
  const Case cases[] = {
      {{0x08, 0, 1, 2, 3}, BlockOp::kRead, 0x102, 3, false},
      {{0x0A, 0, 0, 5, 0}, BlockOp::kWrite, 5, 256, false},  // length 0 means 256
      {{0x28, 0, 0, 0, 0, 9, 0, 0, 8}, BlockOp::kRead, 9, 8, false},
      {{0x2A, 8, 0, 0, 0, 9, 0, 0, 8}, BlockOp::kWrite, 9, 8, true},
      {{0xA8, 0, 0, 0, 1, 0, 0, 0, 0, 4}, BlockOp::kRead, 256, 4, false},
      {{0xAA, 8, 0, 0, 1, 0, 0, 0, 0, 4}, BlockOp::kWrite, 256, 4, true},
      {{0x88, 0, 0, 0, 0, 0, 0, 0, 7, 255, 0, 0, 0, 1}, BlockOp::kRead, 2047, 1, false},
      {{0x8A, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0}, BlockOp::kWrite, 0, 2048, true},
  };
  for (const Case& c : cases) {
    const ScsiOutcome outcome = Run(c.cdb, 1 << 20);
    ASSERT_EQ(outcome.kind, ScsiOutcome::Kind::kTransfer) << std::hex << *c.cdb.begin();
    EXPECT_EQ(outcome.ranges[0].op, c.op);
    EXPECT_EQ(outcome.ranges[0].offset, c.lba * 512);
    EXPECT_EQ(outcome.ranges[0].length, c.blocks * 512);
    EXPECT_EQ(outcome.ranges[0].fua, c.fua);
  }
}

TEST_F(ScsiDiskTest, RangesBeyondTheEndAreRefused) {
  ExpectSense(Run({0x28, 0, 0, 0, 8, 0, 0, 0, 1}), kLbaOutOfRange);
  ExpectSense(Run({0x28, 0, 0, 0, 7, 255, 0, 0, 2}), kLbaOutOfRange);
  ExpectSense(Run({0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 2}), kLbaOutOfRange);
  ExpectSense(Run({0x35, 0, 0, 0, 9, 0, 0, 0, 0}), kLbaOutOfRange);
  ExpectSense(Run({0x2F, 0, 0, 0, 8, 0, 0, 0, 1}), kLbaOutOfRange);
  // The very end with length 0 is legal and does nothing.
  EXPECT_EQ(Run({0x28, 0, 0, 0, 8, 0, 0, 0, 0}).kind, ScsiOutcome::Kind::kAnswer);
}

TEST_F(ScsiDiskTest, ABufferShorterThanTheTransferIsRefused) {
  ExpectSense(Run({0x2A, 0, 0, 0, 0, 0, 0, 0, 2}, 1023), kInvalidField);
  ExpectSense(Run({0x28, 0, 0, 0, 0, 0, 0, 0, 2}, 0), kInvalidField);
}

TEST_F(ScsiDiskTest, UnknownOpcodesAreInvalid) {
  for (const int opcode : {0x04, 0x3B, 0x41, 0x5E, 0x5F, 0x85, 0xA1, 0xA2, 0xA3, 0xB5, 0xFF}) {
    ExpectSense(Run({opcode}), kInvalidOpcode);
  }
  ExpectSense(Run({0x9E, 0x12}), kInvalidOpcode);  // a service action we do not have
}

TEST_F(ScsiDiskTest, InquiryAndVitalProductPages) {
  const ScsiOutcome standard = Run({0x12, 0, 0, 0, 96});
  ASSERT_EQ(standard.data.size(), 36u);
  EXPECT_EQ(standard.data[0], 0);
  EXPECT_EQ(standard.data[2], 5);
  EXPECT_EQ(standard.data[4] + 5u, standard.data.size());
  EXPECT_EQ(Run({0x12, 0, 0, 0, 10}).data.size(), 10u);
  const ScsiOutcome pages = Run({0x12, 1, 0, 0, 255});
  const std::vector<uint8_t> listed(pages.data.begin() + 4, pages.data.end());
  EXPECT_EQ(listed, (std::vector<uint8_t>{0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2}));
  for (const uint8_t page : listed) {
    // Linux discards a page whose code or length is not right.
    const ScsiOutcome outcome = Run({0x12, 1, page, 0, 255});
    ASSERT_GT(outcome.data.size(), 4u) << int{page};
    EXPECT_EQ(outcome.data[1], page);
    EXPECT_EQ(outcome.data[2] * 256u + outcome.data[3] + 4, outcome.data.size());
  }
  ExpectSense(Run({0x12, 1, 0x89, 0, 255}), kInvalidField);
  ExpectSense(Run({0x12, 0, 0x80, 0, 255}), kInvalidField);  // a page code without EVPD
  EXPECT_EQ(ScsiDisk::AbsentInquiry()[0], 0x7F);
}

TEST_F(ScsiDiskTest, CapacityAndDiscardParameters) {
  const auto ten = Run({0x25}).data;
  EXPECT_EQ(ten, (std::vector<uint8_t>{0, 0, 7, 255, 0, 0, 2, 0}));
  const auto sixteen = Run({0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32}).data;
  ASSERT_EQ(sixteen.size(), 32u);
  EXPECT_EQ(sixteen[6] * 256 + sixteen[7], 2047);
  EXPECT_EQ(sixteen[13], 3);     // 8 logical blocks in a physical one
  EXPECT_EQ(sixteen[14], 0xC0);  // thin, reads as zeroes
  const auto limits = Run({0x12, 1, 0xB0, 0, 255}).data;
  EXPECT_EQ(limits[7], 8);   // optimal granularity
  EXPECT_NE(limits[21], 0);  // unmap limit
}

TEST_F(ScsiDiskTest, ModePagesTellTheTruthAboutTheCache) {
  const auto caching = Run({0x1A, 0, 0x08, 0, 255}).data;
  ASSERT_EQ(caching.size(), 24u);
  EXPECT_EQ(caching[0], caching.size() - 1);
  EXPECT_EQ(caching[2], 0x10);       // DPO and FUA, not write protected
  EXPECT_EQ(caching[4 + 2] & 4, 4);  // write cache on: a flush is needed
  const auto ten = Run({0x5A, 0, 0x3F, 0, 0, 0, 0, 1, 0}).data;
  EXPECT_EQ(ten[0] * 256u + ten[1] + 2, ten.size());
  EXPECT_EQ(Run({0x1A, 0, 0x3F, 0, 4}).data.size(), 4u);  // truncated, with the full length inside
  EXPECT_EQ(Run({0x1A, 0, 0x3F, 0, 4}).data[0], 35);
  ExpectSense(Run({0x1A, 0, 0x1C, 0, 255}), kInvalidField);
  ExpectSense(Run({0x1A, 0, 0x0A, 1, 255}), kInvalidField);
}

TEST_F(ScsiDiskTest, UnmapAndItsBadLists) {
  std::vector<uint8_t> list(8 + 32);
  list[3] = 32;
  list[8 + 7] = 16;      // LBA 16
  list[8 + 11] = 8;      // 8 blocks
  list[8 + 16 + 6] = 1;  // LBA 256
  list[8 + 16 + 11] = 4;
  ScsiOutcome outcome = Run({0x42, 0, 0, 0, 0, 0, 0, 0, 40}, 40, list);
  ASSERT_EQ(outcome.kind, ScsiOutcome::Kind::kOperations);
  ASSERT_EQ(outcome.ranges.size(), 2u);
  EXPECT_EQ(outcome.ranges[0].op, BlockOp::kDiscard);
  EXPECT_EQ(outcome.ranges[0].offset, 16u * 512);
  EXPECT_EQ(outcome.ranges[1].offset, 256u * 512);
  EXPECT_EQ(outcome.ranges[1].length, 4u * 512);
  EXPECT_EQ(Run({0x42}).kind, ScsiOutcome::Kind::kAnswer);  // no list: nothing to do
  ExpectSense(Run({0x42, 0, 0, 0, 0, 0, 0, 0, 4}, 4, {0, 0, 0, 0}), kParameterListLength);
  ExpectSense(Run({0x42, 1, 0, 0, 0, 0, 0, 0, 40}, 40, list), kInvalidField);
  list[3] = 31;
  ExpectSense(Run({0x42, 0, 0, 0, 0, 0, 0, 0, 40}, 40, list), kInvalidParameterList);
  list[2] = 255;
  list[3] = 0xF0;  // more than came
  ExpectSense(Run({0x42, 0, 0, 0, 0, 0, 0, 0, 40}, 40, list), kInvalidParameterList);
  list[2] = 0;
  list[3] = 32;
  list[8] = 255;  // beyond the end
  ExpectSense(Run({0x42, 0, 0, 0, 0, 0, 0, 0, 40}, 40, list), kLbaOutOfRange);
}

TEST_F(ScsiDiskTest, WriteSameZeroesOrDiscards) {
  const std::vector<uint8_t> zeroes(512);
  ScsiOutcome outcome = Run({0x93, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8}, 512, zeroes);
  ASSERT_EQ(outcome.kind, ScsiOutcome::Kind::kOperations);
  EXPECT_EQ(outcome.ranges[0].op, BlockOp::kWriteZeroes);
  outcome = Run({0x93, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8}, 512, zeroes);
  EXPECT_EQ(outcome.ranges[0].op, BlockOp::kDiscard);
  outcome = Run({0x93, 1, 0, 0, 0, 0, 0, 0, 7, 0}, 0);  // no data, to the end
  EXPECT_EQ(outcome.ranges[0].length, 256u * 512);
  ExpectSense(Run({0x93, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8}, 512, std::vector<uint8_t>(512, 1)),
              kInvalidField);
  ExpectSense(Run({0x93, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8}, 100, std::vector<uint8_t>(100)),
              kInvalidField);
  ExpectSense(Run({0x93, 0x10, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8}, 512, zeroes), kInvalidField);
  ExpectSense(Run({0x93, 1, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1}, 0), kLbaOutOfRange);
}

TEST_F(ScsiDiskTest, VerifyWithAndWithoutBytes) {
  EXPECT_EQ(Run({0x2F, 0, 0, 0, 0, 1, 0, 0, 4}).kind, ScsiOutcome::Kind::kAnswer);
  EXPECT_EQ(Run({0x2F, 2, 0, 0, 0, 1, 0, 0, 4}).kind, ScsiOutcome::Kind::kVerify);
  ExpectSense(Run({0x2F, 2, 0, 0, 0, 1, 0, 0, 4}, 100), kInvalidField);
  ExpectSense(Run({0x2F, 6, 0, 0, 0, 1, 0, 0, 4}), kInvalidField);
}

TEST_F(ScsiDiskTest, ReadOnlyAndPoisonedDisksTakeNoWrites) {
  ScsiDisk read_only(std::make_unique<NullBackend>(Properties(true)), {});
  const std::array<uint8_t, 16> write = {0x2A, 0, 0, 0, 0, 0, 0, 0, 1};
  const std::array<uint8_t, 16> unmap = {0x42, 0, 0, 0, 0, 0, 0, 0, 24};
  const std::array<uint8_t, 16> sense = {0x1A, 0, 0x3F, 0, 4};
  ExpectSense(read_only.Execute(write, 512, {}), kWriteProtected);
  ExpectSense(read_only.Execute(unmap, 24, {}), kWriteProtected);
  EXPECT_EQ(read_only.Execute(sense, 4, {}).data[2] & 0x80, 0x80);
  disk->Poison();
  ExpectSense(disk->Execute(write, 512, {}), kWriteError);
  ExpectSense(Run({0x35}), kWriteError);  // a failed flush is never followed by a success
  EXPECT_EQ(Run({0x28, 0, 0, 0, 0, 0, 0, 0, 1}).kind, ScsiOutcome::Kind::kTransfer);
}

}  // namespace
}  // namespace partita::storage
