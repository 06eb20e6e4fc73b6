#include "vsc/storage_vsc.h"

namespace partita::vsc {
namespace {

namespace proto = vmbus::storage;
using vmbus::RingStatus;
using vmbus::client::Channel;
using vmbus::client::Result;

constexpr size_t kMaxPages = 258;  // of one transfer

void PutBig(uint8_t* to, uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size; ++i) to[i] = static_cast<uint8_t>(value >> (8 * (size - 1 - i)));
}
uint64_t GetBig(const std::byte* from, unsigned size) {
  uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i) value = (value << 8) | static_cast<uint8_t>(from[i]);
  return value;
}

}  // namespace

Result StorageVsc::Control(uint32_t operation, proto::Packet* packet, uint64_t transaction) {
  packet->operation = operation;
  packet->flags = 1;
  const auto bytes = std::as_bytes(std::span(packet, 1));
  if (primary_.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested, transaction, {},
                              bytes) != RingStatus::kOk) {
    return Result::kNoRoom;
  }
  primary_.Commit();
  while (true) {
    vmbus::Packet answer;
    const RingStatus status = primary_.reader().Next(&answer);
    if (status == RingStatus::kOk) {
      primary_.Commit();
      if (answer.descriptor.type != vmbus::kPacketCompletion ||
          answer.descriptor.transaction_id != transaction ||
          answer.payload.size() < sizeof(*packet)) {
        continue;
      }
      std::memcpy(packet, answer.payload.data(), sizeof(*packet));
      return packet->operation == proto::kCompleteIo && packet->status == 0 ? Result::kOk
                                                                            : Result::kRefused;
    }
    if (status != RingStatus::kEmpty) return Result::kRefused;
    if (!transport_.Wait()) return Result::kTimedOut;
  }
}

Result StorageVsc::Initialize() {
  proto::Packet packet{};
  Result result = Control(proto::kBeginInitialization, &packet, proto::kInitTransaction);
  if (result != Result::kOk) return result;
  packet = {};
  packet.version.version = proto::kVersion6_2;
  result = Control(proto::kQueryProtocolVersion, &packet, proto::kInitTransaction);
  if (result != Result::kOk) return result;
  packet = {};
  result = Control(proto::kQueryProperties, &packet, proto::kInitTransaction);
  if (result != Result::kOk) return result;
  proto::Properties properties;
  std::memcpy(&properties, packet.properties, sizeof(properties));
  max_subchannels_ = properties.max_channels;
  max_transfer_ = properties.max_transfer;
  packet = {};
  return Control(proto::kEndInitialization, &packet, proto::kInitTransaction);
}

Result StorageVsc::RequestSubChannels(uint16_t count) {
  proto::Packet packet{};
  packet.subchannel_count = count;
  return Control(proto::kCreateSubChannels, &packet, proto::kInitTransaction);
}

Result StorageVsc::Reset() {
  proto::Packet packet{};
  return Control(proto::kResetBus, &packet, proto::kResetTransaction);
}

bool StorageVsc::Submit(Channel& channel, uint8_t lun, std::span<const uint8_t> cdb,
                        const std::byte* data, uint32_t length, bool data_in, uint64_t tag) {
  proto::Packet packet{};
  packet.operation = proto::kExecuteSrb;
  packet.flags = 1;
  proto::ScsiRequest& srb = packet.srb;
  srb.length = sizeof(srb);
  srb.lun = lun;
  srb.cdb_length = static_cast<uint8_t>(cdb.size());
  srb.sense_length = proto::kSenseSize;
  srb.data_direction = length == 0 ? proto::kNoData : data_in ? proto::kDataIn : proto::kDataOut;
  srb.data_length = length;
  std::memcpy(srb.cdb_or_sense, cdb.data(), cdb.size());
  const auto payload = std::as_bytes(std::span(&packet, 1));
  if (length == 0) {
    return channel.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested, tag, {},
                                  payload) == RingStatus::kOk;
  }
  struct {
    vmbus::GpaDirectHeader header;
    vmbus::GpaRange range;
    uint64_t pfns[kMaxPages];
  } buffer;
  const uint64_t address = reinterpret_cast<uintptr_t>(data);
  const auto offset = static_cast<uint32_t>(address % vmbus::kRingPage);
  const size_t pages = (size_t{offset} + length + vmbus::kRingPage - 1) / vmbus::kRingPage;
  if (pages > kMaxPages) return false;
  buffer.header = {.reserved = 0, .range_count = 1};
  buffer.range = {.byte_count = length, .byte_offset = offset};
  for (size_t i = 0; i < pages; ++i) {
    buffer.pfns[i] = transport_.PfnOf(data - offset + i * vmbus::kRingPage);
  }
  const auto headers =
      std::as_bytes(std::span(&buffer, 1))
          .first(sizeof(buffer.header) + sizeof(buffer.range) + pages * sizeof(uint64_t));
  return channel.writer().Write(vmbus::kPacketGpaDirect, vmbus::kCompletionRequested, tag, headers,
                                payload) == RingStatus::kOk;
}

bool StorageVsc::SubmitReadWrite(Channel& channel, uint8_t lun, bool write, uint64_t lba,
                                 uint32_t blocks, std::byte* data, uint32_t length, uint64_t tag) {
  constexpr uint8_t kRead16 = 0x88, kWrite16 = 0x8A;
  uint8_t cdb[16] = {write ? kWrite16 : kRead16};
  PutBig(cdb + 2, lba, 8);
  PutBig(cdb + 10, blocks, 4);
  return Submit(channel, lun, cdb, data, length, !write, tag);
}

RingStatus StorageVsc::Poll(Channel& channel, Completion* completion) {
  while (true) {
    vmbus::Packet packet;
    const RingStatus status = channel.reader().Next(&packet);
    if (status != RingStatus::kOk) return status;
    if (packet.descriptor.type != vmbus::kPacketCompletion) continue;  // host notifications
    proto::Packet answer{};
    if (packet.payload.size() < sizeof(answer)) continue;
    std::memcpy(&answer, packet.payload.data(), sizeof(answer));
    completion->tag = packet.descriptor.transaction_id;
    completion->scsi_status = answer.srb.scsi_status;
    completion->srb_status = answer.srb.srb_status;
    completion->ok = answer.srb.srb_status == proto::kSrbSuccess && answer.srb.scsi_status == 0;
    completion->transferred = answer.srb.data_length;
    completion->sense_key = answer.srb.cdb_or_sense[2];
    completion->sense_code = answer.srb.cdb_or_sense[12];
    return RingStatus::kOk;
  }
}

bool StorageVsc::Execute(uint8_t lun, std::span<const uint8_t> cdb, std::span<std::byte> data,
                         bool data_in, Completion* completion) {
  constexpr uint64_t kTag = 0xC0DE;
  if (!Submit(primary_, lun, cdb, data.data(), static_cast<uint32_t>(data.size()), data_in, kTag)) {
    return false;
  }
  primary_.Commit();
  while (true) {
    const RingStatus status = Poll(primary_, completion);
    if (status == RingStatus::kOk) {
      primary_.Commit();
      if (completion->tag == kTag) return true;
      continue;
    }
    if (status != RingStatus::kEmpty || !transport_.Wait()) return false;
  }
}

bool StorageVsc::ReadCapacity(uint8_t lun, std::byte* page, DiskGeometry* geometry) {
  uint8_t cdb[16] = {0x9E, 0x10};
  constexpr uint32_t kLength = 32;
  PutBig(cdb + 10, kLength, 4);
  Completion completion;
  if (!Execute(lun, cdb, std::span(page, kLength), true, &completion) || !completion.ok) {
    return false;
  }
  geometry->blocks = GetBig(page, 8) + 1;
  geometry->block_size = static_cast<uint32_t>(GetBig(page + 8, 4));
  return geometry->block_size != 0;
}

}  // namespace partita::vsc
