// `--disk PATH[,ro][,cache=writeback|none][,logical=512|4096][,record=FILE]`: parsing, opening and
// locking. "In use" is an open-file-description lock on the very descriptor that goes to the worker
// (writers exclusive, readers shared; block devices O_EXCL too): it travels with the descriptor and
// dies with it.
#ifndef PARTITA_TOOLS_PARTITA_DISK_OPTION_H_
#define PARTITA_TOOLS_PARTITA_DISK_OPTION_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace partita {

struct DiskOption {
  std::string path;
  bool read_only = false;
  bool direct = false;
  uint32_t logical_block = 512;
  std::string record;  // a file that gets a record of all writes and flushes; empty: none
};

absl::StatusOr<DiskOption> ParseDiskOption(std::string_view text);
absl::StatusOr<UniqueFd> OpenDisk(const DiskOption& option);
// 16 bytes that stay the same for this disk of this partition.
std::string DiskIdentity(const DiskOption& option, std::string_view partition_name);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_DISK_OPTION_H_
