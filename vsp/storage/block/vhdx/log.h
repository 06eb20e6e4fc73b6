// The log of a VHDX file: what has to be replayed after a crash, and entries as they are written.
// Pure. [MS-VHDX] 2.3. Any thread.
//
// The log is a ring of sectors of 4 KiB. An entry says where the oldest entry that is still needed
// begins (its tail); entries with consecutive sequence numbers from a tail to a head form a
// sequence, and the one with the highest head is replayed. What a crash cut off has a wrong
// checksum and ends its sequence. Hostile files: work is linear in the log's length, and no part of
// an entry is believed before the whole of it was checked.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_LOG_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_LOG_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "vsp/storage/block/image_file.h"
#include "vsp/storage/block/vhdx/layout.h"

namespace partita::vhdx {

// One entry that was found whole.
struct LogEntry {
  LogEntryHeader header{};
  uint64_t position = 0;  // byte offset in the log
};

// The entry at `position`, if a whole and valid one of `guid` lies there.
absl::StatusOr<bool> ReadLogEntry(const storage::ImageReader& file, const Extent& log,
                                  const Guid& guid, uint64_t position, LogEntry* entry);

// The entries to replay, oldest first. INVALID_ARGUMENT if there is no valid sequence or the file
// is shorter than it was when the newest entry was written.
absl::StatusOr<std::vector<LogEntry>> FindActiveSequence(const storage::ImageReader& file,
                                                         const CurrentHeader& header);

// Where replayed bytes go: the file itself, or memory laid over it.
class ReplayTarget {
 public:
  virtual ~ReplayTarget() = default;
  virtual absl::Status Write(uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual absl::Status WriteZeroes(uint64_t offset, uint64_t length) = 0;
  virtual absl::Status Extend(uint64_t size) = 0;
};

// Applies the entries in order. Nothing is written above the newest entry's last_file_offset, into
// the headers, or into the log itself.
absl::Status ApplyEntries(const storage::ImageReader& file, const CurrentHeader& header,
                          std::span<const LogEntry> entries, ReplayTarget& target);

// Opens for reading: replays into `overlay`, which lies over `file`. Nothing to do without a log.
absl::Status ReplayInMemory(const storage::ImageReader& file, storage::OverlayReader& overlay);

// Opens for writing: a new FileWriteGuid, the log into the file, flush, a header without a log
// (each header update as 2.2.2.1 orders: the other slot, flush, twice). After a failure in between
// the file replays to the same state again.
absl::Status ReplayIntoFile(storage::ImageFile& file, const Guid& new_file_write_guid);

// Writes `header` with the next sequence number over the slot that is not current, flushes, and
// does so again for the other slot. `current` becomes what was written.
absl::Status UpdateHeader(storage::ImageFile& file, CurrentHeader& current, Header header);

// --- writing ---

// One change of 4 KiB of metadata, or of zeroes.
struct LogUpdate {
  uint64_t file_offset = 0;           // whole sectors
  std::span<const std::byte> sector;  // kLogSector bytes; empty: zeroes
  uint64_t zero_length = 0;           // whole sectors, where `sector` is empty
};
struct LogEntryFields {
  Guid log_guid{};
  uint64_t sequence = 0;
  uint32_t tail = 0;
  uint64_t flushed_file_offset = 0;
  uint64_t last_file_offset = 0;
};
// Bytes that an entry of so many updates takes.
[[nodiscard]] uint64_t LogEntrySize(size_t descriptors, size_t data_sectors);
// The whole entry, sealed.
[[nodiscard]] std::vector<std::byte> EncodeLogEntry(const LogEntryFields& fields,
                                                    std::span<const LogUpdate> updates);

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_LOG_H_
