#include "tools/shell/session.h"

#include <clocale>
#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/help_text.h"
#include "tools/shell/render.h"

namespace partita::shell {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class TestConsole : public Console {
 public:
  void Out(std::string_view text) override { out += text; }
  void Err(std::string_view text) override { err += text; }
  Answer Ask(std::string_view question) override {
    asked.emplace_back(question);
    return answer;
  }
  std::string out;
  std::string err;
  std::vector<std::string> asked;
  Answer answer = Answer::kNo;
};

// A source of "VMs" that counts what it made, fails for one name, and can be stopped in the middle.
int g_made = 0;
class GetThing : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    for (const std::string& name : bound.Texts("Name")) {
      if (name == "missing" || name == "denied") {
        ErrorRecord error;
        error.id = "ThingNotFound";
        error.category =
            name == "denied" ? ErrorCategory::kPermissionDenied : ErrorCategory::kNotFound;
        error.message = "there is no thing '" + name + "'";
        context.Error(std::move(error));
        if (context.stopped()) return;
        continue;
      }
      ++g_made;
      context.Verbose("reading " + name);
      Object vm("VM");
      vm.Add("Name", name)
          .Add("State", EnumName{name == "web1" ? "Running" : "Off", name == "web1" ? 2 : 3});
      vm.Add("CPUUsage", 7)
          .Add("MemoryAssigned", Size{512 << 20})
          .Add("Uptime", TimeSpan{93784000});
      vm.Add("Status", "Operating normally").Add("Version", "10.0").Add("Id", 42, true);
      if (!context.Write(std::move(vm))) return;
    }
  }
};
class StopThing : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    for (const std::string& name : bound.Texts("Name")) {
      if (context.ShouldProcess(name, "Stop-VM")) context.Write("stopped " + name);
    }
  }
};

class SessionTest : public testing::Test {
 protected:
  SessionTest() {
    AddLanguageCmdlets(&table_);
    Parameter name{
        .name = "Name", .help = "Names.", .position = 0, .mandatory = true, .array = true};
    name.aliases = {"VMName"};
    name.from_pipeline = name.from_property = true;
    table_.Add({.verb = "Get",
                .noun = "VM",
                .aliases = {"gvm"},
                .synopsis = "s",
                .output_type = "VM",
                .parameters = {name},
                .make = MakeCmdlet<GetThing>});
    table_.Add(
        {.verb = "Stop",
         .noun = "VM",
         .synopsis = "s",
         .output_type = "VM",
         .parameters = {name, {.name = "Force", .type = ParameterType::kSwitch, .help = "h"}},
         .should_process = true,
         .confirm = true,
         .make = MakeCmdlet<StopThing>});
  }
  // What comes out; the status is kept.
  std::string Run(std::string_view text, SessionOptions options = {}) {
    console_.out.clear();
    console_.err.clear();
    Session session(&table_, &views_, &console_, &cancel_, options);
    status_ = session.Run(text);
    return console_.out;
  }

  CmdletTable table_;
  ViewTable views_ = DefaultViews();
  TestConsole console_;
  CancelToken cancel_;
  ExitStatus status_ = ExitStatus::kOk;
};

TEST_F(SessionTest, TheTableAgreesWithItself) {
  CmdletTable own;
  AddLanguageCmdlets(&own);
  EXPECT_THAT(own.Problems(), IsEmpty());
  own.Add({.verb = "Frob",
           .noun = "X",
           .aliases = {"ft"},
           .parameters = {{.name = "A", .position = 0}, {.name = "B", .position = 0}}});
  EXPECT_GE(own.Problems().size(), 7U);
}

TEST_F(SessionTest, EveryExampleShowsWhatItSays) {
  int run = 0;
  for (const char* locale : {"C", "tr_TR.UTF-8"}) {
    if (std::setlocale(LC_ALL, locale) == nullptr) continue;  // not installed
    for (const CmdletInfo& info : table_.cmdlets()) {
      for (const Example& example : info.examples) {
        EXPECT_EQ(Run(example.command), example.output) << example.command << "\n" << console_.err;
        EXPECT_EQ(status_, ExitStatus::kOk) << example.command;
        ++run;
      }
    }
  }
  std::setlocale(LC_ALL, "C");
  EXPECT_GE(run, 20);
}

TEST_F(SessionTest, DefaultViewOfAVm) {
  EXPECT_EQ(Run("Get-VM web1,db"),
            "\nName State   CPUUsage(%) MemoryAssigned(M)     Uptime Status             Version\n"
            "---- -----   ----------- -----------------     ------ ------             -------\n"
            "web1 Running           7               512 1.02:03:04 Operating normally 10.0\n"
            "db   Off               7               512 1.02:03:04 Operating normally 10.0\n\n");
  EXPECT_THAT(Run("Get-VM db | Select-Object Name,Id"), HasSubstr("Name Id\n---- --\ndb   42\n"));
  EXPECT_THAT(Run("Get-VM db | fl *"), HasSubstr("Id             : 42\n"));
  EXPECT_THAT(Run("Get-VM db | fl"), testing::Not(HasSubstr("Id  ")));
  const std::string narrow = Run("Get-VM web1", {.terminal = true, .width = 40});
  for (size_t at = 0; at < narrow.size();) {
    const size_t end = narrow.find('\n', at);
    EXPECT_LE(end - at, 40U);
    at = end + 1;
  }
}

TEST_F(SessionTest, ThePipelineOfTheManual) {
  EXPECT_EQ(Run("gvm web1,db | ? State -eq running | % Name"), "web1\n");
  EXPECT_EQ(Run("Get-VM web1,db | Where-Object { $_.State -ne 'Running' } | % { \"$($_.Name) has "
                "$($_.MemoryAssigned / 1MB) MB\" }"),
            "db has 512 MB\n");
  EXPECT_EQ(Run("$vm = Get-VM db; $vm.State; $vm.Uptime.Days; $vm.nothing"), "Off\n1\n");
  EXPECT_EQ(Run("$n = 'a','b','c'; $n[-1]; $n.Count; ($n -ne 'b').Count; $n -contains 'B'"),
            "c\n3\n2\nTrue\n");
  EXPECT_EQ(Run("Get-VM b,a,c | Sort-Object Name -desc | Select -exp Name"), "c\nb\na\n");
  EXPECT_EQ(Run("'b','a' | Get-VM | % Name"), "b\na\n");
  EXPECT_EQ(Run("Get-VM a,b | Get-VM | % Name"), "a\nb\n");
  EXPECT_EQ(Run("1 + 2 * 3; 7 / 2; 8 / 2; 7 % 4; -(3); 'a' + 1; 1,2 + 3"),
            "7\n3.5\n4\n3\n-3\na1\n1\n2\n3\n");
  EXPECT_EQ(Run("'abc' -match '^A.c$'; 'x' -in 'X','y'; 'a' -notlike 'b*'; $true -and -not $false"),
            "True\nTrue\nTrue\nTrue\n");
}

TEST_F(SessionTest, FirstStopsWhatComesBefore) {
  g_made = 0;
  EXPECT_EQ(Run("Get-VM a,b,c,d | % Name | Select-Object -First 2"), "a\nb\n");
  EXPECT_EQ(g_made, 2);
}

TEST_F(SessionTest, AnErrorOfOneObjectGoesOn) {
  EXPECT_EQ(Run("Get-VM a,missing,b | % Name"), "a\nb\n");
  EXPECT_EQ(console_.err, "there is no thing 'missing'\n");
  EXPECT_EQ(status_, ExitStatus::kNotFound);
  EXPECT_EQ(Run("Get-VM a,missing,b -ErrorAction Stop | % Name; 'never'"), "a\n");
  EXPECT_EQ(status_, ExitStatus::kNotFound);
  EXPECT_EQ(Run("Get-VM missing,b -ea Silent | % Name"), "b\n");
  EXPECT_EQ(console_.err, "");
  Run("Get-VM denied");
  EXPECT_EQ(status_, ExitStatus::kDenied);
  Run("Get-VM denied,missing");
  EXPECT_EQ(status_, ExitStatus::kSomeFailed);
}

TEST_F(SessionTest, WhatTheUserGotWrongIsStatusTwoAndASentence) {
  struct {
    const char* text;
    const char* part;
  } const kCases[] = {{"Get-Nothing", "Get-Command lists"},
                      {"Get-VM -Foo 1", "no parameter -Foo"},
                      {"Get-VM", "-Name is missing"},
                      {"Get-VM -Name", "needs a value"},
                      {"Get-VM a b", "no place for 'b'"},
                      {"Get-VM a -Name b", "no place for 'a'"},
                      {"Get-VM a -ErrorAction x", "one of"},
                      {"1 | Select -First x", "wants Int64"},
                      {"1/0", "divided by zero (line 1, column 2)"},
                      {"'x' -match '('", "no regular expression"},
                      {"1 | Where-Object { 1 } -eq 2", "wants String, not 'ScriptBlock'"},
                      {"1 -gt 'x'", "no order"},
                      {"Get-VM a -V", "could be"},
                      {"a |", "missing behind"}};
  for (const auto& c : kCases) {
    Run(c.text);
    EXPECT_THAT(console_.err, HasSubstr(c.part)) << c.text;
    EXPECT_EQ(status_, ExitStatus::kUsage) << c.text;
  }
}

TEST_F(SessionTest, WhatIfConfirmAndVerbose) {
  EXPECT_EQ(Run("Stop-VM a -WhatIf"), "");
  EXPECT_EQ(console_.err, "What if: \"Stop-VM\" on \"a\" would be done.\n");
  EXPECT_EQ(Run("Stop-VM a,b"), "");
  EXPECT_EQ(console_.asked.size(), 2U);
  console_.answer = Answer::kYesToAll;
  EXPECT_EQ(Run("Stop-VM a,b"), "stopped a\nstopped b\n");
  EXPECT_EQ(console_.asked.size(), 3U);
  console_.answer = Answer::kNoToAll;
  EXPECT_EQ(Run("Get-VM a,b | Stop-VM"), "");
  EXPECT_EQ(console_.asked.size(), 4U);
  EXPECT_EQ(Run("Stop-VM a -Confirm:$false; Stop-VM b -Force"), "stopped a\nstopped b\n");
  EXPECT_EQ(console_.asked.size(), 4U);
  Run("Get-VM a -Verbose");
  EXPECT_EQ(console_.err, "VERBOSE: reading a\n");
}

TEST_F(SessionTest, CancelEndsThePipelineAndNotTheSession) {
  cancel_.Cancel();
  EXPECT_EQ(Run("Get-VM a,b"), "");
  EXPECT_EQ(status_, ExitStatus::kSomeFailed);
  cancel_.Reset();
  EXPECT_EQ(Run("Get-VM a | % Name"), "a\n");
}

TEST_F(SessionTest, StableOutputForPrograms) {
  EXPECT_EQ(
      Run("Get-VM a | Select Name,MemoryAssigned,Uptime", {.format = OutputFormat::kJsonLines}),
      "{\"Name\":\"a\",\"MemoryAssigned\":536870912,\"Uptime\":\"1.02:03:04\"}\n");
  EXPECT_EQ(Run("1,'x'", {.format = OutputFormat::kJson}), "[\n1,\n\"x\"\n]\n");
  EXPECT_EQ(Run("", {.format = OutputFormat::kJson}), "[]\n");
  EXPECT_EQ(Run("Get-VM a | Select Name,State", {.format = OutputFormat::kCsv}),
            "\"Name\",\"State\"\n\"a\",\"Off\"\n");
  EXPECT_EQ(CsvLine({"a\"b", "c,d"}), "\"a\"\"b\",\"c,d\"");
}

TEST_F(SessionTest, TextOfAGuestDoesNotSteerATerminal) {
  for (const OutputFormat format :
       {OutputFormat::kText, OutputFormat::kJson, OutputFormat::kJsonLines, OutputFormat::kCsv}) {
    const SessionOptions options{.terminal = true, .width = 80, .format = format};
    for (const char* text : {"Get-VM \"a`e[31m\"", "\"`e[2J\"", "Get-VM \"`e\" | fl",
                             "Get-VM \"`e\" | ft Name", "Get-VM \"`e\" | ConvertTo-Csv"}) {
      EXPECT_EQ(Run(text, options).find('\x1B'), std::string::npos) << text;
    }
  }
  Run("\"`e[2J\" -gt 1; Get-VM -\x1B", {.terminal = true});
  EXPECT_EQ(console_.err.find('\x1B'), std::string::npos);
  Run("1/0", {.terminal = true, .colour = true});
  EXPECT_THAT(console_.err, HasSubstr("\x1B[31m"));
}

TEST_F(SessionTest, AScriptCannotExhaustTheShell) {
  EXPECT_EQ(Run("$f = { 1 | ForEach-Object $f }; 1 | ForEach-Object $f"), "");
  EXPECT_THAT(console_.err, HasSubstr("too deep"));
  std::string doubling = "$a = 1,2;";
  for (int i = 0; i < 24; ++i) doubling += "$a = $a + $a;";
  Run(doubling);
  EXPECT_THAT(console_.err, HasSubstr("million"));
  std::string text = "$a = 'x';";
  for (int i = 0; i < 30; ++i) text += "$a = \"$a$a\";";
  Run(text);
  EXPECT_THAT(console_.err, HasSubstr("16 MiB"));
  std::string stages = "1";
  for (int i = 0; i < 1000; ++i) stages += " | Write-Output";
  Run(stages);
  EXPECT_THAT(console_.err, HasSubstr("at most 32"));
}

TEST_F(SessionTest, ManPageAndBashCompletionNameEveryCmdlet) {
  CmdletTable own;
  AddLanguageCmdlets(&own);
  const std::string bash = BashCompletion(own);
  for (const CmdletInfo& info : own.cmdlets()) {
    EXPECT_THAT(bash, HasSubstr(info.Name()));
    for (const Parameter& p : info.parameters) EXPECT_THAT(bash, HasSubstr("-" + p.name));
  }
  EXPECT_THAT(ManPage(own), HasSubstr(".SH Where\\-Object\n"));
  EXPECT_EQ(SyntaxLines(*own.Find("out-file"))[0],
            "Out-File [-FilePath] <Path> [-Append] [-NoClobber] [-Width <Int64>] [-InputObject "
            "<Object>] [-WhatIf] [-Confirm]");
}

}  // namespace
}  // namespace partita::shell
