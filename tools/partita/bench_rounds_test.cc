// What `partita bench` says of its rounds: medians, no figure for I/O that failed, and the truth
// about a busy machine.
#include "tools/partita/bench_rounds.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/monotonic.h"
#include "tools/partita/cpu_wait.h"

namespace partita {
namespace {

BenchRound Round(uint64_t partition_ios, uint64_t host_ios) {
  BenchRound round;
  round.partition = {.ios = partition_ios, .nanoseconds = 1'000'000'000, .p99_ns = partition_ios};
  round.partition.doorbells = partition_ios / 10;
  round.host = {.ios = host_ios, .nanoseconds = 1'000'000'000};
  return round;
}

// A machine that slows down in mid-run does so for both; the ratio is of those side by side.
TEST(BenchRounds, MediansOfRatiosTakenSideBySide) {
  const auto summary = Summarize({Round(700, 1000), Round(70, 100), Round(7, 1000)});
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_DOUBLE_EQ(summary->ratio, 0.7);
  EXPECT_DOUBLE_EQ(summary->partition.iops, 70);
  EXPECT_DOUBLE_EQ(summary->host.iops, 1000);
  EXPECT_DOUBLE_EQ(summary->partition.p99_us, 0.07);
  EXPECT_EQ(summary->partition.ios, 777u);
  EXPECT_NEAR(summary->doorbells_per_io, 77.0 / 777, 1e-9);
  EXPECT_EQ(summary->ratios.size(), 3u);
  EXPECT_DOUBLE_EQ(Median({4, 1, 3, 2}), 2.5);
}

// A write load on a read-only disk fails fast: millions of failures a second are no figure.
TEST(BenchRounds, FailedIoIsNoFigure) {
  BenchRound all = Round(5'700'000, 1000);
  all.partition.errors = all.partition.ios;
  BenchRound one_on_the_host = Round(700, 1000);
  one_on_the_host.host.errors = 1;
  for (const BenchRound& bad : {all, one_on_the_host, Round(0, 1000), Round(700, 0)}) {
    const auto summary = Summarize({Round(700, 1000), bad});
    ASSERT_FALSE(summary.ok());
    EXPECT_NE(summary.status().message().find("no figure"), std::string::npos) << summary.status();
  }
  EXPECT_FALSE(Summarize({}).ok());
}

TEST(BenchRounds, ABusyMachineIsSaid) {
  BenchRound quiet = Round(700, 1000);
  quiet.vp_waited = quiet.loop_waited = quiet.host_waited = 0.01;
  EXPECT_EQ(BusyNote(*Summarize({quiet, quiet, quiet})), "");
  EXPECT_EQ(BusyNote(*Summarize({Round(700, 1000)})), "");  // nothing is known
  BenchRound busy = quiet;
  busy.loop_waited = 0.4;
  const auto summary = Summarize({busy, quiet, busy});
  EXPECT_TRUE(summary->busy());
  EXPECT_NE(BusyNote(*summary).find("its loop 40 %"), std::string::npos) << BusyNote(*summary);
}

TEST(CpuWait, ReadsTheKernelsLine) {
  const auto stat = ParseSchedStat("123456 7890 42");
  ASSERT_TRUE(stat.has_value());
  EXPECT_EQ(stat->ran, 123456u);
  EXPECT_EQ(stat->waited, 7890u);
  EXPECT_FALSE(ParseSchedStat("").has_value());
  EXPECT_FALSE(ParseSchedStat("12 x").has_value());
}

// A child of which two threads share one CPU: each is ready all the time and gets it half of it.
TEST(CpuWait, SeesThreadsOfAChildWaitForACpu) {
  if (!OwnSchedStat()) GTEST_SKIP() << "this kernel has no schedstat";
  if (access("/proc/thread-self/children", R_OK) != 0) {
    GTEST_SKIP() << "this kernel does not list children";
  }
  const pid_t child = fork();
  if (child == 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof(one), &one);
    const uint64_t end = MonotonicNs() + 300'000'000;
    auto spin = [end](const char* name) {
      pthread_setname_np(pthread_self(), name);
      while (MonotonicNs() < end) {
      }
    };
    std::thread other(spin, "vp0");
    spin("stor7");
    other.join();
    _exit(0);
  }
  ChildThreads threads;
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  threads.Stop();
  for (const char* name : {"vp", "stor"}) {
    const auto share = threads.WaitedShare(name);
    ASSERT_TRUE(share.has_value()) << name;
    EXPECT_GT(*share, 0.2) << name;  // more where others use the CPU as well
    EXPECT_LT(*share, 1.5) << name;  // the clock is read beside the count, not with it
  }
  EXPECT_FALSE(threads.WaitedShare("net").has_value());
  EXPECT_FALSE(threads.WaitedShare("st").has_value());
}

}  // namespace
}  // namespace partita
