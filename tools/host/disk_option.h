// `--disk PATH[,ro][,cache=writeback|none][,logical=512|4096][,record=FILE]`: parsing it, and
// opening and locking. "In use" is an open-file-description lock on the very descriptor that goes
// to the worker (writers exclusive, readers shared; block devices O_EXCL too): it travels with the
// descriptor and dies with it.
#ifndef PARTITA_TOOLS_HOST_DISK_OPTION_H_
#define PARTITA_TOOLS_HOST_DISK_OPTION_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "tools/control/definition.pb.h"

namespace partita {

absl::StatusOr<control::DiskDefinition> ParseDiskOption(std::string_view text);
absl::StatusOr<UniqueFd> OpenDisk(const control::DiskDefinition& option);
// 16 bytes that stay the same for this disk of this partition.
std::string DiskIdentity(const control::DiskDefinition& disk, std::string_view partition);

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_DISK_OPTION_H_
