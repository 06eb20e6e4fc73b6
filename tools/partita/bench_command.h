// `partita bench storage`: the load inside a partition (the enlightened guest), then the same load
// from the host, on the same file, in short rounds that take turns; medians and their ratio.
// `partita bench network`: the same for frames on a TAP.
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
  uint32_t seconds = 5;  // of each of the two, over all rounds
  uint32_t rounds = 5;
  uint32_t cpus = 1;
  uint64_t seed = 1;
  std::string mode = "interrupt";
  std::string synic = "auto";
  bool json = false;
};

struct NetworkBenchOptions {
  // send: from the partition; receive: into it; latency: one frame at a time, there and back.
  std::string direction = "send";
  uint32_t frame_size = 1514;  // bytes, with the Ethernet header, without the checksum
  uint32_t seconds = 5;
  std::string mode = "interrupt";
  std::string synic = "auto";
  bool json = false;
};

// Works in a network namespace of its own, which the calling process is moved to.
int BenchNetwork(const NetworkBenchOptions& options);
int BenchStorage(const BenchOptions& options);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_BENCH_COMMAND_H_
