#include "vmbus/server/gpadl_table.h"

#include <gtest/gtest.h>

#include <vector>

namespace partita::vmbus {
namespace {

using Added = GpadlTable::Added;
using Key = GpadlTable::Key;

std::vector<std::byte> Pfns(uint64_t first, size_t count) {
  std::vector<uint64_t> pfns(count);
  for (size_t i = 0; i < count; ++i) pfns[i] = first + i;
  const auto bytes = std::as_bytes(std::span(pfns));
  return {bytes.begin(), bytes.end()};
}

GpadlHeader Header(const Key& key, size_t pages) {
  GpadlHeader header{};
  header.relid = key.relid;
  header.gpadl = key.handle;
  header.range_count = 1;
  header.range_buffer_length = static_cast<uint16_t>(8 + 8 * pages);
  header.byte_count = static_cast<uint32_t>(pages * kRingPage);
  return header;
}

TEST(GpadlTableTest, ArrivesInPieces) {
  GpadlTable table({});
  EXPECT_EQ(table.Begin(Header({3, 7}, 5), Pfns(100, 2)), Added::kMore);
  EXPECT_EQ(table.Find({3, 7}), nullptr) << "incomplete";
  EXPECT_EQ(table.Lend({3, 7}), 0u);
  auto piece = table.Continue(7, Pfns(102, 1));
  EXPECT_EQ(piece.result, Added::kMore);
  EXPECT_EQ(piece.key, (Key{3, 7}));
  EXPECT_EQ(table.Continue(7, Pfns(103, 9)).result, Added::kComplete)
      << "what is too much is dropped";
  ASSERT_NE(table.Find({3, 7}), nullptr);
  EXPECT_EQ(table.Find({3, 7})->pfns, (std::vector<uint64_t>{100, 101, 102, 103, 104}));
  EXPECT_EQ(table.Continue(7, Pfns(1, 1)).result, Added::kInvalid) << "nothing is missing";
  EXPECT_EQ(table.pages(), 5u);
}

TEST(GpadlTableTest, WhatContradictsItselfIsRefused) {
  GpadlTable table({});
  const auto refused = [&](auto change) {
    GpadlHeader header = Header({1, 1}, 2);
    change(header);
    return table.Begin(header, Pfns(0, 2)) == Added::kInvalid && table.pages() == 0;
  };
  EXPECT_TRUE(refused([](GpadlHeader& h) { h.range_count = 2; }));
  EXPECT_TRUE(refused([](GpadlHeader& h) { h.byte_count = 0; }));
  EXPECT_TRUE(refused([](GpadlHeader& h) { h.byte_offset = kRingPage; }));
  EXPECT_TRUE(refused([](GpadlHeader& h) { h.range_buffer_length += 8; }));
  EXPECT_TRUE(refused([](GpadlHeader& h) { h.byte_count = UINT32_MAX; }));
  // A length that is right only modulo 2^16.
  EXPECT_TRUE(refused([](GpadlHeader& h) {
    h.byte_count = static_cast<uint32_t>((8192 + 2) * kRingPage);
    h.range_buffer_length = 8 + 8 * 2;
  }));
  EXPECT_EQ(table.Begin(Header({1, 1}, 2), Pfns(0, 2)), Added::kComplete);
  EXPECT_EQ(table.Begin(Header({1, 1}, 2), Pfns(0, 2)), Added::kInvalid) << "twice";
  EXPECT_EQ(table.Begin(Header({1, 2}, 2), Pfns(0, 1)), Added::kMore);
  EXPECT_EQ(table.Begin(Header({9, 2}, 2), Pfns(0, 1)), Added::kInvalid)
      << "a body names no channel, so an open handle must be one of its kind";
}

TEST(GpadlTableTest, BothLimitsHold) {
  GpadlTable table({.gpadls = 3, .pages = 10});
  EXPECT_EQ(table.Begin(Header({1, 1}, 8), Pfns(0, 1)), Added::kMore) << "counts at once";
  EXPECT_EQ(table.Begin(Header({1, 2}, 3), Pfns(0, 3)), Added::kOverLimit);
  EXPECT_EQ(table.Begin(Header({1, 3}, 1), Pfns(0, 1)), Added::kComplete);
  EXPECT_EQ(table.Begin(Header({1, 4}, 1), Pfns(0, 1)), Added::kComplete);
  EXPECT_EQ(table.pages(), 10u);
  table.Erase({1, 1});
  EXPECT_EQ(table.pages(), 2u);
  EXPECT_EQ(table.Continue(1, Pfns(0, 7)).result, Added::kInvalid) << "gone while it arrived";
  EXPECT_EQ(table.Begin(Header({1, 1}, 1), Pfns(0, 1)), Added::kComplete);
  EXPECT_EQ(table.Begin(Header({1, 5}, 1), Pfns(0, 1)), Added::kOverLimit) << "three are there";
}

TEST(GpadlTableTest, EndsWithItsLastUser) {
  GpadlTable table({});
  const Key key = {1, 1};
  ASSERT_EQ(table.Begin(Header(key, 1), Pfns(5, 1)), Added::kComplete);
  EXPECT_TRUE(table.WantBack(key, false)) << "nobody has it";
  const uint64_t loan = table.Lend(key);
  ASSERT_NE(loan, 0u);
  EXPECT_EQ(table.Lend(key), loan);
  EXPECT_FALSE(table.Return(key, loan)) << "nobody asked for it";
  EXPECT_FALSE(table.WantBack(key, false));
  EXPECT_EQ(table.Lend(key), 0u) << "on its way out";
  EXPECT_TRUE(table.Due(1).empty());
  EXPECT_TRUE(table.Return(key, loan));
  EXPECT_EQ(table.Due(1), std::vector<Key>{key});
}

TEST(GpadlTableTest, ALoanOfAnEarlierOneWithTheSameHandleIsNobodys) {
  GpadlTable table({});
  const Key key = {1, 1};
  ASSERT_EQ(table.Begin(Header(key, 1), Pfns(5, 1)), Added::kComplete);
  const uint64_t old = table.Lend(key);
  table.EraseOf(1);
  ASSERT_EQ(table.Begin(Header(key, 1), Pfns(6, 1)), Added::kComplete);
  const uint64_t loan = table.Lend(key);
  EXPECT_FALSE(table.WantBack(key, false));
  EXPECT_FALSE(table.Return(key, old));
  EXPECT_FALSE(table.Return(key, 0));
  EXPECT_TRUE(table.Return(key, loan));
}

TEST(GpadlTableTest, ARingIsKeptUntilItsChannelHasClosed) {
  GpadlTable table({});
  ASSERT_EQ(table.Begin(Header({1, 1}, 1), Pfns(5, 1)), Added::kComplete);
  ASSERT_EQ(table.Begin(Header({2, 2}, 1), Pfns(3, 1)), Added::kComplete);
  EXPECT_FALSE(table.WantBack({1, 1}, true));
  EXPECT_TRUE(table.Due(2).empty());
  EXPECT_EQ(table.Due(1), (std::vector<Key>{{1, 1}}));
  EXPECT_EQ(table.SharedPages(), (std::vector<uint64_t>{3, 5}));
  table.Clear();
  EXPECT_EQ(table.pages(), 0u);
  EXPECT_FALSE(table.Contains({2, 2}));
}

}  // namespace
}  // namespace partita::vmbus
