// `partita run`: one worker, no service; the shortest way from a kernel and a disk to a running
// partition.
#ifndef PARTITA_TOOLS_PARTITA_RUN_COMMAND_H_
#define PARTITA_TOOLS_PARTITA_RUN_COMMAND_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace partita {

// The name of a partition that was given none: its identity is then another one in each run.
inline constexpr char kUnnamed[] = "partition";

struct RunOptions {
  std::string name = kUnnamed;
  std::string kernel, initrd, command_line;
  std::string memory = "512M";
  uint32_t cpus = 1;
  std::vector<std::string> disks;
  std::vector<std::string> nets;
  std::string synic = "auto";
  bool synthetic_timers = false;
  std::string serial = "stdio";
  std::string on_reset = "restart";
  std::string vmbus_version;
  std::string asset_tag;
  uint32_t queues = 0;
  std::vector<int> affinity;
  bool unpack_kernel = false;
  std::string stats_file;
  std::string config;
  std::string vsock;    // socket for connections to the guest; empty: none
  std::string control;  // socket for `partita ctl`; empty: none
  bool quiet = false;   // no line about how it ended
};

// Runs to the end and returns the exit status of the program.
int RunPartition(const RunOptions& options);

// What a program embeds or captures instead of files and a terminal (`partita bench`).
struct RunHooks {
  int kernel_fd = -1;                            // instead of options.kernel
  std::function<void(std::string_view)> output;  // instead of the console
  std::map<std::string, uint64_t>* stats = nullptr;
};
int RunPartition(const RunOptions& options, const RunHooks& hooks);

// "2G", "512M", "2G,pages=2m" -> bytes and kind of pages (see control.proto).
// `maximum`: what the partition may grow to, or 0.
absl::Status ParseMemory(const std::string& text, uint64_t* bytes, int* pages, uint64_t* maximum);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_RUN_COMMAND_H_
