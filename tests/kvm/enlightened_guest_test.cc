// The enlightened guest as a real child partition, and the command line around it. Runs on any KVM:
// directly (user SynIC backend) and inside the lab with PARTITA_SYNIC=kernel and =user.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace partita {
namespace {

std::string Directory() {
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof(self));
  std::string path(self, static_cast<size_t>(length));
  return path.substr(0, path.rfind('/'));
}

struct Outcome {
  int status = -1;
  std::string output;  // both streams
  [[nodiscard]] std::vector<nlohmann::json> Events() const {
    std::vector<nlohmann::json> events;
    for (size_t at = 0; at < output.size();) {
      size_t end = output.find('\n', at);
      if (end == std::string::npos) end = output.size();
      auto line = nlohmann::json::parse(output.substr(at, end - at), nullptr, false);
      if (line.is_object()) events.push_back(std::move(line));
      at = end + 1;
    }
    return events;
  }
  [[nodiscard]] nlohmann::json Event(const std::string& name) const {
    for (const auto& event : Events()) {
      if (event.value("event", "") == name) return event;
    }
    ADD_FAILURE() << "no event " << name << " in:\n" << output;
    return nlohmann::json::object();
  }
};

Outcome Shell(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen(("{ " + command + "\n} 2>&1 < /dev/null").c_str(), "r");
  std::array<char, 4096> buffer{};
  while (const size_t got = fread(buffer.data(), 1, buffer.size(), pipe)) {
    outcome.output.append(buffer.data(), got);
  }
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  return outcome;
}

class GuestTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/partita-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    scratch = name;
    disk = scratch + "/disk";
    Truncate(128 << 20);
  }
  void TearDown() override { Shell("rm -rf " + scratch); }
  void Truncate(off_t size) {
    const int fd = open(disk.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(ftruncate(fd, size), 0);
    close(fd);
  }
  static std::string Partita(const std::string& arguments) {
    return "timeout 100 " + Directory() + "/partita " + arguments;
  }
  static std::string Synic() {
    const char* synic = getenv("PARTITA_SYNIC");
    return synic == nullptr ? "auto" : synic;
  }
  // Boots the enlightened guest with a job.
  [[nodiscard]] Outcome Guest(const std::string& job, const std::string& more = "") const {
    return Shell(Partita("run --kernel " + Directory() +
                         "/enlightened-guest --memory 128M --synic " + Synic() + " --cmdline '" +
                         job + "' " + more));
  }
  std::string scratch, disk;
};

uint64_t Pattern(uint64_t word, uint64_t seed) {
  return ((word + seed) * 0x9E3779B97F4A7C15ull) ^ (word >> 7);
}

// A job that there is not, or none, is no reason to write the disk.
TEST_F(GuestTest, AnUnknownJobTouchesNothing) {
  for (const char* job : {"job=verfy mib=8", "mib=8"}) {
    const Outcome run = Guest(job, "--disk " + disk);
    EXPECT_EQ(run.Event("error").value("why", ""), "there is no such job") << run.output;
    struct stat info {};
    ASSERT_EQ(stat(disk.c_str(), &info), 0);
    EXPECT_EQ(info.st_blocks, 0) << "the disk was written";
  }
}

// 64 MiB written and verified by the guest; the host then finds exactly those bytes.
TEST_F(GuestTest, WritesAndVerifies64MiBOnOneAndTwoVps) {
  for (const uint64_t vps : {1u, 2u}) {
    const uint64_t seed = 100 + vps;
    const Outcome run =
        Guest("job=verify mib=64 vps=" + std::to_string(vps) + " seed=" + std::to_string(seed),
              "--cpus " + std::to_string(vps) + " --disk " + disk + " --stats-json " + scratch +
                  "/stats");
    ASSERT_EQ(run.status, 0) << run.output;
    EXPECT_EQ(run.Event("result").value("errors", 1), 0);
    EXPECT_EQ(run.Event("vmbus").value("version", 0), 0x50003);
    std::ifstream file(disk, std::ios::binary);
    std::vector<uint64_t> words((64 << 20) / 8);
    file.read(reinterpret_cast<char*>(words.data()), 64 << 20);
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < words.size(); ++i) wrong += words[i] != Pattern(i, seed) ? 1 : 0;
    EXPECT_EQ(wrong, 0u) << vps << " VPs";
    // Doorbells of open channels never reach user space, in either backend.
    std::ifstream stats_file(scratch + "/stats");
    const auto stats = nlohmann::json::parse(stats_file);
    EXPECT_EQ(stats.value("hypercall.signals_in_user_space", 1), 0);
    EXPECT_GT(stats.value("channel.doorbells", 0), 0);
  }
}

// The same by a guest that lets its SINT end interrupts by itself, as FreeBSD and Linux before 4.12
// do: an interrupt that stayed in service would be the last one.
TEST_F(GuestTest, InterruptsThatEndThemselves) {
  for (const std::string vps : {"1", "2"}) {
    const Outcome run =
        Guest("job=verify mib=64 autoeoi=1 vps=" + vps,
              "--cpus " + vps + " --disk " + disk + " --stats-json " + scratch + "/stats");
    ASSERT_EQ(run.status, 0) << run.output;
    EXPECT_EQ(run.Event("result").value("errors", 1), 0);
    EXPECT_GT(run.Event("bye").value("interrupts", 0), 20);
    std::ifstream stats_file(scratch + "/stats");
    EXPECT_EQ(nlohmann::json::parse(stats_file).value("auto_eoi.dropped", 1), 0);
  }
}

// Frames of every size through the adapter and back, each byte compared in the guest.
TEST_F(GuestTest, FramesComeBackAsTheyWere) {
  const Outcome run = Guest("job=network dir=verify frames=50000",
                            "--net loopback --stats-json " + scratch + "/stats");
  ASSERT_EQ(run.status, 0) << run.output;
  EXPECT_EQ(run.Event("result").value("errors", 1), 0);
  EXPECT_EQ(run.Event("result").value("ios", 0), 50000);
  std::ifstream stats_file(scratch + "/stats");
  const auto stats = nlohmann::json::parse(stats_file);
  EXPECT_EQ(stats.value("network.received", 0), 50000);
  EXPECT_EQ(stats.value("network.rejected.frames", 1), 0);
  EXPECT_EQ(stats.value("network.dropped.no_sections", 1), 0);
}

TEST_F(GuestTest, NetworksThatCannotBeUsedGiveOneClearLine) {
  const auto complaint = [&](const std::string& net) {
    const Outcome run = Guest("job=hello", net);
    EXPECT_EQ(run.status, 1) << run.output;
    EXPECT_EQ(std::count(run.output.begin(), run.output.end(), '\n'), 1) << run.output;
    return run.output;
  };
  EXPECT_NE(complaint("--net tap=nosuchtap").find("no TAP 'nosuchtap'"), std::string::npos);
  EXPECT_NE(complaint("--net bridge=nosuchbridge").find("no bridge"), std::string::npos);
  EXPECT_NE(complaint("--net bridge=lo").find("not a bridge"), std::string::npos);
  EXPECT_NE(complaint("--net wifi").find("takes tap=NAME"), std::string::npos);
  EXPECT_NE(complaint("--net none,vlan=5000").find("1 to 4094"), std::string::npos);
  EXPECT_NE(complaint("--net none,mac=01:00:00:00:00:01").find("group address"), std::string::npos);
  EXPECT_NE(complaint("--net none,mac=00:15:5d:00:00:01 --net none,mac=00-15-5D-00-00-01")
                .find("used by two adapters"),
            std::string::npos);
}

// CPUID and the synthetic MSRs as the guest finds them: golden tables.
TEST_F(GuestTest, RegistersAtTheStart) {
  const Outcome run = Guest("job=registers", "--stats-json " + scratch + "/stats");
  ASSERT_EQ(run.status, 0) << run.output;
  const bool kernel =
      nlohmann::json::parse(Shell(Partita("host --json")).output).at("synic") == "kernel" &&
      Synic() != "user";
  bool tsc_clock = false, eoi_assist = false;
  {
    std::ifstream clock("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    std::string name;
    tsc_clock = std::getline(clock, name) && name == "tsc";
    std::ifstream avic("/sys/module/kvm_amd/parameters/avic");
    eoi_assist = std::getline(avic, name) && name == "N";
  }
  const uint32_t page = tsc_clock ? 0x200 : 0;
  // Leaf 0x40000007 and up do not exist: what lies there is not Hyper-V's, and not KVM's.
  std::map<uint32_t, std::array<uint32_t, 4>> golden = {
      {0x40000000, {0x40000006, 0x7263694D, 0x666F736F, 0x76482074}},
      {0x40000001, {0x31237648, 0, 0, 0}},
      {0x40000002, {20348, 10 << 16, 0, 0}},
      {0x40000003, {0x000008E7 | page, 0x30, 0, 0x500}},
      {0x40000004, {0x220, 0xFFFFFFFF, 0, 0}},
      {0x40000005, {64, 64, 0, 0}},
      {0x40000006, {0, 0, 0, 0}}};
  if (kernel) {  // of Linux 6.1's KVM
    golden[0x40000003] = {0x000008FF | page, 0x30, 0, 0x80500};
    golden[0x40000004] = {eoi_assist ? 0xE2Cu : 0xE24u, 0xFFFFFFFF, 0, 0};
  }
  std::map<uint32_t, uint64_t> reset = {{0x40000081, 1}, {0x40000105, 3ull << 62}};
  for (uint32_t sint = 0; sint < 16; ++sint) reset[0x40000090 + sint] = 0x10000;  // masked
  size_t leaves = 0, msrs = 0;
  for (const auto& event : run.Events()) {
    if (event.value("event", "") == "cpuid") {
      const uint32_t leaf = event.at("leaf");
      SCOPED_TRACE(testing::Message() << std::hex << leaf);
      if (!golden.contains(leaf)) continue;
      ++leaves;
      EXPECT_EQ(event.at("eax").get<uint32_t>(), golden[leaf][0]);
      EXPECT_EQ(event.at("ebx").get<uint32_t>(), golden[leaf][1]);
      EXPECT_EQ(event.at("ecx").get<uint32_t>(), golden[leaf][2]);
      EXPECT_EQ(event.at("edx").get<uint32_t>(), golden[leaf][3]);
    } else if (event.value("event", "") == "msr") {
      const uint32_t msr = event.at("number");
      SCOPED_TRACE(testing::Message() << std::hex << msr);
      ++msrs;
      EXPECT_EQ(event.at("value").get<uint64_t>(), reset.contains(msr) ? reset[msr] : 0);
    }
  }
  EXPECT_EQ(leaves, golden.size());
  EXPECT_EQ(msrs, 33u);
}

// The machine below VMBus: write-back memory by default (else Linux leaves PAT off), fast strings
// on, no paravirtual MSR of KVM, and an interrupt line that leads to nothing but the I/O APIC (a
// live 8259 delivers it as vector 4 through the local APIC's reset state).
TEST_F(GuestTest, PlatformAsTheGuestFindsIt) {
  const Outcome run = Guest("job=platform");
  ASSERT_EQ(run.status, 0) << run.output;
  std::map<uint32_t, uint64_t> msrs;
  size_t kvm_msrs = 0;
  for (const auto& event : run.Events()) {
    EXPECT_NE(event.value("event", ""), "fault") << event;
    if (event.value("event", "") == "msr") msrs[event.at("number")] = event.at("value");
    if (event.value("event", "") == "kvm_msr") {
      ++kvm_msrs;
      EXPECT_EQ(event.at("taken"), 0) << event;
    }
  }
  EXPECT_EQ(kvm_msrs, 8u);
  EXPECT_EQ(msrs[0x1A0] & 1, 1u);  // fast strings
  EXPECT_EQ(msrs[0x2FF], 0x806u);  // MTRRs enabled, write-back
  EXPECT_EQ(run.Event("serial").value("interrupts", 1), 0);
}

// A guest that asks for channels and buffers without end gets what was offered, and a signal ends
// it: threads, descriptors and memory stay within the offer, and the control thread is not kept.
TEST_F(GuestTest, AFloodOfRequestsIsAnsweredWithinTheOffer) {
  const Outcome run = Shell(Partita("run --kernel " + Directory() +
                                    "/enlightened-guest --memory 128M --cpus 4 --queues 3" +
                                    " --synic " + Synic() +
                                    " --cmdline job=flood --net loopback,queues=3 --disk " + disk +
                                    " --stats-json " + scratch + "/stats") +
                            " > " + scratch + R"(/log & p=$!
for i in $(seq 600); do grep -q flooding )" +
                            scratch + R"(/log && break; sleep 0.1; done
partita=$(cat /proc/$p/task/$p/children)
worker=$(cat /proc/${partita% }/task/${partita% }/children | cut -d ' ' -f 1)
count() {
  printf '{"event":"%s","threads":%s,"loops":%s,"descriptors":%s}
' $1     $(ls /proc/$worker/task | wc -l) $(cat /proc/$worker/task/*/comm | grep -cE '^(stor|net)')     $(ls /proc/$worker/fd | wc -l)
}
count first
sleep 1
count second
start=$(date +%s%N)
kill -TERM $p
wait $p
printf '{"event":"end","status":%s,"ms":%s}
' $? $((($(date +%s%N) - start) / 1000000))
cat )" + scratch + "/log");
  const auto flood = run.Event("flooding");
  EXPECT_EQ(flood.value("offered", 0), 2);
  EXPECT_EQ(flood.value("storage", 0), 2);
  EXPECT_EQ(flood.value("network", 0), 2);
  const auto first = run.Event("first"), second = run.Event("second"), end = run.Event("end");
  EXPECT_EQ(first.value("loops", 0), 6) << "two primaries and what they offer";
  EXPECT_EQ(second.value("loops", 0), 6);
  EXPECT_LE(second.value("threads", 1000), first.value("threads", 0));
  EXPECT_LE(second.value("descriptors", 1000), first.value("descriptors", 0));
  EXPECT_LE(first.value("descriptors", 1000), 128);
  EXPECT_LT(end.value("ms", 100000), 2000);
  std::ifstream stats_file(scratch + "/stats");
  const auto stats = nlohmann::json::parse(stats_file);
  EXPECT_GT(stats.value("network.rejected.state", 0), 3000);
  EXPECT_GT(stats.value("storage.rejected.state", 0), 2000);
  EXPECT_LT(stats.value("process.peak_rss_bytes", int64_t{1} << 40),
            stats.value("memory.allocated_bytes", int64_t{0}) + (24 << 20));
}

// A guest that does everything wrong: the worker lives, within 24 MiB beyond guest RAM, and counts.
TEST_F(GuestTest, AHostileGuestHurtsOnlyItself) {
  const Outcome run = Guest("job=hostile seed=" + std::to_string(getpid()),
                            "--disk " + disk + " --stats-json " + scratch + "/stats");
  ASSERT_EQ(run.status, 0) << run.output;
  const auto result = run.Event("hostile");
  EXPECT_GT(result.value("posted", 0), 15000);
  EXPECT_GT(result.value("faults", 0), 10);
  EXPECT_EQ(result.value("opened", 0), 60);
  std::ifstream stats_file(scratch + "/stats");
  const auto stats = nlohmann::json::parse(stats_file);
  for (const char* counter :
       {"channel.corrupt", "hypercall.rejected", "storage.rejected.packets",
        "storage.rejected.ranges", "vmbus.rejected.direction", "vmbus.rejected.gpadl",
        "vmbus.rejected.limit", "vmbus.rejected.relid", "vmbus.rejected.size",
        "vmbus.rejected.state", "vmbus.rejected.unknown"}) {
    EXPECT_GT(stats.value(counter, 0), 0) << counter;
  }
  EXPECT_LT(stats.value("process.peak_rss_bytes", int64_t{1} << 40),
            stats.value("memory.allocated_bytes", int64_t{0}) + (24 << 20));
}

// A full host disk stops the partition, not the guest's write; it goes on when there is room.
TEST_F(GuestTest, AFullHostDiskPausesThePartition) {
  const std::string small = scratch + "/small";
  ASSERT_EQ(Shell("mkdir " + small + " && mount -t tmpfs -o size=16m tmpfs " + small).status, 0);
  const Outcome run =
      Shell("truncate -s 128M " + small + "/disk; " +
            Partita("run --kernel " + Directory() + "/enlightened-guest --memory 128M --synic " +
                    Synic() + " --cmdline 'job=verify mib=64' --disk " + small +
                    "/disk --stats-json " + scratch + "/stats") +
            " > " + scratch + "/log 2>&1 & partition=$!; for i in $(seq 600); do grep -q paused " +
            scratch + "/log && break; sleep 0.1; done; mount -o remount,size=200m " + small +
            "; wait $partition; echo status $?; cat " + scratch + "/log; umount " + small);
  EXPECT_NE(run.output.find("status 0"), std::string::npos) << run.output;
  EXPECT_NE(run.output.find("the partition is paused until there is room"), std::string::npos)
      << run.output;
  EXPECT_NE(run.output.find("the partition goes on"), std::string::npos);
  EXPECT_EQ(run.Event("result").value("errors", 1), 0);
  std::ifstream stats_file(scratch + "/stats");
  EXPECT_GT(nlohmann::json::parse(stats_file).value("storage.parked", 0), 0);
}

// The file under the disk loses its bytes: reads fail, the guest is told, the partition goes on.
TEST_F(GuestTest, ReadErrorsReachTheGuest) {
  const Outcome run =
      Shell(Partita("run --kernel " + Directory() + "/enlightened-guest --memory 128M --synic " +
                    Synic() + " --cmdline 'job=bench seconds=3' --disk " + disk) +
            " > " + scratch + "/log 2>&1 & partition=$!; for i in $(seq 600); do grep -q blocks " +
            scratch + "/log && break; sleep 0.1; done; sleep 1; truncate -s 0 " + disk +
            "; wait $partition; echo status $?; cat " + scratch + "/log");
  EXPECT_NE(run.output.find("status 0"), std::string::npos) << run.output;
  EXPECT_GT(run.Event("result").value("errors", 0), 0);
}

// --config is the flags in another form: every property of the schema is one, flags win, and
// whatever is wrong in the file is named with it.
TEST_F(GuestTest, SettingsFromAFile) {
  const std::string file = scratch + "/settings.json";
  auto write = [&](const nlohmann::json& json) { std::ofstream(file) << json.dump(); };
  const nlohmann::json settings = {{"kernel", Directory() + "/enlightened-guest"},
                                   {"memory", "128M"},
                                   {"cmdline", "job=verify mib=8"},
                                   {"synic", Synic()},
                                   {"disk", {{{"path", disk}, {"logical", 4096}}}}};
  write(settings);
  Outcome run = Shell(Partita("run --config " + file));
  EXPECT_EQ(run.status, 0) << run.output;
  EXPECT_EQ(run.Event("disk").value("block_size", 0), 4096);
  run = Shell(Partita("run --config " + file + " --cmdline job=hello"));
  EXPECT_EQ(run.Event("hello").value("job", ""), "hello");

  const auto says = [&](const nlohmann::json& json, int status, const std::string& text) {
    write(json);
    const Outcome wrong = Shell(Partita("run --config " + file));
    EXPECT_EQ(wrong.status, status) << json;
    EXPECT_NE(wrong.output.find(text), std::string::npos) << wrong.output;
    EXPECT_NE(wrong.output.find(file), std::string::npos) << wrong.output;
  };
  says({{"kernl", "x"}}, 1, "did you mean 'kernel'?");
  says({{"cpus", "two"}}, 1, "'cpus' takes a whole number");
  says({{"cpus", 65}}, 2, "65 not in range");
  says({{"synic", "none"}}, 2, "synic");
  says({{"disk", "x"}}, 1, "'disk' takes a list");
  says({{"disk", {{{"cache", "none"}}}}}, 1, "has no 'path'");
  says(nlohmann::json::array(), 1, "one JSON object");
  Shell("printf '{\n\n,' > " + file);
  EXPECT_NE(Shell(Partita("run --config " + file)).output.find("line 3 is not valid JSON"),
            std::string::npos);
  EXPECT_EQ(Shell(Partita("run --config /does/not/exist")).status, 1);
  EXPECT_EQ(Shell(Partita("run --config " + scratch)).status, 1);

  // No property of the schema is unknown to the program, and no other way round.
  std::ifstream schema_file(PARTITA_SOURCE_DIR "/docs/run-config.schema.json");
  const auto schema = nlohmann::json::parse(schema_file);
  const std::string help = Shell(Partita("run --help")).output;
  for (const auto& [name, property] : schema.at("properties").items()) {
    const std::string type = property.value("type", "string");
    nlohmann::json value = "x";
    if (type == "integer") value = 1;
    if (type == "boolean") value = true;
    if (type == "array") value = nlohmann::json::array();
    write({{name, value}});
    const std::string output = Shell(Partita("run --config " + file)).output;
    EXPECT_EQ(output.find("no setting"), std::string::npos) << output;
    EXPECT_EQ(output.find("' takes "), std::string::npos) << output;
    EXPECT_NE(help.find("--" + name), std::string::npos) << name;
  }
  size_t flags = 0;
  for (size_t at = help.find("\n  --"); at != std::string::npos; at = help.find("\n  --", at + 1)) {
    ++flags;
  }
  EXPECT_EQ(flags, schema.at("properties").size() + 1) << help;  // --config itself
}

// `partita ctl`: what a running partition is asked is done and answered.
TEST_F(GuestTest, ControlWhileItRuns) {
  const std::string socket = scratch + "/control";
  const std::string start = Partita("run --kernel " + Directory() + "/enlightened-guest --synic " +
                                    Synic() + " --memory 128M --cmdline 'job=bench seconds=60' " +
                                    "--disk " + disk + " --control " + socket);
  const auto ctl = [&](const std::string& verb) {
    return Shell(Partita("ctl " + socket + " " + verb));
  };
  ASSERT_EQ(Shell("{ " + start + "; echo status $?; } > " + scratch +
                  "/log 2>&1 & for i in $(seq 200); do grep -q '\"disk\"' " + scratch +
                  "/log && break; sleep 0.1; done")
                .status,
            0);
  EXPECT_EQ(Shell("stat -c %a " + socket).output, "600\n");
  const auto status = nlohmann::json::parse(ctl("status --json").output);
  EXPECT_EQ(status.at("state"), "Running");
  EXPECT_EQ(status.at("vmbus"), "5.3");
  EXPECT_EQ(status.at("cpus"), 1);
  EXPECT_EQ(ctl("heartbeat").output, "No contact\n");
  Outcome refused = ctl("shutdown");
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.output.find("no driver for shutdown"), std::string::npos) << refused.output;
  const auto commands = [&] {
    return nlohmann::json::parse(ctl("stats --json").output).at("storage.commands").get<uint64_t>();
  };
  EXPECT_EQ(ctl("pause").status, 0);
  EXPECT_EQ(nlohmann::json::parse(ctl("status --json").output).at("state"), "Paused");
  Shell("sleep 0.3");  // what was in flight ends
  const uint64_t stopped = commands();
  Shell("sleep 0.3");
  EXPECT_EQ(commands(), stopped);
  EXPECT_EQ(ctl("resume").status, 0);
  Shell("sleep 0.3");
  EXPECT_GT(commands(), stopped);
  // The socket is taken, and nobody else's.
  const Outcome second =
      Shell(Partita("run --kernel " + Directory() +
                    "/enlightened-guest --cmdline job=hello --control " + socket));
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.output.find("in use"), std::string::npos) << second.output;
  EXPECT_EQ(ctl("reset").status, 0);
  EXPECT_EQ(Shell("for i in $(seq 100); do [ $(grep -c '\"hello\"' " + scratch +
                  "/log) = 2 ] && exit 0; sleep 0.1; done; exit 1")
                .status,
            0);
  EXPECT_EQ(ctl("power-off").status, 0);
  const Outcome ended = Shell("for i in $(seq 100); do grep '^status' " + scratch +
                              "/log && exit 0; sleep 0.1; done; cat " + scratch + "/log");
  EXPECT_EQ(ended.output, "status 0\n");
  EXPECT_EQ(ctl("status").status, 1);  // the socket went with it
  EXPECT_EQ(ctl("statu").status, 2);
  // A socket that a crash left behind is replaced.
  Shell(
      "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
      "s.bind(\"" +
      socket + "\")'");
  const Outcome again = Guest("job=hello", "--control " + socket);
  EXPECT_EQ(again.status, 0) << again.output;
}

TEST_F(GuestTest, DirectIoToo) {
  // tmpfs has no O_DIRECT: there the promise is one clear line.
  const Outcome run = Guest("job=verify mib=8", "--disk " + disk + ",cache=none");
  if (run.status == 1) {
    EXPECT_NE(run.output.find("its file system has no O_DIRECT; use cache=writeback"),
              std::string::npos)
        << run.output;
  } else {
    EXPECT_EQ(run.status, 0) << run.output;
    EXPECT_EQ(run.Event("result").value("errors", 1), 0);
  }
}

TEST_F(GuestTest, LogicalBlocksOf4096) {
  const Outcome run = Guest("job=verify mib=8", "--disk " + disk + ",logical=4096");
  EXPECT_EQ(run.status, 0) << run.output;
  EXPECT_EQ(run.Event("disk").value("block_size", 0), 4096);
  EXPECT_EQ(run.Event("result").value("errors", 1), 0);
}

// Per I/O: interrupts and doorbells are shared by batches at depth 32, and single at depth 1.
TEST_F(GuestTest, DoorbellsAndInterruptsPerIo) {
  const Outcome deep = Guest("job=bench depth=32 seconds=1", "--disk " + disk);
  ASSERT_EQ(deep.status, 0) << deep.output;
  auto result = deep.Event("result");
  const double ios = result.value("ios", 0.0);
  EXPECT_GT(ios, 100);
  EXPECT_EQ(result.value("errors", 1), 0);
  EXPECT_LE(result.value("doorbells", 1e9), ios / 8);
  EXPECT_LE(result.value("interrupts", 1e9), ios / 8);
  const Outcome shallow = Guest("job=bench depth=1 seconds=1", "--disk " + disk);
  result = shallow.Event("result");
  EXPECT_LE(result.value("doorbells", 1e9), result.value("ios", 0.0) * 1.01 + 20);
  EXPECT_LE(result.value("interrupts", 1e9), result.value("ios", 0.0) * 1.01 + 20);
}

TEST_F(GuestTest, BenchReportsItsKeys) {
  // What it says of a busy machine goes to stderr.
  const Outcome bench = Shell(Partita("bench storage --disk " + disk +
                                      " --seconds 1 --json --synic " + Synic() + " 2> /dev/null"));
  ASSERT_EQ(bench.status, 0) << bench.output;
  const auto json = nlohmann::json::parse(bench.output);
  for (const char* key :
       {"/partition/iops", "/host/iops", "/ratio", "/doorbells_per_io", "/exits_per_io",
        "/interrupts_per_io", "/latency_us/p50", "/latency_us/p99", "/latency_us/p999"}) {
    ASSERT_TRUE(json.contains(nlohmann::json::json_pointer(key))) << key;
    EXPECT_TRUE(json.at(nlohmann::json::json_pointer(key)).is_number()) << key;
  }
  EXPECT_TRUE(json.at("synic").is_string());
  EXPECT_GT(json.at("ratio").get<double>(), 0.0);
}

TEST_F(GuestTest, DisksThatCannotBeUsedGiveOneClearLine) {
  struct Case {
    std::string option, says;
  };
  Shell("mkdir " + scratch + "/dir; printf x > " + scratch + "/odd; : > " + scratch + "/empty");
  const Case cases[] = {
      {scratch + "/missing", "No such file or directory"},
      {scratch + "/dir", "is a directory"},
      {scratch + "/odd", "not a positive multiple"},
      {scratch + "/empty", "not a positive multiple"},
      {"/dev/null", "neither a regular file nor a block device"},
      {disk + ",cache=maybe", "does not know 'cache=maybe'"},
  };
  for (const Case& c : cases) {
    const Outcome run = Guest("job=hello", "--disk " + c.option);
    EXPECT_EQ(run.status, 1) << c.option;
    EXPECT_NE(run.output.find(c.says), std::string::npos) << run.output;
    EXPECT_EQ(std::count(run.output.begin(), run.output.end(), '\n'), 1) << run.output;
  }
}

// Writers exclude each other and readers; readers share; a killed worker leaves no lock behind.
TEST_F(GuestTest, ADiskInUseIsRefusedAndFreeAfterACrash) {
  const std::string idle = Partita("run --kernel " + Directory() + "/enlightened-guest --synic " +
                                   Synic() + " --memory 128M --cmdline 'job=bench seconds=60' ");
  const Outcome first = Shell(idle + "--disk " + disk + " > " + scratch + "/log 2>&1 & " +
                              "for i in $(seq 200); do grep -q '\"disk\"' " + scratch +
                              "/log && break; sleep 0.1; done");
  const Outcome second = Guest("job=hello", "--disk " + disk);
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.output.find("in use by another partition"), std::string::npos) << second.output;
  EXPECT_EQ(Guest("job=hello", "--disk " + disk + ",ro").status, 1);
  // Ends only the worker that holds this test's disk.
  Shell("for p in $(pidof partita-worker); do ls -l /proc/$p/fd | grep -q " + disk +
        " && kill -9 $p; done; for i in $(seq 100); do flock -n " + disk + " true; sleep 0.05; " +
        Partita("run --kernel " + Directory() + "/enlightened-guest --memory 128M --synic " +
                Synic() + " --cmdline job=hello --disk " + disk) +
        " > " + scratch + "/again && break; done");
  EXPECT_EQ(Guest("job=hello", "--disk " + disk).status, 0);
}

TEST_F(GuestTest, UsageErrorsNameTheNearestFlag) {
  const Outcome wrong = Shell(Partita("run --kernl x"));
  EXPECT_EQ(wrong.status, 2);
  EXPECT_NE(wrong.output.find("did you mean --kernel?"), std::string::npos) << wrong.output;
  EXPECT_EQ(Shell(Partita("Get-VN < /dev/null")).status, 2) << "no command and no cmdlet";
  EXPECT_EQ(Shell(Partita("run --cpus 65 --kernel x")).status, 2);
  EXPECT_EQ(Shell(Partita("run --help")).status, 0);
  const Outcome no_kernel = Shell(Partita("run --kernel /does/not/exist"));
  EXPECT_EQ(no_kernel.status, 1);
  EXPECT_NE(no_kernel.output.find("kernel /does/not/exist: No such file"), std::string::npos);
  EXPECT_EQ(Shell(Partita("run --kernel /etc/passwd")).status, 1);
  const Outcome size = Shell(Partita("run --kernel /etc/passwd --memory 7Q"));
  EXPECT_EQ(size.status, 1);
  EXPECT_NE(size.output.find("--memory takes a size like 512M or 2G"), std::string::npos);
}

TEST_F(GuestTest, SignalsEndItInOrder) {
  const Outcome run =
      Shell("timeout -s TERM 2 " + Directory() + "/partita run --kernel " + Directory() +
            "/enlightened-guest --memory 128M --synic " + Synic() +
            " --cmdline 'job=bench seconds=60' --disk " + disk + "; echo status $?");
  // timeout(1) itself answers 124; what counts is that the program ended by its own account.
  EXPECT_NE(run.output.find("stopped by signal 15"), std::string::npos) << run.output;
}

TEST_F(GuestTest, HostTellsItsBackend) {
  const Outcome text = Shell(Partita("host"));
  EXPECT_EQ(text.status, 0);
  EXPECT_NE(text.output.find("SynIC backend: "), std::string::npos);
  const auto json = nlohmann::json::parse(Shell(Partita("host --json")).output);
  EXPECT_TRUE(json.at("synic") == "user" || json.at("synic") == "kernel");
  for (const auto& capability : json.at("capabilities")) {
    if (!capability.at("present").get<bool>()) {
      EXPECT_FALSE(capability.at("lost").get<std::string>().empty());
    }
  }
}

TEST_F(GuestTest, SerialToAFile) {
  const Outcome run = Guest("job=hello", "--serial file:" + scratch + "/serial");
  EXPECT_EQ(run.status, 0);
  std::ifstream file(scratch + "/serial");
  std::string line;
  std::getline(file, line);
  EXPECT_NE(line.find("\"hello\""), std::string::npos) << line;
}

}  // namespace
}  // namespace partita
