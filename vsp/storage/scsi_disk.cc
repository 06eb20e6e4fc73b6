#include "vsp/storage/scsi_disk.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

namespace partita::storage {
namespace {

enum Opcode : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kRead6 = 0x08,
  kWrite6 = 0x0A,
  kInquiry = 0x12,
  kModeSense6 = 0x1A,
  kStartStopUnit = 0x1B,
  kPreventAllow = 0x1E,
  kReadCapacity10 = 0x25,
  kRead10 = 0x28,
  kWrite10 = 0x2A,
  kVerify10 = 0x2F,
  kSynchronizeCache10 = 0x35,
  kUnmap = 0x42,
  kModeSense10 = 0x5A,
  kRead16 = 0x88,
  kWrite16 = 0x8A,
  kVerify16 = 0x8F,
  kSynchronizeCache16 = 0x91,
  kWriteSame16 = 0x93,
  kServiceActionIn16 = 0x9E,
  kReadCapacity16Action = 0x10,
  kRead12 = 0xA8,
  kWrite12 = 0xAA,
};

constexpr uint32_t kMaxUnmapDescriptors = 256;
constexpr uint64_t kMaxUnmapBlocks = 1u << 22;  // 2 GiB of 512-byte blocks per command
constexpr uint64_t kMaxWriteSameBlocks = 1u << 22;

using Cdb = std::span<const uint8_t, 16>;

uint64_t Big(std::span<const uint8_t> bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = (value << 8) | bytes[at + i];
  return value;
}
void PutBig(std::vector<uint8_t>& bytes, size_t at, uint64_t value, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    bytes[at + i] = static_cast<uint8_t>(value >> (8 * (size - 1 - i)));
  }
}
void PutText(std::vector<uint8_t>& bytes, size_t at, std::string_view text, size_t width) {
  for (size_t i = 0; i < width; ++i) {
    bytes[at + i] = static_cast<uint8_t>(i < text.size() ? text[i] : ' ');
  }
}

ScsiOutcome Check(Sense sense) {
  ScsiOutcome outcome;
  outcome.kind = ScsiOutcome::Kind::kCheck;
  outcome.sense = sense;
  return outcome;
}
ScsiOutcome Good() { return {}; }
// Truncated to what the CDB allows; the guest's buffer truncates further.
ScsiOutcome Answer(std::vector<uint8_t> data, uint64_t allocation) {
  ScsiOutcome outcome;
  data.resize(std::min<uint64_t>(data.size(), allocation));
  outcome.data = std::move(data);
  return outcome;
}

std::vector<uint8_t> StandardInquiry(uint8_t type) {
  std::vector<uint8_t> data(36);
  data[0] = type;
  data[2] = 0x05;  // SPC-3
  data[3] = 0x02;
  data[4] = static_cast<uint8_t>(data.size() - 5);
  data[7] = 0x02;  // command queueing
  PutText(data, 8, "Msft", 8);
  PutText(data, 16, "Virtual Disk", 16);
  PutText(data, 32, "1.0", 4);
  return data;
}

}  // namespace

ScsiDisk::ScsiDisk(std::unique_ptr<BlockBackend> backend, Identity identity)
    : backend_(std::move(backend)),
      identity_(std::move(identity)),
      blocks_(backend_->properties().size / backend_->properties().logical_block),
      block_size_(backend_->properties().logical_block),
      discard_(backend_->properties().discard) {}

absl::Status ScsiDisk::Sync() const {
  if (backend_->properties().read_only) return absl::OkStatus();
  if (poisoned()) return Unavailable("an earlier flush of the disk failed");
  absl::Status status = backend_->Sync();
  if (!status.ok()) Poison();
  return status;
}

std::vector<uint8_t> ScsiDisk::AbsentInquiry() { return StandardInquiry(0x7F); }

std::vector<uint8_t> ScsiDisk::ReportLuns(std::span<const uint8_t> luns) {
  std::vector<uint8_t> data(8 + luns.size() * 8);
  PutBig(data, 0, luns.size() * 8, 4);
  for (size_t i = 0; i < luns.size(); ++i) data[8 + i * 8 + 1] = luns[i];
  return data;
}

Sense ScsiDisk::SenseForError(BlockOp op, int error) {
  if (op == BlockOp::kRead) return kUnrecoveredRead;
  if ((op == BlockOp::kDiscard || op == BlockOp::kWriteZeroes) && error == EOPNOTSUPP) {
    return kInvalidOpcode;  // the guest then stops asking
  }
  return error == EROFS || error == EBADF ? kWriteProtected : kWriteError;
}

uint32_t ScsiDisk::ParameterLength(Cdb cdb, uint32_t data_length) {
  constexpr uint32_t kMaxUnmapList = 8 + 16 * kMaxUnmapDescriptors;
  constexpr uint32_t kMaxBlock = 4096;
  switch (cdb[0]) {
    case kUnmap:
      return std::min({static_cast<uint32_t>(Big(cdb, 7, 2)), data_length, kMaxUnmapList});
    case kWriteSame16:
      return std::min(data_length, kMaxBlock);
    default:
      return 0;
  }
}

ScsiOutcome ScsiDisk::Execute(Cdb cdb, uint32_t data_length,
                              std::span<const uint8_t> parameters) const {
  const bool fua = (cdb[1] & 0x08) != 0;
  switch (cdb[0]) {
    case kTestUnitReady:
    case kStartStopUnit:
    case kPreventAllow:
      return Good();
    case kRequestSense: {
      std::vector<uint8_t> data(18);
      data[0] = 0x70;
      data[7] = 0x0A;
      return Answer(std::move(data), cdb[4]);
    }
    case kInquiry:
      return Inquiry(cdb);
    case kModeSense6:
      return ModeSense(cdb, false);
    case kModeSense10:
      return ModeSense(cdb, true);
    case kReadCapacity10:
      return ReadCapacity10();
    case kServiceActionIn16:
      if ((cdb[1] & 0x1F) != kReadCapacity16Action) return Check(kInvalidOpcode);
      return ReadCapacity16();
    case kRead6:
    case kWrite6: {
      const uint64_t blocks = cdb[4] == 0 ? 256 : cdb[4];
      return ReadWrite(cdb[0] == kRead6 ? BlockOp::kRead : BlockOp::kWrite,
                       Big(cdb, 1, 3) & 0x1FFFFF, blocks, false, data_length);
    }
    case kRead10:
      return ReadWrite(BlockOp::kRead, Big(cdb, 2, 4), Big(cdb, 7, 2), fua, data_length);
    case kWrite10:
      return ReadWrite(BlockOp::kWrite, Big(cdb, 2, 4), Big(cdb, 7, 2), fua, data_length);
    case kRead12:
      return ReadWrite(BlockOp::kRead, Big(cdb, 2, 4), Big(cdb, 6, 4), fua, data_length);
    case kWrite12:
      return ReadWrite(BlockOp::kWrite, Big(cdb, 2, 4), Big(cdb, 6, 4), fua, data_length);
    case kRead16:
      return ReadWrite(BlockOp::kRead, Big(cdb, 2, 8), Big(cdb, 10, 4), fua, data_length);
    case kWrite16:
      return ReadWrite(BlockOp::kWrite, Big(cdb, 2, 8), Big(cdb, 10, 4), fua, data_length);
    case kVerify10:
      return Verify(Big(cdb, 2, 4), Big(cdb, 7, 2), cdb[1], data_length);
    case kVerify16:
      return Verify(Big(cdb, 2, 8), Big(cdb, 10, 4), cdb[1], data_length);
    case kSynchronizeCache10:
    case kSynchronizeCache16: {
      const bool sixteen = cdb[0] == kSynchronizeCache16;
      if (!InRange(Big(cdb, 2, sixteen ? 8 : 4), Big(cdb, sixteen ? 10 : 7, sixteen ? 4 : 2))) {
        return Check(kLbaOutOfRange);
      }
      if (poisoned()) return Check(kWriteError);
      ScsiOutcome outcome;
      outcome.kind = ScsiOutcome::Kind::kOperations;
      outcome.ranges.push_back({.op = BlockOp::kFlush});
      return outcome;
    }
    case kUnmap:
      return Unmap(cdb, parameters);
    case kWriteSame16:
      return WriteSame16(cdb, parameters);
    default:
      return Check(kInvalidOpcode);
  }
}

ScsiOutcome ScsiDisk::ReadWrite(BlockOp op, uint64_t lba, uint64_t blocks, bool fua,
                                uint32_t data_length) const {
  if (!InRange(lba, blocks)) return Check(kLbaOutOfRange);
  if (op == BlockOp::kWrite) {
    if (backend_->properties().read_only) return Check(kWriteProtected);
    if (poisoned()) return Check(kWriteError);
  }
  if (blocks == 0) return Good();
  // A buffer shorter than the CDB asks for would leave blocks half written: refuse.
  if (data_length < blocks * block_size_) return Check(kInvalidField);
  ScsiOutcome outcome;
  outcome.kind = ScsiOutcome::Kind::kTransfer;
  outcome.ranges.push_back({.op = op,
                            .offset = lba * block_size_,
                            .length = blocks * block_size_,
                            .fua = fua && op == BlockOp::kWrite});
  return outcome;
}

ScsiOutcome ScsiDisk::Verify(uint64_t lba, uint64_t blocks, uint8_t flags,
                             uint32_t data_length) const {
  constexpr uint8_t kByteCheckMask = 0x06;
  if (!InRange(lba, blocks)) return Check(kLbaOutOfRange);
  const uint8_t check = flags & kByteCheckMask;
  if (check == 0 || blocks == 0) return Good();  // the medium is as readable as the host says
  if (check != 0x02 || data_length < blocks * block_size_) return Check(kInvalidField);
  ScsiOutcome outcome;
  outcome.kind = ScsiOutcome::Kind::kVerify;
  outcome.ranges.push_back(
      {.op = BlockOp::kRead, .offset = lba * block_size_, .length = blocks * block_size_});
  return outcome;
}

ScsiOutcome ScsiDisk::Inquiry(Cdb cdb) const {
  const uint64_t allocation = Big(cdb, 3, 2);
  if ((cdb[1] & 1) != 0) {
    ScsiOutcome outcome = VitalProduct(cdb[2]);
    if (outcome.data.size() > allocation) outcome.data.resize(allocation);
    return outcome;
  }
  if (cdb[2] != 0) return Check(kInvalidField);
  return Answer(StandardInquiry(0), allocation);
}

ScsiOutcome ScsiDisk::VitalProduct(uint8_t page) const {
  const BlockProperties& properties = backend_->properties();
  std::vector<uint8_t> data(4);
  switch (page) {
    case 0x00:
      data.insert(data.end(), {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2});
      break;
    case 0x80:
      data.insert(data.end(), identity_.serial.begin(), identity_.serial.end());
      break;
    case 0x83: {
      // T10 vendor identification, then an NAA "locally assigned" name of 16 bytes.
      std::vector<uint8_t> vendor(8);
      PutText(vendor, 0, "Msft", 8);
      data.insert(data.end(), {0x02, 0x01, 0x00,
                               static_cast<uint8_t>(vendor.size() + identity_.serial.size())});
      data.insert(data.end(), vendor.begin(), vendor.end());
      data.insert(data.end(), identity_.serial.begin(), identity_.serial.end());
      data.insert(data.end(), {0x01, 0x03, 0x00, 16});
      std::array<uint8_t, 16> name = identity_.id;
      name[0] = static_cast<uint8_t>(0x60 | (name[0] & 0x0F));
      data.insert(data.end(), name.begin(), name.end());
      break;
    }
    case 0xB0: {
      data.resize(64);
      PutBig(data, 8, kMaxTransfer / block_size_, 4);
      PutBig(data, 6, std::max(1u, properties.physical_block / block_size_), 2);
      if (discard_.load()) {
        PutBig(data, 20, kMaxUnmapBlocks, 4);
        PutBig(data, 24, kMaxUnmapDescriptors, 4);
        PutBig(data, 28, std::max(1u, properties.physical_block / block_size_), 4);
        PutBig(data, 32, 0x80000000, 4);  // alignment 0 is valid
      }
      PutBig(data, 36, kMaxWriteSameBlocks, 8);
      break;
    }
    case 0xB1:
      data.resize(64);
      PutBig(data, 4, 1, 2);  // does not rotate
      break;
    case 0xB2:
      data.resize(8);
      if (discard_.load()) {
        data[5] = 0xC0;  // UNMAP and WRITE SAME(16)
        data[6] = 0x02;  // thin
      }
      break;
    default:
      return Check(kInvalidField);
  }
  data[1] = page;
  PutBig(data, 2, data.size() - 4, 2);
  return Answer(std::move(data), UINT64_MAX);
}

ScsiOutcome ScsiDisk::ModeSense(Cdb cdb, bool ten) const {
  constexpr uint8_t kAllPages = 0x3F, kCaching = 0x08, kControl = 0x0A;
  const uint8_t page = cdb[2] & 0x3F;
  const uint8_t subpage = cdb[3];
  const bool changeable = (cdb[2] >> 6) == 1;
  if ((cdb[2] >> 6) == 3) return Check({5, 0x39, 0x00});  // saved values are not supported
  if (subpage != 0 && subpage != 0xFF) return Check(kInvalidField);
  std::vector<uint8_t> data(ten ? 8 : 4);
  const uint8_t device = static_cast<uint8_t>((backend_->properties().read_only ? 0x80 : 0) | 0x10);
  data[ten ? 3 : 2] = device;  // write protect, DPO and FUA
  bool known = page == kAllPages;
  if (page == kCaching || page == kAllPages) {
    std::vector<uint8_t> caching(20);
    caching[0] = kCaching;
    caching[1] = 18;
    caching[2] = !changeable && backend_->properties().volatile_cache ? 0x04 : 0;
    data.insert(data.end(), caching.begin(), caching.end());
    known = true;
  }
  if (page == kControl || page == kAllPages) {
    std::vector<uint8_t> control(12);
    control[0] = kControl;
    control[1] = 10;
    control[3] = changeable ? 0 : 0x10;  // unrestricted reordering
    data.insert(data.end(), control.begin(), control.end());
    known = true;
  }
  if (!known) return Check(kInvalidField);
  if (ten) {
    PutBig(data, 0, data.size() - 2, 2);
    return Answer(std::move(data), Big(cdb, 7, 2));
  }
  data[0] = static_cast<uint8_t>(data.size() - 1);
  return Answer(std::move(data), cdb[4]);
}

ScsiOutcome ScsiDisk::ReadCapacity10() const {
  std::vector<uint8_t> data(8);
  PutBig(data, 0, std::min<uint64_t>(blocks_ - 1, 0xFFFFFFFF), 4);
  PutBig(data, 4, block_size_, 4);
  return Answer(std::move(data), UINT64_MAX);
}

ScsiOutcome ScsiDisk::ReadCapacity16() const {
  const BlockProperties& properties = backend_->properties();
  std::vector<uint8_t> data(32);
  PutBig(data, 0, blocks_ - 1, 8);
  PutBig(data, 8, block_size_, 4);
  const uint32_t ratio = std::max(1u, properties.physical_block / block_size_);
  data[13] = static_cast<uint8_t>(std::bit_width(ratio) - 1);
  if (discard_.load()) data[14] = 0xC0;  // thin, and unmapped blocks read as zeroes
  return Answer(std::move(data), UINT64_MAX);
}

ScsiOutcome ScsiDisk::Unmap(Cdb cdb, std::span<const uint8_t> parameters) const {
  if (!discard_.load()) {
    return Check(backend_->properties().read_only ? kWriteProtected : kInvalidOpcode);
  }
  if (poisoned()) return Check(kWriteError);
  if ((cdb[1] & 1) != 0) return Check(kInvalidField);  // anchored
  const uint64_t list = Big(cdb, 7, 2);
  if (list == 0) return Good();
  if (list < 8 || parameters.size() < 8) return Check(kParameterListLength);
  const uint64_t descriptors = Big(parameters, 2, 2);
  if (descriptors % 16 != 0 || descriptors > parameters.size() - 8) {
    return Check(kInvalidParameterList);
  }
  ScsiOutcome outcome;
  outcome.kind = ScsiOutcome::Kind::kOperations;
  for (size_t at = 8; at < 8 + descriptors; at += 16) {
    const uint64_t lba = Big(parameters, at, 8);
    const uint64_t blocks = Big(parameters, at + 8, 4);
    if (!InRange(lba, blocks)) return Check(kLbaOutOfRange);
    if (blocks > kMaxUnmapBlocks) return Check(kInvalidParameterList);
    if (blocks == 0) continue;
    outcome.ranges.push_back(
        {.op = BlockOp::kDiscard, .offset = lba * block_size_, .length = blocks * block_size_});
  }
  if (outcome.ranges.empty()) return Good();
  return outcome;
}

ScsiOutcome ScsiDisk::WriteSame16(Cdb cdb, std::span<const uint8_t> parameters) const {
  constexpr uint8_t kUnmapBit = 0x08, kAnchor = 0x10, kNoDataOut = 0x01, kObsolete = 0x06;
  if (backend_->properties().read_only) return Check(kWriteProtected);
  if (poisoned()) return Check(kWriteError);
  const uint8_t flags = cdb[1];
  if ((flags & (kAnchor | kObsolete)) != 0) return Check(kInvalidField);
  const uint64_t lba = Big(cdb, 2, 8);
  uint64_t blocks = Big(cdb, 10, 4);
  if (!InRange(lba, blocks)) return Check(kLbaOutOfRange);
  if (blocks == 0) blocks = blocks_ - lba;  // "to the end"
  if (blocks > kMaxWriteSameBlocks) return Check(kInvalidField);
  if ((flags & kNoDataOut) == 0) {
    if (parameters.size() < block_size_) return Check(kInvalidField);
    // Only a block of zeroes can become a fast operation; anything else is not worth the code and
    // no initiator of ours sends it.
    if (std::any_of(parameters.begin(), parameters.begin() + block_size_,
                    [](uint8_t b) { return b != 0; })) {
      return Check(kInvalidField);
    }
  }
  ScsiOutcome outcome;
  outcome.kind = ScsiOutcome::Kind::kOperations;
  const bool unmap = (flags & kUnmapBit) != 0 && discard_.load();
  outcome.ranges.push_back({.op = unmap ? BlockOp::kDiscard : BlockOp::kWriteZeroes,
                            .offset = lba * block_size_,
                            .length = blocks * block_size_});
  return outcome;
}

}  // namespace partita::storage
