#include "vsp/storage/block/vhdx/log_ring.h"

#include <algorithm>

namespace partita::vhdx {

size_t LogRing::capacity() const {
  const uint64_t half = log_.length / 2;
  size_t updates = half / kLogSector - 1;
  while (LogEntrySize(updates, updates) > half) --updates;
  return updates;
}

std::vector<LogRing::Write> LogRing::Append(std::span<const LogUpdate> updates,
                                            uint64_t durable_size, uint64_t size) {
  const std::vector<std::byte> entry = EncodeLogEntry({.log_guid = guid_,
                                                       .sequence = sequence_++,
                                                       .tail = static_cast<uint32_t>(tail_),
                                                       .flushed_file_offset = durable_size,
                                                       .last_file_offset = size},
                                                      updates);
  tail_ = position_;
  std::vector<Write> writes;
  const auto split = entry.begin() + static_cast<ptrdiff_t>(
                                         std::min<uint64_t>(entry.size(), log_.length - position_));
  writes.push_back({log_.offset + position_, {entry.begin(), split}});
  if (split != entry.end()) writes.push_back({log_.offset, {split, entry.end()}});
  position_ = (position_ + entry.size()) % log_.length;
  return writes;
}

}  // namespace partita::vhdx
