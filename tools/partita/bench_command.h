// `partita bench storage`: the load inside a partition (the enlightened guest), then the same load
// from the host, on the same file; both and their ratio.
#ifndef PARTITA_TOOLS_PARTITA_BENCH_COMMAND_H_
#define PARTITA_TOOLS_PARTITA_BENCH_COMMAND_H_

#include <cstdint>
#include <string>

namespace partita {

struct BenchOptions {
  std::string disk;
  std::string rw = "randread";
  std::string block_size = "4k";
  uint32_t queue_depth = 32;
  uint32_t seconds = 5;
  uint32_t cpus = 1;
  uint64_t seed = 1;
  std::string mode = "interrupt";
  std::string synic = "auto";
  bool json = false;
};

int BenchStorage(const BenchOptions& options);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_BENCH_COMMAND_H_
