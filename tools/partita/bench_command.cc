#include "tools/partita/bench_command.h"

#include <sys/resource.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file_lock.h"
#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/partita/disk_option.h"
#include "tools/partita/guest_image.h"
#include "tools/partita/guest_result.h"
#include "tools/partita/host_load.h"
#include "tools/partita/run_command.h"

namespace partita {
namespace {

using Stats = std::map<std::string, uint64_t>;

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
absl::StatusOr<LoadResult> RunInPartition(const BenchOptions& o, uint32_t block_size,
                                          Stats* stats) {
  ASSIGN_OR_RETURN(const UniqueFd image, GuestImage());
  RunOptions run;
  run.name = "bench";
  run.memory = "256M";
  run.cpus = o.cpus;
  run.disks = {o.disk};
  run.synic = o.synic;
  run.quiet = true;
  run.command_line = "job=bench rw=" + o.rw + " bs=" + std::to_string(block_size) +
                     " depth=" + std::to_string(o.queue_depth) +
                     " seconds=" + std::to_string(o.seconds) + " vps=" + std::to_string(o.cpus) +
                     " mode=" + o.mode + " seed=" + std::to_string(o.seed);
  return RunGuest(run, image.get(), stats);
}

nlohmann::ordered_json Describe(const LoadResult& r, uint32_t block_size) {
  return {{"iops", r.Iops()},
          {"mb_per_s", r.Iops() * block_size / 1e6},
          {"ios", r.ios},
          {"errors", r.errors},
          {"cpu_seconds_per_million", r.cpu_seconds * 1e6 / static_cast<double>(r.ios)}};
}

void PrintText(const BenchOptions& o, const LoadResult& partition, const LoadResult& host,
               uint32_t block_size, double exits) {
  auto row = [&](const char* name, const LoadResult& r) {
    printf(
        "  %-10s %10.0f IOPS %8.1f MB/s   p50 %7.1f  p99 %7.1f  p99.9 %7.1f us   %6.2f CPU s/M\n",
        name, r.Iops(), r.Iops() * block_size / 1e6, static_cast<double>(r.p50_ns) / 1e3,
        static_cast<double>(r.p99_ns) / 1e3, static_cast<double>(r.p999_ns) / 1e3,
        r.cpu_seconds * 1e6 / static_cast<double>(r.ios));
  };
  const double ios = static_cast<double>(partition.ios);
  printf("%s, blocks of %u bytes, depth %u, %u VP%s, %s mode, %u s each\n", o.rw.c_str(),
         block_size, o.queue_depth, o.cpus, o.cpus == 1 ? "" : "s", o.mode.c_str(), o.seconds);
  row("partition", partition);
  row("host", host);
  printf(
      "  ratio %.3f; per I/O in the partition: %.4f doorbells, %.4f interrupts, %.4f exits to "
      "user space\n",
      partition.Iops() / host.Iops(), static_cast<double>(partition.doorbells) / ios,
      static_cast<double>(partition.interrupts) / ios, exits / ios);
}

}  // namespace

int BenchStorage(const BenchOptions& o) {
  auto fail = [](const absl::Status& status) {
    Log(Message(status));
    return control::kExitStartFailed;
  };
  const auto block_size = ParseBlockSize(o.block_size);
  if (!block_size.ok()) return fail(block_size.status());
  Stats stats;
  const auto partition = RunInPartition(o, *block_size, &stats);
  if (!partition.ok()) return fail(partition.status());
  const auto disk = ParseDiskOption(o.disk);
  if (!disk.ok()) return fail(disk.status());
  auto fd = OpenDisk(*disk);
  if (!fd.ok()) return fail(fd.status());
  const auto host = RunHostLoad({.fd = fd->get(),
                                 .bytes = static_cast<uint64_t>(lseek(fd->get(), 0, SEEK_END)),
                                 .write = o.rw == "randwrite" || o.rw == "write",
                                 .random = o.rw.starts_with("rand"),
                                 .block_size = *block_size,
                                 .depth = o.queue_depth,
                                 .seconds = o.seconds,
                                 .seed = o.seed});
  ReleaseFileLock(fd->get());
  if (!host.ok()) return fail(host.status());
  const auto exits = static_cast<double>(stats["exits.total"]);
  const double ios = static_cast<double>(partition->ios);
  if (!o.json) {
    PrintText(o, *partition, *host, *block_size, exits);
  } else {
    nlohmann::ordered_json out;
    out["rw"] = o.rw;
    out["block_size"] = *block_size;
    out["queue_depth"] = o.queue_depth;
    out["mode"] = o.mode;
    out["cpus"] = o.cpus;
    out["synic"] = stats.contains("synic.resamples") ? "kernel" : "user";
    out["partition"] = Describe(*partition, *block_size);
    out["host"] = Describe(*host, *block_size);
    out["ratio"] = partition->Iops() / host->Iops();
    out["doorbells_per_io"] = static_cast<double>(partition->doorbells) / ios;
    out["exits_per_io"] = exits / ios;
    out["interrupts_per_io"] = static_cast<double>(partition->interrupts) / ios;
    auto micro = [](uint64_t ns) { return static_cast<double>(ns) / 1e3; };
    out["latency_us"] = {{"p50", micro(partition->p50_ns)},
                         {"p99", micro(partition->p99_ns)},
                         {"p999", micro(partition->p999_ns)}};
    out["host_latency_us"] = {
        {"p50", micro(host->p50_ns)}, {"p99", micro(host->p99_ns)}, {"p999", micro(host->p999_ns)}};
    printf("%s\n", out.dump(2).c_str());
  }
  if (partition->errors + host->errors != 0) {
    Log("there were I/O errors");
    return control::kExitStartFailed;
  }
  return 0;
}

}  // namespace partita
