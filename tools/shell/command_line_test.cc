#include "tools/shell/command_line.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/shell/parser.h"
#include "tools/shell/program.h"

namespace partita::shell {
namespace {

bool OnlyScript(const std::string& path) { return path == "make.ps1" || path == "dir/x"; }

Invocation Parsed(const std::vector<std::string>& arguments) {
  Result<Invocation> out = ParseCommandLine(arguments, AllCmdlets(), OnlyScript);
  EXPECT_TRUE(out.ok());
  return out.ok() ? *out : Invocation();
}

TEST(CommandLineTest, WhatTheSystemsShellTookApartStaysApart) {
  struct {
    std::vector<std::string> arguments;
    const char* line;
  } const kCases[] = {
      {{"Get-VM", "web*", "-Name", "a,b"}, "Get-VM web* -Name a,b"},
      {{"New-VM", "my vm", "-Notes:it's a"}, "New-VM 'my vm' -Notes:'it''s a'"},
      {{"Get-VM", "|", "?", "{ $_.State -eq 'Off' }"}, "Get-VM | ? { $_.State -eq 'Off' }"},
      {{"New-VM", "x", "-KernelCommandLine", "root=/dev/sda console=ttyS0"},
       "New-VM x -KernelCommandLine 'root=/dev/sda console=ttyS0'"},
      {{"Write-Output", "", "$x", "$(2)", "a;b", "#1"}, "Write-Output '' $x '$(2)' 'a;b' '#1'"},
      {{"Remove-VM", "x", "-Confirm:$false"}, "Remove-VM x -Confirm:$false"},
  };
  for (const auto& c : kCases) {
    EXPECT_EQ(LineOf(c.arguments), c.line);
    EXPECT_FALSE(Parse(LineOf(c.arguments)).error.has_value()) << c.line;
  }
}

TEST(CommandLineTest, WhoTakesTheArguments) {
  const CmdletTable table = AllCmdlets();
  for (const auto& arguments : std::vector<std::vector<std::string>>{{},
                                                                     {"get-command"},
                                                                     {"gcm"},
                                                                     {"Gte-Command"},
                                                                     {"--json", "gcm"},
                                                                     {"-c", "1"},
                                                                     {"gcm | select -first 1"},
                                                                     {"make.ps1"}}) {
    EXPECT_TRUE(IsForShell(arguments, table, OnlyScript));
  }
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"--help"}, {"-h"}, {"rnu"}, {"--version"}, {"-x"}, {"other.ps1"}}) {
    EXPECT_FALSE(IsForShell(arguments, table, OnlyScript)) << arguments[0];
  }
}

TEST(CommandLineTest, OptionsStandAnywhereAndAScriptHasArguments) {
  Invocation one = Parsed({"Get-Command", "--json", "a b", "--json-errors"});
  EXPECT_EQ(one.kind, Invocation::Kind::kText);
  EXPECT_EQ(one.text, "Get-Command 'a b'");
  EXPECT_EQ(one.format, OutputFormat::kJson);
  EXPECT_TRUE(one.json_errors);
  one = Parsed({"--csv", "-c", "1 | % { $_ }", "x"});
  EXPECT_EQ(one.text, "1 | % { $_ }");
  EXPECT_EQ(one.format, OutputFormat::kCsv);
  EXPECT_THAT(one.arguments, testing::ElementsAre("x"));
  one = Parsed({"make.ps1", "a", "-b"});
  EXPECT_EQ(one.kind, Invocation::Kind::kFile);
  EXPECT_EQ(one.text, "make.ps1");
  EXPECT_THAT(one.arguments, testing::ElementsAre("a", "-b"));
  EXPECT_EQ(Parsed({"--jsonl"}).kind, Invocation::Kind::kStandardInput);
  EXPECT_EQ(Parsed({"gcm | select -first 1"}).text, "gcm | select -first 1");
  EXPECT_EQ(Parsed({"echo", "--", "--json"}).text, "echo --json");
}

TEST(CommandLineTest, WrongOptionsAreSaid) {
  EXPECT_FALSE(ParseCommandLine({"-c"}, AllCmdlets(), OnlyScript).ok());
  Result<Invocation> wrong = ParseCommandLine({"gcm", "--yaml"}, AllCmdlets(), OnlyScript);
  ASSERT_FALSE(wrong.ok());
  EXPECT_THAT(wrong.error().message, testing::HasSubstr("--yaml"));
}

}  // namespace
}  // namespace partita::shell
