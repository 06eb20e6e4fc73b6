#include "tools/shell/completion.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/shell/program.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

class FakeNames : public NameSource {
 public:
  std::vector<std::string> Names(std::string_view kind) override {
    asked.emplace_back(kind);
    return {"web1", "Web2", "db", "my vm"};
  }
  std::vector<std::string> Variables() override { return {"vm", "count"}; }
  std::vector<std::string> Paths(std::string_view prefix) override {
    return prefix.substr(0, 1) == "/" ? std::vector<std::string>{"/boot/", "/bin/"}
                                      : std::vector<std::string>{};
  }
  std::vector<std::string> asked;
};

class CompletionTest : public testing::Test {
 protected:
  std::vector<std::string> At(std::string_view text) {
    completion_ = Complete(text, table_, &names_);
    return completion_.candidates;
  }
  CmdletTable table_ = AllCmdlets();
  FakeNames names_;
  Completion completion_;
};

TEST_F(CompletionTest, VerbsThenCmdlets) {
  EXPECT_THAT(At("res"), ElementsAre("Restart-", "Resume-"));
  EXPECT_THAT(At("get-vmn"), ElementsAre("Get-VMNetworkAdapter"));
  EXPECT_THAT(At("Get-VM | so"), ElementsAre("Sort-"));
  EXPECT_EQ(completion_.begin, 9U);
  EXPECT_THAT(At("$x = get-vmho"), ElementsAre("Get-VMHost"));
  EXPECT_THAT(At("1 | % { Stop-V"), ElementsAre("Stop-VM"));
  EXPECT_THAT(At("Nothing-There -"), IsEmpty());
}

TEST_F(CompletionTest, Parameters) {
  EXPECT_THAT(At("Stop-VM web1 -t"), ElementsAre("-TurnOff"));
  EXPECT_THAT(At("spvm -TurnOff -"), testing::Not(Contains("-TurnOff")));
  EXPECT_THAT(At("spvm -"), Contains("-WhatIf"));
}

TEST_F(CompletionTest, ValuesByNameAndByPosition) {
  EXPECT_THAT(At("Stop-VM w"), ElementsAre("web1", "Web2"));
  EXPECT_THAT(At("Stop-VM -Force w"), ElementsAre("web1", "Web2"));
  EXPECT_THAT(At("Stop-VM -VMName D"), ElementsAre("db"));
  EXPECT_THAT(At("Stop-VM web1,d"), ElementsAre("web1,db"));
  EXPECT_THAT(At("Stop-VM m"), ElementsAre("'my vm'"));
  EXPECT_THAT(At("Stop-VM 'my"), ElementsAre("'my vm'"));
  EXPECT_EQ(completion_.begin, 8U);
  EXPECT_THAT(At("Wait-VM db -For I"), ElementsAre("IPAddress"));
  EXPECT_THAT(At("Wait-VM db -For:I"), ElementsAre("-For:IPAddress"));
  EXPECT_THAT(At("New-VM x -KernelPath /b"), ElementsAre("/bin/", "/boot/"));
  EXPECT_THAT(At("Set-VM db -RestartOnCrash "), ElementsAre("$false", "$true"));
  EXPECT_THAT(At("Get-Help get-vmho"), ElementsAre("Get-VMHost"));
  EXPECT_THAT(At("Add-VMHardDiskDrive db /b"), ElementsAre("/bin/", "/boot/"));
}

TEST_F(CompletionTest, Variables) {
  EXPECT_THAT(At("Stop-VM $v"), ElementsAre("$vm"));
  EXPECT_THAT(At("$"), ElementsAre("$count", "$false", "$null", "$true", "$vm"));
}

TEST_F(CompletionTest, TheServiceIsAskedWhereItsNamesBelongAlone) {
  At("Get-V");
  At("Get-VM -");
  At("Wait-VM db -For ");
  EXPECT_THAT(names_.asked, IsEmpty());
  At("Get-VM ");
  EXPECT_THAT(names_.asked, ElementsAre("VM"));
}

TEST_F(CompletionTest, EveryValueThatIsOfferedBinds) {
  // Enumerations and names of parameters come from the table the binder works by.
  for (const CmdletInfo& info : table_.cmdlets()) {
    for (const Parameter& p : info.parameters) {
      EXPECT_THAT(At(info.Name() + " -" + p.name), Contains("-" + p.name));
      for (const std::string& value : p.values)
        EXPECT_THAT(At(info.Name() + " -" + p.name + " " + value), Contains(value));
    }
  }
}

TEST_F(CompletionTest, AnyTextIsTaken) {
  for (const char* text : {"", " ", "'", "\"", "|", "-", "$", "a 'b", "Get-VM -:", "Get-VM -Name:",
                           "Get-VM ,", "}{)(", "\xFF\xFE Get", "Get-VM web1 -", "Get-VM\n"}) {
    At(text);
    EXPECT_LE(completion_.begin, std::string_view(text).size()) << text;
  }
  EXPECT_EQ(CommonPrefix({"web1", "Web2"}), "web");
  EXPECT_EQ(CommonPrefix({}), "");
}

}  // namespace
}  // namespace partita::shell
