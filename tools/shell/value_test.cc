#include "tools/shell/value.h"

#include <limits>

#include "gtest/gtest.h"

namespace partita::shell {
namespace {

TEST(Value, NumbersOfTheLanguage) {
  EXPECT_EQ(*ParseNumber("512MB").If<int64_t>(), 512LL << 20);
  EXPECT_EQ(*ParseNumber("1.5gb").If<int64_t>(), 3LL << 29);
  EXPECT_EQ(*ParseNumber("2PB").If<int64_t>(), 2LL << 50);
  EXPECT_EQ(*ParseNumber("-3").If<int64_t>(), -3);
  EXPECT_EQ(*ParseNumber("0x1F").If<int64_t>(), 31);
  EXPECT_EQ(*ParseNumber("2.5").If<double>(), 2.5);
  EXPECT_EQ(*ParseNumber("1e3").If<double>(), 1000);
  EXPECT_GT(*ParseNumber("99999999999999999999").If<double>(), 9e19);
  for (const char* no :
       {"", "abc", "1x", "-", "0x", "0x-1", "1 ", "MB", "1,5", "inf", "nan", "--1"}) {
    EXPECT_TRUE(ParseNumber(no).is_null()) << no;
  }
}

TEST(Value, TextOfEveryType) {
  EXPECT_EQ(ToText({}), "");
  EXPECT_EQ(ToText(true), "True");
  EXPECT_EQ(ToText(0.1), "0.1");
  EXPECT_EQ(ToText(Size{1536}), "1536");
  EXPECT_EQ(ToDisplay(Size{1536}), "1.5 KB");
  EXPECT_EQ(ToDisplay(Size{512LL << 20}), "512 MB");
  EXPECT_EQ(ToText(DateTime{951782400000}), "2000-02-29T00:00:00Z");
  EXPECT_EQ(ToText(DateTime{-1}), "1969-12-31T23:59:59.999Z");
  EXPECT_EQ(ToText(TimeSpan{(26 * 3600 + 61) * 1000 + 5}), "1.02:01:01.005");
  EXPECT_EQ(ToText(TimeSpan{-1000}), "-00:00:01");
  EXPECT_EQ(ToText(TimeSpan{std::numeric_limits<int64_t>::min()}), "-106751991167.07:12:55.808");
  EXPECT_EQ(ToText(Array{1, "a", Array{2}}), "1 a Object[]");
  EXPECT_EQ(ToDisplay(Array{1, "a"}), "{1, a}");
  EXPECT_EQ(ToText(Object("VM").Add("Name", "web")), "web");
  EXPECT_EQ(ToText(Object("X").Add("A", 1).Add("B", Array{})), "@{A=1; B=Object[]}");
}

TEST(Value, TheLeftSideDecidesHowToCompare) {
  EXPECT_TRUE(Equal("Running", "RUNNING"));
  EXPECT_TRUE(Equal("10", 10));
  EXPECT_TRUE(Equal(10, "10"));
  EXPECT_FALSE(Equal(10, "ten"));
  EXPECT_FALSE(Compare(10, "ten").has_value());
  EXPECT_LT(*Compare("10", 9), 0);  // as text
  EXPECT_GT(*Compare(10, "9"), 0);  // as numbers
  EXPECT_TRUE(Equal(Size{1024}, 1024));
  EXPECT_TRUE(Equal(true, 1));
  EXPECT_TRUE(Equal({}, {}));
  EXPECT_FALSE(Equal({}, 0));
  EXPECT_FALSE(Equal("", {}));
  EXPECT_TRUE(Equal(EnumName{"Running", 2}, "running"));
  EXPECT_GT(*Compare(EnumName{"Off", 3}, EnumName{"Running", 2}), 0);
  EXPECT_GT(*Compare(TimeSpan{61000}, "00:01"), 0);
  // 2^53 + 1 is not lost on the way through a double.
  EXPECT_LT(*Compare(int64_t{9007199254740992}, int64_t{9007199254740993}), 0);
}

TEST(Value, Truth) {
  for (const Value& yes :
       {Value(true), Value(1), Value("0"), Value(Array{0, 0}), Value(Object("x"))})
    EXPECT_TRUE(ToBool(yes));
  for (const Value& no :
       {Value(), Value(false), Value(0), Value(""), Value(Array{}), Value(Array{0})})
    EXPECT_FALSE(ToBool(no));
}

TEST(Value, Conversions) {
  EXPECT_EQ(ToInt("0x10"), 16);
  EXPECT_EQ(ToInt(2.5), 2);  // to even, as PowerShell
  EXPECT_EQ(ToInt(1e30), std::nullopt);
  EXPECT_EQ(ToInt("x"), std::nullopt);
  EXPECT_EQ(ToTimeSpan(90)->milliseconds, 90000);
  EXPECT_EQ(ToTimeSpan("1.02:03")->milliseconds, ((24 + 2) * 60 + 3) * 60000LL);
  for (const char* no : {"1:2:3:4", ":", "25:00", "x", "1.x:00"})
    EXPECT_FALSE(ToTimeSpan(no)) << no;
}

TEST(Value, MembersOfObjectsArraysAndSpans) {
  const Value vm = Object("VM").Add("Name", "a").Add("Id", 7, true);
  EXPECT_EQ(ToText(Member(vm, "NAME")), "a");
  EXPECT_EQ(ToText(Member(vm, "id")), "7");
  EXPECT_TRUE(Member(vm, "none").is_null());
  EXPECT_EQ(ToText(Member(Array{vm, vm}, "Name")), "a a");
  EXPECT_EQ(*Member(Array{vm, vm}, "Count").If<int64_t>(), 2);
  EXPECT_EQ(*Member({}, "Count").If<int64_t>(), 0);
  EXPECT_EQ(*Member(TimeSpan{90000}, "TotalMinutes").If<double>(), 1.5);
  EXPECT_EQ(*Member("abc", "Length").If<int64_t>(), 3);
}

TEST(Value, SortingPutsNullFirstAndOrdersWhatHasNoOrder) {
  EXPECT_LT(SortOrder({}, 1), 0);
  EXPECT_LT(SortOrder(9, 10), 0);
  EXPECT_LT(SortOrder(1, "x"), 0);
  EXPECT_EQ(SortOrder(Object("a").Add("Name", "n"), Object("b").Add("Name", "N")), 0);
}

}  // namespace
}  // namespace partita::shell
