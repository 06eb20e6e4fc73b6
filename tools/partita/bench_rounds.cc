#include "tools/partita/bench_rounds.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace partita {
namespace {

// Partition and host each keep two CPUs or one busy; where they waited longer than this for one,
// somebody else had it.
constexpr double kBusyShare = 0.05;

absl::Status Check(const LoadResult& result, const char* who) {
  if (result.errors != 0) {
    return Internal(std::to_string(result.errors) + " of " + std::to_string(result.ios) +
                    " I/Os failed " + who + ", so there is no figure");
  }
  if (result.ios == 0 || result.nanoseconds == 0) {
    return Internal(std::string("no I/O was done ") + who + ", so there is no figure");
  }
  return absl::OkStatus();
}

template <typename Of>
double MedianOf(const std::vector<BenchRound>& rounds, Of of) {
  std::vector<double> values;
  for (const BenchRound& round : rounds) values.push_back(of(round));
  return Median(std::move(values));
}

std::optional<double> MedianOfKnown(const std::vector<BenchRound>& rounds,
                                    std::optional<double> BenchRound::*member) {
  std::vector<double> values;
  for (const BenchRound& round : rounds) {
    if (const auto& value = round.*member) values.push_back(*value);
  }
  if (values.empty()) return std::nullopt;
  return Median(std::move(values));
}

BenchFigures Figures(const std::vector<BenchRound>& rounds, LoadResult BenchRound::*who) {
  BenchFigures figures;
  for (const BenchRound& round : rounds) figures.ios += (round.*who).ios;
  auto median = [&](auto of) {
    return MedianOf(rounds, [&](const BenchRound& round) { return of(round.*who); });
  };
  auto micro = [](uint64_t ns) { return static_cast<double>(ns) / 1e3; };
  figures.iops = median([](const LoadResult& r) { return r.Iops(); });
  figures.cpu_seconds_per_million =
      median([](const LoadResult& r) { return r.cpu_seconds * 1e6 / static_cast<double>(r.ios); });
  figures.p50_us = median([&](const LoadResult& r) { return micro(r.p50_ns); });
  figures.p99_us = median([&](const LoadResult& r) { return micro(r.p99_ns); });
  figures.p999_us = median([&](const LoadResult& r) { return micro(r.p999_ns); });
  return figures;
}

}  // namespace

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

absl::StatusOr<BenchSummary> Summarize(const std::vector<BenchRound>& rounds) {
  if (rounds.empty()) return Internal("no round was played");
  BenchSummary summary;
  double doorbells = 0, interrupts = 0, exits = 0;
  for (const BenchRound& round : rounds) {
    RETURN_IF_ERROR(Check(round.partition, "in the partition"));
    RETURN_IF_ERROR(Check(round.host, "on the host"));
    summary.ratios.push_back(round.partition.Iops() / round.host.Iops());
    doorbells += static_cast<double>(round.partition.doorbells);
    interrupts += static_cast<double>(round.partition.interrupts);
    exits += static_cast<double>(round.exits);
  }
  summary.partition = Figures(rounds, &BenchRound::partition);
  summary.host = Figures(rounds, &BenchRound::host);
  summary.ratio = Median(summary.ratios);
  const auto ios = static_cast<double>(summary.partition.ios);
  summary.doorbells_per_io = doorbells / ios;
  summary.interrupts_per_io = interrupts / ios;
  summary.exits_per_io = exits / ios;
  summary.vp_waited = MedianOfKnown(rounds, &BenchRound::vp_waited);
  summary.loop_waited = MedianOfKnown(rounds, &BenchRound::loop_waited);
  summary.host_waited = MedianOfKnown(rounds, &BenchRound::host_waited);
  return summary;
}

bool BenchSummary::busy() const {
  return std::max({vp_waited.value_or(0), loop_waited.value_or(0), host_waited.value_or(0)}) >
         kBusyShare;
}

std::string BusyNote(const BenchSummary& summary) {
  if (!summary.busy()) return "";
  auto percent = [](const std::optional<double>& share) {
    if (!share) return std::string("?");
    char text[16];
    snprintf(text, sizeof(text), "%.0f %%", *share * 100);
    return std::string(text);
  };
  return "the machine was busy with something else: the virtual processor was ready and waited for "
         "a CPU " +
         percent(summary.vp_waited) + " of the time, its loop " + percent(summary.loop_waited) +
         ", the host's load " + percent(summary.host_waited) +
         "; the figures say more about that than about the partition";
}

}  // namespace partita
