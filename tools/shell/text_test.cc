#include "tools/shell/text.h"

#include <clocale>
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

namespace partita::shell {
namespace {

TEST(Text, ComparesAsciiWithoutCaseAndLeavesOtherBytes) {
  EXPECT_TRUE(EqualsFold("VMSwitch", "vmsWITCH"));
  EXPECT_FALSE(EqualsFold("a", "ab"));
  EXPECT_LT(CompareFold("a", "B"), 0);
  EXPECT_FALSE(EqualsFold("\xC3\x84", "\xC3\xA4"));
  EXPECT_TRUE(StartsWithFold("Get-VM", "gET"));
}

TEST(Text, WildcardsAreThoseOfPowerShell) {
  struct {
    const char* pattern;
    const char* text;
    bool matches;
  } const kCases[] = {
      {"web*", "WEB1", true},   {"web?", "web12", false}, {"*", "", true},     {"", "a", false},
      {"[a-c]x", "Bx", true},   {"[a-c]x", "dx", false},  {"a`*", "a*", true}, {"a`*", "ab", false},
      {"*a*b", "xaxbxb", true}, {"[", "[", true},         {"a]", "a]", true},  {"**", "abc", true},
  };
  for (const auto& c : kCases)
    EXPECT_EQ(WildcardMatch(c.pattern, c.text), c.matches) << c.pattern << " " << c.text;
}

TEST(Text, ManyStarsAgainstLongTextEnd) {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "*a";
  EXPECT_FALSE(WildcardMatch(pattern + "b", std::string(20000, 'a')));
}

TEST(Text, NothingThatSteersATerminalGetsThrough) {
  EXPECT_EQ(Printable("a\x1B[31m\nb"), "a\\x1B[31m\\x0Ab");
  EXPECT_EQ(Printable("a\nb\tc\r", true), "a\nb\tc\\x0D");
  EXPECT_EQ(Printable("\xC2\x9B"
                      "31m"),
            "\\x9B31m");  // CSI as one C1 character
  EXPECT_EQ(Printable("\xE2\x80\xAE"
                      "x"),
            "\\u{202E}x");  // right-to-left override
  EXPECT_EQ(Printable("\xFF\xC0\x80\xED\xA0\x80"), "\\xFF\\xC0\\x80\\xED\\xA0\\x80");
  EXPECT_EQ(Printable("gr\xC3\xBC\xC3\x9F \xE4\xB8\xAD"), "gr\xC3\xBC\xC3\x9F \xE4\xB8\xAD");
}

TEST(Text, WidthCountsColumns) {
  EXPECT_EQ(DisplayWidth("gr\xC3\xBC"), 3U);
  EXPECT_EQ(DisplayWidth("\xE4\xB8\xAD"), 2U);
  EXPECT_EQ(DisplayWidth("e\xCC\x81"), 1U);
  EXPECT_EQ(Shorten("abcdefgh", 6), "abc...");
  EXPECT_EQ(Shorten("\xE4\xB8\xAD\xE4\xB8\xAD\xE4\xB8\xAD", 5), "\xE4\xB8\xAD...");
  EXPECT_EQ(Shorten("abc", 2), "..");
  EXPECT_EQ(PadLeft("7", 3) + PadRight("x", 3), "  7x  ");
}

// The rule is that no source of the shell asks the locale: it holds under any, installed here or
// not.
TEST(Text, NoSourceOfTheShellAsksTheLocale) {
  int read = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SHELL_SOURCES)) {
    const std::string path = entry.path().string();
    if (!(path.ends_with(".cc") || path.ends_with(".h")) || path.ends_with("_test.cc")) continue;
    std::ifstream in(path);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    ++read;
    for (const char* word : {"toupper(", "tolower(", "isalpha(", "isspace(", "strtod", "strtol",
                             "std::sto", "strcoll", "strcasecmp", "setlocale(", "std::locale",
                             "std::regex", "stringstream", "strftime", "printf("}) {
      EXPECT_EQ(text.find(word), std::string::npos) << path << " uses " << word;
    }
  }
  EXPECT_GT(read, 5);
}

}  // namespace
}  // namespace partita::shell
