// What rounds of a storage benchmark say together: medians over rounds in which partition and host
// stood side by side, and whether the machine was too busy for them to say much.
#ifndef PARTITA_TOOLS_PARTITA_BENCH_ROUNDS_H_
#define PARTITA_TOOLS_PARTITA_BENCH_ROUNDS_H_

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tools/partita/host_load.h"

namespace partita {

struct BenchRound {
  LoadResult partition, host;
  uint64_t exits = 0;  // of the partition, to user space
  // Shares of the round that a thread was ready and got no CPU; none where it is not known.
  std::optional<double> vp_waited, loop_waited, host_waited;
};

// One contender, medians over the rounds.
struct BenchFigures {
  uint64_t ios = 0;  // in all
  double iops = 0, cpu_seconds_per_million = 0, p50_us = 0, p99_us = 0, p999_us = 0;
};

struct BenchSummary {
  BenchFigures partition, host;
  double ratio = 0;            // the median of the rounds' ratios
  std::vector<double> ratios;  // of each round
  double doorbells_per_io = 0, interrupts_per_io = 0, exits_per_io = 0;  // over all rounds
  std::optional<double> vp_waited, loop_waited, host_waited;             // medians
  [[nodiscard]] bool busy() const;
};

double Median(std::vector<double> values);  // of at least one
// An error where a round moved nothing or I/O failed: there is no figure then.
absl::StatusOr<BenchSummary> Summarize(const std::vector<BenchRound>& rounds);
// One sentence for people if the machine was too busy, else "".
std::string BusyNote(const BenchSummary& summary);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_BENCH_ROUNDS_H_
