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

Result FromRing(RingStatus status) {
  if (status == RingStatus::kOk) return Result::kOk;
  return status == RingStatus::kFull ? Result::kNoRoom : Result::kBroken;
}

Completion CompletionOf(uint64_t tag, const proto::Packet& answer) {
  Completion completion;
  completion.tag = tag;
  completion.scsi_status = answer.srb.scsi_status;
  completion.srb_status = answer.srb.srb_status;
  completion.ok = answer.srb.srb_status == proto::kSrbSuccess && answer.srb.scsi_status == 0;
  completion.transferred = answer.srb.data_length;
  completion.sense_key = answer.srb.cdb_or_sense[2];
  completion.sense_code = answer.srb.cdb_or_sense[12];
  return completion;
}
Completion CompletionOf(const vmbus::Packet& packet) {
  proto::Packet answer{};
  if (packet.payload.size() >= sizeof(answer)) {  // what is too short says that it failed
    std::memcpy(&answer, packet.payload.data(), sizeof(answer));
  }
  return CompletionOf(packet.descriptor.transaction_id, answer);
}

}  // namespace

Result StorageVsc::Control(uint32_t operation, proto::Packet* packet, uint64_t transaction) {
  packet->operation = operation;
  packet->flags = 1;
  if (in_flight_ > kKept) return Result::kNoRoom;
  const Result sent =
      FromRing(primary_.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested,
                                       transaction, {}, std::as_bytes(std::span(packet, 1))));
  if (sent != Result::kOk) return sent;
  primary_.Commit();
  const Result result = AwaitAnswer(transaction, packet);
  if (result != Result::kOk) return result;
  return packet->operation == proto::kCompleteIo && packet->status == 0 ? Result::kOk
                                                                        : Result::kRefused;
}

Result StorageVsc::AwaitAnswer(uint64_t transaction, proto::Packet* answer) {
  while (true) {
    vmbus::Packet packet;
    const RingStatus status = primary_.reader().Next(&packet);
    primary_.Commit();
    if (status == RingStatus::kEmpty) {
      if (!primary_.AwaitPacket()) return Result::kTimedOut;
      continue;
    }
    if (status != RingStatus::kOk) return Result::kBroken;
    if (packet.descriptor.type != vmbus::kPacketCompletion) continue;  // host notifications
    if (packet.descriptor.transaction_id == transaction) {
      if (packet.payload.size() < sizeof(*answer)) return Result::kRefused;
      std::memcpy(answer, packet.payload.data(), sizeof(*answer));
      return Result::kOk;
    }
    if (kept_count_ == kKept) continue;  // an answer to nothing: fewer are in flight
    kept_[(kept_first_ + kept_count_++) % kKept] = CompletionOf(packet);
  }
}

Result StorageVsc::NegotiateVersion() {
  version_ = 0;
  for (const uint16_t version : {proto::kVersion6_2, proto::kVersion6_0, proto::kVersion5_1}) {
    proto::Packet packet{};
    packet.version.version = version;
    const Result result = Control(proto::kQueryProtocolVersion, &packet, proto::kInitTransaction);
    if (result == Result::kRefused) continue;
    if (result == Result::kOk) version_ = version;
    return result;
  }
  return Result::kRefused;
}

Result StorageVsc::Initialize() {
  in_flight_ = 0;
  kept_first_ = kept_count_ = 0;
  proto::Packet packet{};
  Result result = Control(proto::kBeginInitialization, &packet, proto::kInitTransaction);
  if (result != Result::kOk) return result;
  result = NegotiateVersion();
  if (result != Result::kOk) return result;
  packet = {};
  result = Control(proto::kQueryProperties, &packet, proto::kInitTransaction);
  if (result != Result::kOk) return result;
  proto::Properties properties;
  std::memcpy(&properties, packet.properties, sizeof(properties));
  max_subchannels_ = properties.max_channels;
  // A transfer need not begin on a page: one page more than its length says.
  constexpr uint32_t kMost = (kMaxPages - 1) * vmbus::kRingPage;
  max_transfer_ = properties.max_transfer < kMost ? properties.max_transfer : kMost;
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

Result StorageVsc::Submit(Channel& channel, uint8_t lun, std::span<const uint8_t> cdb,
                          const std::byte* data, uint32_t length, bool data_in, uint64_t tag) {
  if (tag == 0 || tag >= kReservedTags) return Result::kInvalid;
  const Result result = Send(channel, lun, cdb, data, length, data_in, tag);
  if (result == Result::kOk && &channel == &primary_) ++in_flight_;
  return result;
}

Result StorageVsc::Send(Channel& channel, uint8_t lun, std::span<const uint8_t> cdb,
                        const std::byte* data, uint32_t length, bool data_in, uint64_t tag) {
  if (cdb.empty() || cdb.size() > kMaxCdb || length > max_transfer_) return Result::kInvalid;
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
    return FromRing(channel.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested, tag,
                                           {}, payload));
  }
  struct {
    vmbus::GpaDirectHeader header;
    vmbus::GpaRange range;
    uint64_t pfns[kMaxPages];
  } buffer;
  const uint64_t address = reinterpret_cast<uintptr_t>(data);
  const auto offset = static_cast<uint32_t>(address % vmbus::kRingPage);
  const size_t pages = (size_t{offset} + length + vmbus::kRingPage - 1) / vmbus::kRingPage;
  buffer.header = {.reserved = 0, .range_count = 1};
  buffer.range = {.byte_count = length, .byte_offset = offset};
  for (size_t i = 0; i < pages; ++i) {
    buffer.pfns[i] = transport_.PfnOf(data - offset + i * vmbus::kRingPage);
  }
  const auto headers =
      std::as_bytes(std::span(&buffer, 1))
          .first(sizeof(buffer.header) + sizeof(buffer.range) + pages * sizeof(uint64_t));
  return FromRing(channel.writer().Write(vmbus::kPacketGpaDirect, vmbus::kCompletionRequested, tag,
                                         headers, payload));
}

Result StorageVsc::SubmitReadWrite(Channel& channel, uint8_t lun, bool write, uint64_t lba,
                                   uint32_t blocks, std::byte* data, uint32_t length,
                                   uint64_t tag) {
  constexpr uint8_t kRead16 = 0x88, kWrite16 = 0x8A;
  uint8_t cdb[16] = {write ? kWrite16 : kRead16};
  PutBig(cdb + 2, lba, 8);
  PutBig(cdb + 10, blocks, 4);
  return Submit(channel, lun, cdb, data, length, !write, tag);
}

RingStatus StorageVsc::Poll(Channel& channel, Completion* completion) {
  const bool primary = &channel == &primary_;
  if (primary && kept_count_ > 0) {
    *completion = kept_[kept_first_];
    kept_first_ = (kept_first_ + 1) % kKept;
    --kept_count_;
    if (in_flight_ > 0) --in_flight_;
    return RingStatus::kOk;
  }
  while (true) {
    vmbus::Packet packet;
    const RingStatus status = channel.reader().Next(&packet);
    if (status != RingStatus::kOk) return status;
    if (packet.descriptor.type != vmbus::kPacketCompletion) continue;  // host notifications
    const uint64_t tag = packet.descriptor.transaction_id;
    if (tag >= kReservedTags && tag < kReservedTags + kExecuteTags) continue;  // was given up
    *completion = CompletionOf(packet);
    if (primary && in_flight_ > 0) --in_flight_;
    return RingStatus::kOk;
  }
}

Result StorageVsc::Execute(uint8_t lun, std::span<const uint8_t> cdb, std::span<std::byte> data,
                           bool data_in, Completion* completion) {
  if (in_flight_ > kKept) return Result::kNoRoom;
  if (data.size() > max_transfer_) return Result::kInvalid;
  // Another one each time: the answer to one that was given up must not be taken for this one's.
  const uint64_t transaction = kReservedTags + next_execute_++ % kExecuteTags;
  Result result = Send(primary_, lun, cdb, data.data(), static_cast<uint32_t>(data.size()), data_in,
                       transaction);
  if (result != Result::kOk) return result;
  primary_.Commit();
  proto::Packet answer{};
  result = AwaitAnswer(transaction, &answer);
  if (result != Result::kOk) return result;
  *completion = CompletionOf(transaction, answer);
  return Result::kOk;
}

Result StorageVsc::ReadCapacity(uint8_t lun, std::byte* page, DiskGeometry* geometry) {
  uint8_t cdb[16] = {0x9E, 0x10};
  constexpr uint32_t kLength = 32;
  PutBig(cdb + 10, kLength, 4);
  Completion completion;
  const Result result = Execute(lun, cdb, std::span(page, kLength), true, &completion);
  if (result != Result::kOk) return result;
  if (!completion.ok) return Result::kRefused;
  geometry->blocks = GetBig(page, 8) + 1;
  geometry->block_size = static_cast<uint32_t>(GetBig(page + 8, 4));
  return geometry->block_size != 0 ? Result::kOk : Result::kRefused;
}

}  // namespace partita::vsc
