#include "vsp/storage/block/vhdx/log.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/crc32c.h"

namespace partita::vhdx {
namespace {

using storage::ImageFile;
using storage::ImageReader;
using storage::OverlayReader;

using Sector = std::array<std::byte, kLogSector>;

// Sectors of the ring, by byte offset counted on without end.
absl::Status ReadSector(const ImageReader& file, const Extent& log, uint64_t position,
                        Sector& sector) {
  return file.Read(log.offset + position % log.length, sector);
}

template <typename T>
T Load(std::span<const std::byte> bytes, size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

uint64_t DescriptorSectors(uint64_t descriptors) {
  if (descriptors <= kDescriptorsInFirstSector) return 1;
  return 1 + (descriptors - kDescriptorsInFirstSector + kDescriptorsPerSector - 1) /
                 kDescriptorsPerSector;
}

// Descriptors in the entry's sector number `index`, and where the first one lies.
struct DescriptorsOfSector {
  uint64_t count = 0;
  size_t at = 0;
};
DescriptorsOfSector DescriptorsIn(uint64_t descriptors, uint64_t index) {
  if (index == 0) {
    return {std::min<uint64_t>(descriptors, kDescriptorsInFirstSector), sizeof(LogEntryHeader)};
  }
  const uint64_t before = kDescriptorsInFirstSector + (index - 1) * kDescriptorsPerSector;
  return {std::min<uint64_t>(descriptors - before, kDescriptorsPerSector), 0};
}

bool DescriptorIsValid(const LogDescriptor& descriptor, uint64_t sequence) {
  if (descriptor.sequence != sequence || descriptor.file_offset % kLogSector != 0) return false;
  if (descriptor.signature == kDataDescriptorSignature) return true;
  return descriptor.signature == kZeroDescriptorSignature && descriptor.leading != 0 &&
         descriptor.leading % kLogSector == 0;
}

bool HeaderIsValid(const LogEntryHeader& header, const Extent& log, const Guid& guid) {
  return header.signature == kLogEntrySignature && header.log_guid == guid &&
         header.sequence != 0 && header.length != 0 && header.length % kLogSector == 0 &&
         header.length <= log.length && header.tail % kLogSector == 0 && header.tail < log.length &&
         DescriptorSectors(header.descriptors) <= header.length / kLogSector;
}

// The descriptors of one sector of an entry that is being checked; counts those with data.
bool DescriptorsAreValid(const LogEntryHeader& header, uint64_t index, const Sector& sector,
                         uint64_t* with_data) {
  const DescriptorsOfSector here = DescriptorsIn(header.descriptors, index);
  for (uint64_t i = 0; i < here.count; ++i) {
    const auto descriptor = Load<LogDescriptor>(sector, here.at + i * sizeof(LogDescriptor));
    if (!DescriptorIsValid(descriptor, header.sequence)) return false;
    if (descriptor.signature == kDataDescriptorSignature) ++*with_data;
  }
  return true;
}

bool DataSectorIsValid(const LogEntryHeader& header, const Sector& sector) {
  const auto data = Load<LogDataSector>(sector, 0);
  return data.signature == kDataSectorSignature &&
         (uint64_t{data.sequence_high} << 32 | data.sequence_low) == header.sequence;
}

// A run of entries with consecutive sequence numbers.
absl::StatusOr<std::vector<LogEntry>> ReadRun(const ImageReader& file, const Extent& log,
                                              const Guid& guid, uint64_t from) {
  std::vector<LogEntry> run;
  uint64_t length = 0;
  while (length < log.length) {
    LogEntry entry;
    const uint64_t position = (from + length) % log.length;
    ASSIGN_OR_RETURN(const bool found, ReadLogEntry(file, log, guid, position, &entry));
    if (!found) break;
    if (!run.empty() && entry.header.sequence != run.back().header.sequence + 1) break;
    if (entry.header.length > log.length - length) break;
    length += entry.header.length;
    run.push_back(entry);
  }
  return run;
}

class FileTarget final : public ReplayTarget {
 public:
  explicit FileTarget(ImageFile& file) : file_(file) {}
  absl::Status Write(uint64_t offset, std::span<const std::byte> bytes) override {
    return file_.Write(offset, bytes);
  }
  absl::Status WriteZeroes(uint64_t offset, uint64_t length) override {
    return file_.WriteZeroes(offset, length);
  }
  absl::Status Extend(uint64_t size) override { return file_.Extend(size); }

 private:
  ImageFile& file_;
};

class OverlayTarget final : public ReplayTarget {
 public:
  explicit OverlayTarget(OverlayReader& overlay) : overlay_(overlay) {}
  absl::Status Write(uint64_t offset, std::span<const std::byte> bytes) override {
    RETURN_IF_ERROR(Account(bytes.size()));
    overlay_.Put(offset, {bytes.begin(), bytes.end()});
    return absl::OkStatus();
  }
  absl::Status WriteZeroes(uint64_t offset, uint64_t length) override {
    RETURN_IF_ERROR(Account(0));
    overlay_.PutZeroes(offset, length);
    return absl::OkStatus();
  }
  absl::Status Extend(uint64_t size) override {
    overlay_.Extend(size);
    return absl::OkStatus();
  }

 private:
  // What Hyper-V writes is 1 MiB.
  static constexpr uint64_t kMaxMemory = 64 * kMiB;
  static constexpr uint64_t kPieceOverhead = 128;
  absl::Status Account(uint64_t bytes) {
    memory_ += bytes + kPieceOverhead;
    if (memory_ <= kMaxMemory) return absl::OkStatus();
    return ResourceExhausted("VHDX: the log is too large to be replayed in memory");
  }
  OverlayReader& overlay_;
  uint64_t memory_ = 0;
};

// What replay may touch.
class ReplayBounds {
 public:
  ReplayBounds(const Extent& log, std::span<const LogEntry> entries) : log_(log) {
    for (const LogEntry& entry : entries) {
      end_ = std::max(end_, entry.header.last_file_offset);
    }
  }
  [[nodiscard]] uint64_t end() const { return end_; }
  [[nodiscard]] absl::Status Check(uint64_t offset, uint64_t length) const {
    if (offset >= kRegionTableOffset[0] && offset <= end_ && length <= end_ - offset &&
        !log_.Overlaps({offset, length})) {
      return absl::OkStatus();
    }
    return InvalidArgument("VHDX: the log would change what it must not");
  }

 private:
  const Extent log_;
  uint64_t end_ = 0;
};

absl::Status ApplyEntry(const ImageReader& file, const Extent& log, const LogEntry& entry,
                        const ReplayBounds& bounds, ReplayTarget& target) {
  const uint64_t descriptor_sectors = DescriptorSectors(entry.header.descriptors);
  uint64_t data_position = entry.position + descriptor_sectors * kLogSector;
  for (uint64_t index = 0; index < descriptor_sectors; ++index) {
    Sector sector;
    RETURN_IF_ERROR(ReadSector(file, log, entry.position + index * kLogSector, sector));
    const DescriptorsOfSector here = DescriptorsIn(entry.header.descriptors, index);
    for (uint64_t i = 0; i < here.count; ++i) {
      const auto descriptor = Load<LogDescriptor>(sector, here.at + i * sizeof(LogDescriptor));
      if (descriptor.signature == kZeroDescriptorSignature) {
        RETURN_IF_ERROR(bounds.Check(descriptor.file_offset, descriptor.leading));
        RETURN_IF_ERROR(target.WriteZeroes(descriptor.file_offset, descriptor.leading));
        continue;
      }
      RETURN_IF_ERROR(bounds.Check(descriptor.file_offset, kLogSector));
      Sector data;
      RETURN_IF_ERROR(ReadSector(file, log, data_position, data));
      data_position += kLogSector;
      std::memcpy(data.data(), &descriptor.leading, sizeof(descriptor.leading));
      std::memcpy(data.data() + kLogSector - sizeof(descriptor.trailing), &descriptor.trailing,
                  sizeof(descriptor.trailing));
      RETURN_IF_ERROR(target.Write(descriptor.file_offset, data));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> ReadLogEntry(const ImageReader& file, const Extent& log, const Guid& guid,
                                  uint64_t position, LogEntry* entry) {
  Sector sector;
  RETURN_IF_ERROR(ReadSector(file, log, position, sector));
  auto header = Load<LogEntryHeader>(sector, 0);
  if (!HeaderIsValid(header, log, guid)) return false;
  const uint64_t sectors = header.length / kLogSector;
  const uint64_t descriptor_sectors = DescriptorSectors(header.descriptors);
  uint64_t with_data = 0;
  uint32_t checksum = 0;
  for (uint64_t index = 0; index < sectors; ++index) {
    if (index > 0) {
      RETURN_IF_ERROR(ReadSector(file, log, position + index * kLogSector, sector));
    }
    // The cheap look comes first: an entry's sectors cannot begin another entry, so a file full of
    // promising headers costs no more than its length.
    const bool valid = index < descriptor_sectors
                           ? DescriptorsAreValid(header, index, sector, &with_data)
                           : DataSectorIsValid(header, sector);
    if (!valid) return false;
    if (index == 0) std::memset(sector.data() + offsetof(LogEntryHeader, checksum), 0, 4);
    checksum = Crc32c(sector, checksum);
  }
  if (checksum != header.checksum || with_data != sectors - descriptor_sectors) return false;
  *entry = {.header = header, .position = position};
  return true;
}

absl::StatusOr<std::vector<LogEntry>> FindActiveSequence(const ImageReader& file,
                                                         const CurrentHeader& header) {
  const Extent log = header.log();
  std::vector<LogEntry> active;
  for (uint64_t start = 0; start < log.length;) {
    ASSIGN_OR_RETURN(std::vector<LogEntry> run, ReadRun(file, log, header.header.log_guid, start));
    uint64_t length = 0;
    for (const LogEntry& entry : run) length += entry.header.length;
    start += std::max(length, kLogSector);
    if (run.empty()) continue;
    const auto tail = std::find_if(run.begin(), run.end(), [&](const LogEntry& entry) {
      return entry.position == run.back().header.tail;
    });
    if (tail == run.end()) continue;  // the beginning of a newer one that wraps, or a leftover
    if (active.empty() || run.back().header.sequence > active.back().header.sequence) {
      active.assign(tail, run.end());
    }
  }
  if (active.empty()) return InvalidArgument("VHDX: the log has nothing that can be replayed");
  if (file.size() < active.back().header.flushed_file_offset) {
    return InvalidArgument("VHDX: the file was cut off after its log was written");
  }
  return active;
}

absl::Status ApplyEntries(const ImageReader& file, const CurrentHeader& header,
                          std::span<const LogEntry> entries, ReplayTarget& target) {
  const ReplayBounds bounds(header.log(), entries);
  if (bounds.end() > 2 * kMaxDiskSize) return InvalidArgument("VHDX: the log is damaged");
  for (const LogEntry& entry : entries) {
    RETURN_IF_ERROR(ApplyEntry(file, header.log(), entry, bounds, target));
  }
  return target.Extend(entries.back().header.last_file_offset);
}

absl::Status ReplayInMemory(const ImageReader& file, OverlayReader& overlay) {
  ASSIGN_OR_RETURN(const CurrentHeader header, ReadCurrentHeader(file));
  if (!header.needs_replay()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<LogEntry> entries, FindActiveSequence(file, header));
  OverlayTarget target(overlay);
  return ApplyEntries(file, header, entries, target);
}

absl::Status UpdateHeader(ImageFile& file, CurrentHeader& current, Header header) {
  uint64_t sequence = current.header.sequence;
  unsigned slot = current.slot;
  for (int round = 0; round < 2; ++round) {
    header.sequence = ++sequence;
    slot ^= 1;
    const Header sealed = Sealed(header);
    RETURN_IF_ERROR(file.Write(kHeaderOffset[slot], std::as_bytes(std::span(&sealed, 1))));
    RETURN_IF_ERROR(file.Flush());
    current = {.header = sealed, .slot = slot};
  }
  return absl::OkStatus();
}

absl::Status ReplayIntoFile(ImageFile& file, const Guid& new_file_write_guid) {
  ASSIGN_OR_RETURN(CurrentHeader current, ReadCurrentHeader(file));
  if (!current.needs_replay()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<LogEntry> entries, FindActiveSequence(file, current));
  Header header = current.header;
  header.file_write_guid = new_file_write_guid;
  RETURN_IF_ERROR(UpdateHeader(file, current, header));
  FileTarget target(file);
  RETURN_IF_ERROR(ApplyEntries(file, current, entries, target));
  RETURN_IF_ERROR(file.Flush());
  header.log_guid = Guid{};
  return UpdateHeader(file, current, header);
}

uint64_t LogEntrySize(size_t descriptors, size_t data_sectors) {
  return (DescriptorSectors(descriptors) + data_sectors) * kLogSector;
}

std::vector<std::byte> EncodeLogEntry(const LogEntryFields& fields,
                                      std::span<const LogUpdate> updates) {
  const auto data_sectors = static_cast<size_t>(std::count_if(
      updates.begin(), updates.end(), [](const LogUpdate& u) { return !u.sector.empty(); }));
  std::vector<std::byte> bytes(LogEntrySize(updates.size(), data_sectors));
  LogEntryHeader header{
      .signature = kLogEntrySignature,
      .checksum = 0,
      .length = static_cast<uint32_t>(bytes.size()),
      .tail = fields.tail,
      .sequence = fields.sequence,
      .descriptors = static_cast<uint32_t>(updates.size()),
      .reserved = 0,
      .log_guid = fields.log_guid,
      .flushed_file_offset = fields.flushed_file_offset,
      .last_file_offset = fields.last_file_offset,
  };
  // The header and a descriptor differ in size by two descriptors, so all descriptors lie in a row.
  std::byte* descriptor_at = bytes.data() + sizeof(header);
  std::byte* data_at = bytes.data() + DescriptorSectors(updates.size()) * kLogSector;
  for (const LogUpdate& update : updates) {
    LogDescriptor descriptor{.signature = kZeroDescriptorSignature,
                             .trailing = 0,
                             .leading = update.zero_length,
                             .file_offset = update.file_offset,
                             .sequence = fields.sequence};
    if (!update.sector.empty()) {
      descriptor.signature = kDataDescriptorSignature;
      descriptor.leading = Load<uint64_t>(update.sector, 0);
      descriptor.trailing = Load<uint32_t>(update.sector, kLogSector - sizeof(uint32_t));
      LogDataSector data{.signature = kDataSectorSignature,
                         .sequence_high = static_cast<uint32_t>(fields.sequence >> 32),
                         .data = {},
                         .sequence_low = static_cast<uint32_t>(fields.sequence)};
      std::memcpy(data.data, update.sector.data() + sizeof(uint64_t), sizeof(data.data));
      std::memcpy(data_at, &data, sizeof(data));
      data_at += kLogSector;
    }
    std::memcpy(descriptor_at, &descriptor, sizeof(descriptor));
    descriptor_at += sizeof(descriptor);
  }
  std::memcpy(bytes.data(), &header, sizeof(header));
  header.checksum = Crc32c(bytes);
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

}  // namespace partita::vhdx
