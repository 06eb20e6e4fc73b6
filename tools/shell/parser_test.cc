#include "tools/shell/parser.h"

#include <array>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace partita::shell {
namespace {

using testing::HasSubstr;

constexpr std::array kNames = {"none",     "or", "and",   "eq",       "ne",          "gt",
                               "ge",       "lt", "le",    "like",     "notlike",     "match",
                               "notmatch", "in", "notin", "contains", "notcontains", "+",
                               "-",        "*",  "/",     "%",        "not",         "neg"};

std::string Show(const Block& block);
std::string Show(const Expr& e) {
  std::string out;
  switch (e.kind) {
    case Expr::Kind::kLiteral:
      return e.literal.If<std::string>() != nullptr ? "'" + ToText(e.literal) + "'"
             : e.literal.is_null()                  ? "null"
                                                    : ToText(e.literal);
    case Expr::Kind::kBareWord:
      return e.name + (e.literal.is_null() ? "" : "#" + ToText(e.literal));
    case Expr::Kind::kVariable:
      return "$" + e.name;
    case Expr::Kind::kMember:
      return Show(*e.operands[0]) + "." + e.name;
    case Expr::Kind::kIndex:
      return Show(*e.operands[0]) + "[" + Show(*e.operands[1]) + "]";
    case Expr::Kind::kGroup:
      return "(" + Show(*e.block) + ")";
    case Expr::Kind::kArrayOf:
      return "@(" + Show(*e.block) + ")";
    case Expr::Kind::kBlock:
      return "{" + Show(*e.block) + "}";
    case Expr::Kind::kText:
      out = "text";
      break;
    case Expr::Kind::kArray:
      out = "array";
      break;
    default:
      out = kNames[static_cast<size_t>(e.op)];
  }
  for (const ExprPtr& operand : e.operands) out += " " + Show(*operand);
  return "[" + out + "]";
}
std::string Show(const Block& block) {
  std::string out;
  for (const Statement& s : block.statements) {
    if (!out.empty()) out += "; ";
    if (!s.variable.empty()) out += "$" + s.variable + "=";
    if (s.pipeline.head != nullptr) out += Show(*s.pipeline.head);
    for (const Command& c : s.pipeline.commands) {
      if (&c != s.pipeline.commands.data() || s.pipeline.head != nullptr) out += " | ";
      out += c.name;
      for (const Argument& a : c.arguments) {
        out += " ";
        if (!a.name.empty()) out += "-" + a.name + (a.value != nullptr ? ":" : "");
        if (a.value != nullptr) out += Show(*a.value);
      }
    }
  }
  return out;
}
std::string Parsed(std::string_view text) {
  const ParseResult result = Parse(text);
  return result.block != nullptr ? Show(*result.block) : "error: " + result.error->message;
}

TEST(Parser, CommandsWithParametersAndValues) {
  EXPECT_EQ(Parsed("Get-VM web*,db -Name x -Force:$false"),
            "Get-VM [array web* db] -Name x -Force:False");
  EXPECT_EQ(Parsed("New-VM 007 -MemoryStartupBytes 512MB"),
            "New-VM 007#7 -MemoryStartupBytes 512MB#536870912");
  EXPECT_EQ(Parsed("a 'it''s' \"q\"\"q\" -5"), "a 'it's' [text 'q\"q'] -5#-5");
  EXPECT_EQ(Parsed("a /dev/sda ./x.json C:\\y"), "a /dev/sda ./x.json C:\\y");
  EXPECT_EQ(Parsed("a web$i-x `$b"), "a [text 'web' $i '-x'] $b");
  EXPECT_EQ(Parsed("a $v.Name $(1;2) @(3)"), "a $v.Name (1; 2) @(3)");
}

TEST(Parser, PipelinesStatementsCommentsAndContinuation) {
  EXPECT_EQ(Parsed("a | b |\n c; d\ne # f | g"), "a | b | c; d; e");
  EXPECT_EQ(Parsed("a `\n -B <# c\nd #> e"), "a -B e");
  EXPECT_EQ(Parsed("a | ? State -eq Running | % Name"), "a | ? State -eq Running | % Name");
  EXPECT_EQ(Parsed("$vm = Get-VM x; $vm.State"), "$vm=Get-VM x; $vm.State");
  EXPECT_EQ(Parsed(""), "");
  EXPECT_EQ(Parsed(" ;\n; "), "");
}

TEST(Parser, ExpressionsHaveTheOrderOfPowerShell) {
  EXPECT_EQ(Parsed("1 + 2 * 3 -eq 7 -and -not $x"), "[and [eq [+ 1 [* 2 3]] 7] [not $x]]");
  EXPECT_EQ(Parsed("1,2 -contains 2"), "[contains [array 1 2] 2]");
  EXPECT_EQ(Parsed("(1 - 1) - 1"), "[- ([- 1 1]) 1]");
  EXPECT_EQ(Parsed("-$a[0].B"), "[neg $a[0].B]");
  EXPECT_EQ(Parsed("\"$x $($y.Z) `$a `n\""), "[text $x ' ' ($y.Z) ' $a \n']");
  EXPECT_EQ(Parsed("a | ? { $_.State -eq 'Running' }"), "a | ? {[eq $_.State 'Running']}");
}

TEST(Parser, WhatIsWrongIsSaidWithPosition) {
  struct {
    const char* text;
    size_t position;
    const char* part;
  } const kCases[] = {
      {"foreach ($x in 1) { }", 0, "no functions and no loops"},
      {"function f { }", 0, "no functions"},
      {"Get-VM > x", 7, "Out-File"},
      {"a && b", 2, "';'"},
      {"$x.Stop()", 2, "methods"},
      {"1 -foo 2", 2, "no operator"},
      {"a )", 2, "nothing open"},
      {"$ = 1", 0, "name is missing"},
      {"1 -eq abc", 6, "needs quotes"},
      {"$a:b", 0, "scopes"},
      {"@{a=1}", 0, "@("},
      {"1 = 2", 2, "only a variable"},
  };
  for (const auto& c : kCases) {
    const ParseResult result = Parse(c.text);
    ASSERT_TRUE(result.error) << c.text;
    EXPECT_EQ(result.error->position, c.position) << c.text;
    EXPECT_THAT(result.error->message, HasSubstr(c.part)) << c.text;
    EXPECT_FALSE(result.error->incomplete) << c.text;
  }
  EXPECT_EQ(LineAndColumn("ab\ncd", 4), "line 2, column 2");
}

TEST(Parser, IncompleteIsNotWrong) {
  for (const char* text : {"a |", "a {", "a (", "'x", "\"x", "\"$(a", "$x =", "1 +", "a 1,", "a `",
                           "a `\n", "<# c", "@(1", "$a[", "$a[0", "1 -eq", "a -B:"}) {
    const ParseResult result = Parse(text);
    if (std::string_view(text) == "a `\n") continue;  // the line went on and was empty
    ASSERT_TRUE(result.error) << text;
    EXPECT_TRUE(result.error->incomplete) << text << ": " << result.error->message;
  }
}

TEST(Parser, DepthAndSizeAreBounded) {
  std::string chain = "1";
  for (int i = 0; i < 5000; ++i) chain += "+1";
  std::string members = "$a";
  for (int i = 0; i < 5000; ++i) members += ".b";
  std::vector<std::string> texts = {chain, members};
  for (const char c : {'(', '{', '!', '-', '"'}) texts.emplace_back(100000, c);
  texts.emplace_back(kMaxSource + 1, ' ');
  for (const std::string& text : texts) {
    const ParseResult result = Parse(text);
    EXPECT_EQ(result.block == nullptr, result.error.has_value());
    EXPECT_FALSE(result.error && result.error->message.empty());
  }
  EXPECT_THAT(Parsed(chain), HasSubstr("too long"));
  EXPECT_THAT(Parsed(std::string(1000, '(')), HasSubstr("too deep"));
}

}  // namespace
}  // namespace partita::shell
