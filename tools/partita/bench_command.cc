#include "tools/partita/bench_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/file_lock.h"
#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/host/disk_option.h"
#include "tools/partita/bench_rounds.h"
#include "tools/partita/cpu_wait.h"
#include "tools/partita/guest_image.h"
#include "tools/partita/guest_result.h"
#include "tools/partita/host_load.h"
#include "tools/partita/run_command.h"

namespace partita {
namespace {

using Stats = std::map<std::string, uint64_t>;

bool Writes(const BenchOptions& o) { return o.rw == "randwrite" || o.rw == "write"; }

absl::StatusOr<uint32_t> ParseBlockSize(const std::string& text) {
  char* end = nullptr;
  uint64_t value = strtoull(text.c_str(), &end, 10);
  if (*end == 'k' || *end == 'K') value <<= 10, ++end;
  constexpr uint64_t kMax = 256 << 10;
  if (end == text.c_str() || *end != 0 || value < 512 || value > kMax || value % 512 != 0) {
    return InvalidArgument("--block-size takes 512 to 256k, a multiple of 512");
  }
  return static_cast<uint32_t>(value);
}

// Runs the enlightened guest and collects its JSON lines.
absl::Status RunInPartition(const BenchOptions& o, uint32_t block_size, uint64_t milliseconds,
                            uint64_t seed, Stats* stats, BenchRound* round) {
  ASSIGN_OR_RETURN(const UniqueFd image, GuestImage());
  RunOptions run;
  run.name = "bench";
  run.memory = "256M";
  run.cpus = o.cpus;
  run.disks = {o.disk};
  run.synic = o.synic;
  run.quiet = true;
  run.command_line =
      "job=bench rw=" + o.rw + " bs=" + std::to_string(block_size) +
      " depth=" + std::to_string(o.queue_depth) + " milliseconds=" + std::to_string(milliseconds) +
      " vps=" + std::to_string(o.cpus) + " mode=" + o.mode + " seed=" + std::to_string(seed);
  ChildThreads threads;
  ASSIGN_OR_RETURN(round->partition, RunGuest(run, image.get(), stats));
  threads.Stop();
  round->vp_waited = threads.WaitedShare("vp");
  round->loop_waited = threads.WaitedShare("stor");
  round->exits = (*stats)["exits.total"];
  return absl::OkStatus();
}

absl::Status RunOnHost(const BenchOptions& o, uint32_t block_size, uint64_t milliseconds,
                       uint64_t seed, BenchRound* round) {
  ASSIGN_OR_RETURN(const control::DiskDefinition disk, ParseDiskOption(o.disk));
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenDisk(disk));
  const auto before = OwnSchedStat();
  auto result = RunHostLoad({.fd = fd.get(),
                             .bytes = static_cast<uint64_t>(lseek(fd.get(), 0, SEEK_END)),
                             .write = Writes(o),
                             .random = o.rw.starts_with("rand"),
                             .block_size = block_size,
                             .depth = o.queue_depth,
                             .milliseconds = milliseconds,
                             .seed = seed});
  const auto after = OwnSchedStat();
  ReleaseFileLock(fd.get());
  RETURN_IF_ERROR(result.status());
  round->host = *result;
  if (before && after && result->nanoseconds != 0) {
    round->host_waited = static_cast<double>(after->waited - before->waited) /
                         static_cast<double>(result->nanoseconds);
  }
  return absl::OkStatus();
}

// Short rounds in which both work on the same machine, one after the other, so that a machine whose
// speed changes changes it for both.
absl::StatusOr<BenchSummary> Play(const BenchOptions& o, Stats* stats) {
  ASSIGN_OR_RETURN(const uint32_t block_size, ParseBlockSize(o.block_size));
  ASSIGN_OR_RETURN(const control::DiskDefinition disk, ParseDiskOption(o.disk));
  if (Writes(o) && disk.read_only()) {
    return InvalidArgument("--rw " + o.rw + " cannot be measured on a read-only disk");
  }
  constexpr uint64_t kShortestMs = 200;
  const uint64_t milliseconds =
      std::max<uint64_t>(kShortestMs, uint64_t{o.seconds} * 1000 / o.rounds);
  std::vector<BenchRound> rounds(o.rounds);
  for (uint32_t i = 0; i < o.rounds; ++i) {
    const uint64_t seed = o.seed + i;
    // In turns, so that neither is always the one that comes after the other.
    if (i % 2 == 1) RETURN_IF_ERROR(RunOnHost(o, block_size, milliseconds, seed, &rounds[i]));
    RETURN_IF_ERROR(RunInPartition(o, block_size, milliseconds, seed, stats, &rounds[i]));
    if (i % 2 == 0) RETURN_IF_ERROR(RunOnHost(o, block_size, milliseconds, seed, &rounds[i]));
  }
  return Summarize(rounds);
}

nlohmann::ordered_json Describe(const BenchFigures& f, uint32_t block_size) {
  return {{"iops", f.iops},
          {"mb_per_s", f.iops * block_size / 1e6},
          {"ios", f.ios},
          {"errors", 0},
          {"cpu_seconds_per_million", f.cpu_seconds_per_million}};
}

std::string Share(const std::optional<double>& share) {
  if (!share) return "?";
  char text[16];
  snprintf(text, sizeof(text), "%.1f %%", *share * 100);
  return text;
}

void PrintText(const BenchOptions& o, const BenchSummary& s, uint32_t block_size) {
  auto row = [&](const char* name, const BenchFigures& f) {
    printf(
        "  %-10s %10.0f IOPS %8.1f MB/s   p50 %7.1f  p99 %7.1f  p99.9 %7.1f us   %6.2f CPU s/M\n",
        name, f.iops, f.iops * block_size / 1e6, f.p50_us, f.p99_us, f.p999_us,
        f.cpu_seconds_per_million);
  };
  printf("%s, blocks of %u bytes, depth %u, %u VP%s, %s mode, medians of %u rounds in turns\n",
         o.rw.c_str(), block_size, o.queue_depth, o.cpus, o.cpus == 1 ? "" : "s", o.mode.c_str(),
         o.rounds);
  row("partition", s.partition);
  row("host", s.host);
  printf(
      "  ratio %.3f (%.3f to %.3f); per I/O in the partition: %.4f doorbells, %.4f interrupts, "
      "%.4f "
      "exits to user space\n",
      s.ratio, *std::min_element(s.ratios.begin(), s.ratios.end()),
      *std::max_element(s.ratios.begin(), s.ratios.end()), s.doorbells_per_io, s.interrupts_per_io,
      s.exits_per_io);
  printf("  ready but without a CPU: virtual processor %s, its loop %s, the host's load %s\n",
         Share(s.vp_waited).c_str(), Share(s.loop_waited).c_str(), Share(s.host_waited).c_str());
}

void PrintJson(const BenchOptions& o, const BenchSummary& s, uint32_t block_size,
               const Stats& stats) {
  auto known = [](const std::optional<double>& share) {
    return share ? nlohmann::ordered_json(*share) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json out;
  out["rw"] = o.rw;
  out["block_size"] = block_size;
  out["queue_depth"] = o.queue_depth;
  out["mode"] = o.mode;
  out["cpus"] = o.cpus;
  out["synic"] = stats.contains("synic.resamples") ? "kernel" : "user";
  out["partition"] = Describe(s.partition, block_size);
  out["host"] = Describe(s.host, block_size);
  out["ratio"] = s.ratio;
  out["ratios"] = s.ratios;
  out["doorbells_per_io"] = s.doorbells_per_io;
  out["exits_per_io"] = s.exits_per_io;
  out["interrupts_per_io"] = s.interrupts_per_io;
  auto latency = [](const BenchFigures& f) {
    return nlohmann::ordered_json{{"p50", f.p50_us}, {"p99", f.p99_us}, {"p999", f.p999_us}};
  };
  out["latency_us"] = latency(s.partition);
  out["host_latency_us"] = latency(s.host);
  out["waited_for_cpu"] = {
      {"vp", known(s.vp_waited)}, {"loop", known(s.loop_waited)}, {"host", known(s.host_waited)}};
  out["busy"] = s.busy();
  printf("%s\n", out.dump(2).c_str());
}

}  // namespace

int BenchStorage(const BenchOptions& o) {
  Stats stats;
  const auto summary = Play(o, &stats);
  if (!summary.ok()) {
    Log(Message(summary.status()));
    return control::kExitStartFailed;
  }
  const uint32_t block_size = *ParseBlockSize(o.block_size);
  if (o.json) {
    PrintJson(o, *summary, block_size, stats);
  } else {
    PrintText(o, *summary, block_size);
    if (const std::string note = BusyNote(*summary); !note.empty()) Log(note);  // JSON has "busy"
  }
  return 0;
}

}  // namespace partita
