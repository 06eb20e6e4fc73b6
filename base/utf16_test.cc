#include "base/utf16.h"

#include <gtest/gtest.h>

namespace partita {
namespace {

std::span<const std::byte> Units(std::u16string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Utf16, ThereAndBack) {
  for (const char* text : {"", "plain",
                           "gr\xc3\xbc\xc3\x9f"
                           "e",
                           "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(Utf8FromUtf16(Utf16FromUtf8(text)), text);
  }
  EXPECT_EQ(Utf8FromUtf16(Units(u"\U0001F600")), "\xf0\x9f\x98\x80");
}

TEST(Utf16, WhatIsNotWellFormedBecomesTheReplacement) {
  const char16_t kLoneHigh[] = {0xd83d, u'x'}, kLoneLow[] = {0xde00};
  EXPECT_EQ(Utf8FromUtf16(Units({kLoneHigh, 2})), "\xef\xbf\xbdx");
  EXPECT_EQ(Utf8FromUtf16(Units({kLoneLow, 1})), "\xef\xbf\xbd");
  // Overlong, a surrogate, beyond the last code point, cut off, a continuation without a start.
  for (const char* text : {"\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\x80"}) {
    const std::string back = Utf8FromUtf16(Utf16FromUtf8(text));
    EXPECT_EQ(back.substr(0, 3), "\xef\xbf\xbd") << text;
    EXPECT_EQ(back.size() % 3, 0u) << text;
  }
}

}  // namespace
}  // namespace partita
