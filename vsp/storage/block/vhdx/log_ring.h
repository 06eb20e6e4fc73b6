// The log of an open VHDX file, as we write it: where the next entry goes and which entries are
// still needed. Pure; one thread at a time. [MS-VHDX] 2.3.
//
// Entries are written in rounds: a round's entry, a flush that makes it durable, then its changes
// in their places. The next round's flush makes those durable, so that a round's entry needs only
// the round before it. Each takes at most half of the log.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_LOG_RING_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_LOG_RING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "vsp/storage/block/vhdx/layout.h"
#include "vsp/storage/block/vhdx/log.h"

namespace partita::vhdx {

class LogRing {
 public:
  struct Write {
    uint64_t offset = 0;  // in the file
    std::vector<std::byte> bytes;
  };

  // A log that holds nothing. The first entry to be appended has to be durable before a header
  // names `guid`; it may be one without updates.
  LogRing(const Extent& log, const Guid& guid) : log_(log), guid_(guid) {}

  [[nodiscard]] const Guid& guid() const { return guid_; }
  // Updates of 4 KiB that fit into a round.
  [[nodiscard]] size_t capacity() const;
  // The entry of the next round. `durable_size` and `size` are the file's.
  std::vector<Write> Append(std::span<const LogUpdate> updates, uint64_t durable_size,
                            uint64_t size);

 private:
  Extent log_;
  Guid guid_;
  uint64_t sequence_ = 1;
  uint64_t position_ = 0;  // of the next entry
  uint64_t tail_ = 0;      // of the round before
};

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_LOG_RING_H_
