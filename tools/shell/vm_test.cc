// Cmdlets of virtual machines against a service that has none: what is asked, what is shown, and
// what an error of the service becomes.
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_service.h"
#include "tools/shell/client/client.h"
#include "tools/shell/powershell_module.h"
#include "tools/shell/program.h"
#include "tools/shell/session.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class TestConsole : public Console {
 public:
  void Out(std::string_view text) override { out += text; }
  void Err(std::string_view text) override { err += text; }
  Answer Ask(std::string_view /*question*/) override { return answer; }
  void Progress(std::string_view text) override {
    if (!text.empty()) progress.emplace_back(text);
    if (on_progress) on_progress();
  }
  std::string out;
  std::string err;
  std::vector<std::string> progress;
  std::function<void()> on_progress;
  Answer answer = Answer::kNobody;
};

class Folder {
 public:
  Folder() { EXPECT_NE(mkdtemp(path_.data()), nullptr); }
  ~Folder() { rmdir(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/partita-shell-XXXXXX";
};

class VmTest : public testing::Test {
 protected:
  VmTest() { session_.Use(&client_); }
  std::string Run(std::string_view text) {
    console_.out.clear();
    console_.err.clear();
    console_.progress.clear();
    status_ = session_.Run(text);
    return console_.out;
  }

  CmdletTable table_ = AllCmdlets();
  ViewTable views_ = DefaultViews();
  TestConsole console_;
  CancelToken cancel_;
  Folder folder_;
  std::string socket_ = folder_.path() + "/socket";
  FakeService service_{socket_};
  Client client_{{socket_, false}, &cancel_};
  Session session_{&table_, &views_, &console_, &cancel_, {}};
  ExitStatus status_ = ExitStatus::kOk;
  std::atomic<int> console_seen_ = 0;
};

TEST_F(VmTest, TheTableAgreesWithItself) { EXPECT_THAT(table_.Problems(), IsEmpty()); }

TEST_F(VmTest, EveryExampleShowsWhatItSays) {
  for (const CmdletInfo& info : table_.cmdlets()) {
    for (const Example& example : info.examples) {
      service_.Reset();
      Session fresh(&table_, &views_, &console_, &cancel_, {});
      fresh.Use(&client_);
      console_.out.clear();
      console_.err.clear();
      EXPECT_EQ(fresh.Run(example.command), ExitStatus::kOk) << example.command << "\n"
                                                             << console_.err;
      EXPECT_EQ(console_.out, example.output) << example.command << "\n" << console_.err;
    }
  }
}

TEST_F(VmTest, TheModuleForPowerShellHasEveryCmdletOfMachines) {
  const std::string module = PowerShellModule(table_);
  const std::string manifest = PowerShellManifest(table_, "1.2.3");
  for (const CmdletInfo& info : table_.cmdlets()) {
    if (info.noun.substr(0, 2) != "VM") continue;
    const std::string name = info.verb + "-Partita" + info.noun;
    EXPECT_THAT(module, HasSubstr("\nfunction " + name + " {\n"));
    EXPECT_THAT(manifest, HasSubstr("'" + name + "'"));
  }
  EXPECT_THAT(module, HasSubstr("Position = 0, Mandatory, ValueFromPipeline, "
                                "ValueFromPipelineByPropertyName)] [Alias('VMName')] "
                                "[string[]] $Name"));
  EXPECT_THAT(manifest, HasSubstr("ModuleVersion = '1.2.3'"));
  // Text of the table cannot end a string or open a block.
  for (const char* pair : {"{}", "()", "[]"}) {
    EXPECT_EQ(std::count(module.begin(), module.end(), pair[0]),
              std::count(module.begin(), module.end(), pair[1]))
        << pair;
  }
}

TEST_F(VmTest, NothingIsChangedWithoutLeave) {
  Run("New-VM x -WhatIf; Get-VM | Start-VM -WhatIf; Remove-VM web2 -WhatIf; Set-VM web2 -Notes x "
      "-WhatIf; Add-VMHardDiskDrive web2 /x -WhatIf; Remove-VMNetworkAdapter web2 -WhatIf");
  EXPECT_EQ(status_, ExitStatus::kOk);
  for (const std::string& request : service_.requests()) EXPECT_THAT(request, HasSubstr("GET "));
  EXPECT_THAT(console_.err, HasSubstr("What if: \"Start-VM\" on \"web1\" would be done.\n"));
  Run("Remove-VM web2");
  EXPECT_EQ(status_, ExitStatus::kUsage);
  EXPECT_THAT(console_.err, HasSubstr("nobody to ask"));
  EXPECT_FALSE(service_.machine("web2").is_null());
  console_.answer = Answer::kYes;
  Run("Remove-VM web2");
  EXPECT_TRUE(service_.machine("web2").is_null());
}

TEST_F(VmTest, ErrorsOfTheServiceAndTheStatusTheyEndWith) {
  Run("Get-VM wbe1");
  EXPECT_EQ(status_, ExitStatus::kNotFound);
  EXPECT_EQ(console_.err, "there is no vm 'wbe1'; did you mean web1?\n");
  EXPECT_EQ(Run("Get-VM nothere*,web1 | % Name"), "web1\n");
  EXPECT_EQ(status_, ExitStatus::kOk);
  EXPECT_EQ(Run("Get-VM WEB1 | % Name"), "web1\n");
  Run("Start-VM web1");
  EXPECT_EQ(status_, ExitStatus::kWrongState);
  EXPECT_EQ(console_.err, "web1 is Running and cannot start; stop it first\n");
  EXPECT_EQ(Run("Start-VM nothere,web1,web2 -PassThru | % Name"), "web2\n");
  EXPECT_EQ(status_, ExitStatus::kSomeFailed);
  Run("New-VM web1");
  EXPECT_EQ(status_, ExitStatus::kSomeFailed);
  Run("Wait-VM web1 -For Off -Timeout 0");
  EXPECT_EQ(status_, ExitStatus::kTimedOut);
  Run("Stop-VM web1 -Save");
  EXPECT_THAT(console_.err, HasSubstr("cannot be saved yet"));
  Run("Set-VM web1");
  EXPECT_EQ(status_, ExitStatus::kUsage);
  service_.FailWith(403, {{"error",
                           {{"id", "access.denied"},
                            {"category", "PermissionDenied"},
                            {"message", "you may not"},
                            {"cause", {"a", "b"}}}}});
  Run("Get-VM");
  EXPECT_EQ(status_, ExitStatus::kDenied);
  EXPECT_EQ(console_.err, "you may not: a: b\n");
  service_.FailWith(500, "nonsense");
  Run("Get-VM");
  EXPECT_THAT(console_.err, HasSubstr("status 500"));
  EXPECT_EQ(status_, ExitStatus::kSomeFailed);
}

TEST_F(VmTest, AServiceThatIsNotThereIsStatusSevenAndASentence) {
  Client nobody({folder_.path() + "/none", false}, &cancel_);
  session_.Use(&nobody);
  Run("Get-VM; 'next'");
  EXPECT_EQ(status_, ExitStatus::kUnreachable);
  EXPECT_THAT(console_.err, HasSubstr("cannot be reached at " + folder_.path()));
  EXPECT_EQ(console_.out, "next\n");
}

TEST_F(VmTest, ErrorsForPrograms) {
  Session json(&table_, &views_, &console_, &cancel_, {.json_errors = true});
  json.Use(&client_);
  json.Run("Get-VM x");
  EXPECT_EQ(console_.err,
            "{\"Id\":\"vm.not_found\",\"Category\":\"ObjectNotFound\",\"Target\":\"x\",\"Message\":"
            "\"there is no vm 'x'\",\"Cause\":[],\"NextStep\":\"\"}\n");
}

TEST_F(VmTest, WhatIsAskedOfTheService) {
  Run("Get-VM web* | Stop-VM -TurnOff -ErrorAction SilentlyContinue");
  EXPECT_THAT(service_.requests(),
              ElementsAre("GET /v1/vms", "GET /v1/vms/00000000-0000-4000-8000-000000000001",
                          "POST /v1/vms/00000000-0000-4000-8000-000000000001/stop",
                          "GET /v1/vms/00000000-0000-4000-8000-000000000002",
                          "POST /v1/vms/00000000-0000-4000-8000-000000000002/stop",
                          "GET /v1/operations/op-1"));
}

TEST_F(VmTest, AHundredMachinesAreOneRequest) {
  service_.AddMachines(98);
  const auto begin = std::chrono::steady_clock::now();
  const std::string table = Run("Get-VM");
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 104);
  EXPECT_THAT(service_.requests(), ElementsAre("GET /v1/vms"));
  RecordProperty("milliseconds", std::to_string(took / std::chrono::milliseconds(1)));
}

TEST_F(VmTest, ManyStartSideBySide) {
  service_.AddMachines(20);
  Run("Start-VM vm*");
  EXPECT_EQ(status_, ExitStatus::kOk);
  EXPECT_EQ(service_.machine("vm019")["state"], "Running");
  // The first wait comes when sixteen are on their way.
  const auto requests = service_.requests();
  const auto first = std::find(requests.begin(), requests.end(), "GET /v1/operations/op-1");
  EXPECT_EQ(first - requests.begin(), 17);
}

TEST_F(VmTest, JobsGoOnWhileTheSessionDoes) {
  service_.HoldOperations(true);
  EXPECT_THAT(Run("Start-VM web2 -AsJob"), HasSubstr("1 Job1 Running True"));
  EXPECT_EQ(Run("Get-Job 1 | % State; Receive-Job 1"), "Running\n");
  service_.HoldOperations(false);
  EXPECT_EQ(
      Run("Wait-Job 1 | % State; Receive-Job 1 | % Name; Receive-Job 1; (Get-Job).HasMoreData"),
      "Completed\nweb2\nFalse\n");
  service_.HoldOperations(true);
  EXPECT_EQ(Run("Stop-VM web2 -AsJob | Stop-Job; Get-Job 2 | % State"), "Stopped\n");
  Run("Receive-Job 2");
  EXPECT_THAT(console_.err, HasSubstr("cancelled"));
  Run("Get-Job 7");
  EXPECT_EQ(status_, ExitStatus::kNotFound);
}

TEST_F(VmTest, CtrlCEndsAWaitAndNotTheOperation) {
  service_.HoldOperations(true);
  // Once the cmdlet waits, somebody presses it.
  console_.on_progress = [&] {
    if (console_.progress.size() == 1) cancel_.Cancel();
  };
  Run("Start-VM web2; 'never'");
  EXPECT_EQ(console_.out, "");
  EXPECT_EQ(console_.err, "the service goes on with web2\n");
  EXPECT_EQ(status_, ExitStatus::kSomeFailed);
  console_.on_progress = nullptr;
  cancel_.Reset();
  EXPECT_EQ(Run("Get-VM web2 | % State"), "Running\n");
}

TEST_F(VmTest, AStreamOfEventsEndsWithCtrlC) {
  std::thread later;
  later = std::thread([&] {
    // The events are there, and the stream stays open.
    while (console_seen_.load() < 1) std::this_thread::yield();
    cancel_.Cancel();
  });
  class Seeing : public TestConsole {
   public:
    explicit Seeing(std::atomic<int>* seen) : seen_(seen) {}
    void Out(std::string_view text) override {
      TestConsole::Out(text);
      if (out.find("web1 is running") != std::string::npos) ++*seen_;
    }
    std::atomic<int>* seen_;
  } seeing(&console_seen_);
  Session session(&table_, &views_, &seeing, &cancel_, {});
  session.Use(&client_);
  session.Run("Get-VMEvent -Follow");
  later.join();
  EXPECT_EQ(seeing.out,
            "\nTime                     VMName           Type             Message\n"
            "----                     ------           ----             -------\n"
            "2026-11-25T01:02:03Z     web1             vm.state         web1 is starting\n"
            "2026-11-25T01:02:04Z     web1             vm.state         web1 is running\n");
}

TEST_F(VmTest, DisksAndAdaptersComeDownThePipeline) {
  EXPECT_EQ(Run("Get-VM web* | Get-VMHardDiskDrive | % Path"), "/srv/web1.raw\n/srv/web2.raw\n");
  Run("Get-VM web2 | Get-VMNetworkAdapter | Set-VMNetworkAdapter -DhcpGuard On");
  EXPECT_EQ(service_.machine("web2")["definition"]["adapters"][0]["dhcp_guard"], true);
  EXPECT_EQ(service_.machine("web2")["definition"]["adapters"][0]["switch"], "lan");
  Run("Set-VMNetworkAdapter web2 -User -StaticMacAddress 02155D000009");
  EXPECT_EQ(service_.machine("web2")["definition"]["adapters"][0]["mac"], "02:15:5D:00:00:09");
  EXPECT_FALSE(service_.machine("web2")["definition"]["adapters"][0].contains("switch"));
  Run("Remove-VMHardDiskDrive web2 5");
  EXPECT_EQ(status_, ExitStatus::kNotFound);
  Run("Add-VMHardDiskDrive web2 relative.raw");
  EXPECT_THAT(std::string(service_.machine("web2")["definition"]["disks"][1]["path"]),
              testing::StartsWith("/"));
}

TEST_F(VmTest, TextOfAGuestDoesNotSteerATerminal) {
  Session terminal(&table_, &views_, &console_, &cancel_, {.terminal = true, .width = 60});
  terminal.Use(&client_);
  service_.FailWith(404, {{"error", {{"id", "x"}, {"message", "a\x1B[2Jb"}}}});
  terminal.Run("Get-VM x");
  EXPECT_EQ(console_.err.find('\x1B'), std::string::npos);
}

}  // namespace
}  // namespace partita::shell
