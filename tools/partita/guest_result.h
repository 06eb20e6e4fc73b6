// Boots the enlightened guest for a benchmark and collects what it reports.
#ifndef PARTITA_TOOLS_PARTITA_GUEST_RESULT_H_
#define PARTITA_TOOLS_PARTITA_GUEST_RESULT_H_

#include <cstdint>
#include <map>
#include <string>

#include "tools/partita/host_load.h"
#include "tools/partita/run_command.h"

namespace partita {

// Runs the image in `kernel_fd` as `options` say until it powers off; its "result" line and the
// worker's counters.
absl::StatusOr<LoadResult> RunGuest(const RunOptions& options, int kernel_fd,
                                    std::map<std::string, uint64_t>* stats);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_GUEST_RESULT_H_
