#include "vsc/network_vsc.h"

namespace partita::vsc {
namespace {

namespace proto = vmbus::network;
using vmbus::RingStatus;
using vmbus::client::Channel;
using vmbus::client::Result;

constexpr uint64_t kControlTransaction = 0xC000000000000000;
constexpr uint64_t kSendTransaction = 1;  // plus the section

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace

// One NVSP message on the primary channel; the answer, if one is due, replaces it.
Result NetworkVsc::Exchange(proto::Nvsp* message, bool answer) {
  const RingStatus written =
      primary_.writer().Write(vmbus::kPacketInBand, answer ? vmbus::kCompletionRequested : 0,
                              kControlTransaction, {}, BytesOf(*message));
  if (written != RingStatus::kOk) {
    return written == RingStatus::kFull ? Result::kNoRoom : Result::kBroken;
  }
  primary_.Commit();
  while (answer) {
    vmbus::Packet packet;
    const RingStatus status = primary_.reader().Next(&packet);
    if (status == RingStatus::kEmpty) {
      primary_.Commit();
      if (!primary_.AwaitPacket()) return Result::kTimedOut;
      continue;
    }
    if (status != RingStatus::kOk) return Result::kBroken;
    if (packet.descriptor.type == vmbus::kPacketCompletion &&
        packet.descriptor.transaction_id == kControlTransaction &&
        packet.payload.size() >= sizeof(*message)) {
      std::memcpy(message, packet.payload.data(), sizeof(*message));
      primary_.Commit();
      return Result::kOk;
    }
    Take(primary_, packet, [this](std::byte*, uint32_t) { ++dropped_; });
  }
  return Result::kOk;
}

Result NetworkVsc::NegotiateVersion() {
  version_ = 0;
  for (const uint32_t version : {proto::kVersion6_1, proto::kVersion6, proto::kVersion5,
                                 proto::kVersion4, proto::kVersion2, proto::kVersion1}) {
    proto::Nvsp message{};
    message.type = proto::kInit;
    message.body[proto::kInitMinimum] = message.body[proto::kInitMaximum] = version;
    const Result result = Exchange(&message, true);
    if (result != Result::kOk) return result;
    if (message.body[proto::kInitStatus] != proto::kNvspSuccess) continue;
    version_ = version;
    return Result::kOk;
  }
  return Result::kRefused;
}

Result NetworkVsc::ShareReceiveBuffer() {
  Result result =
      connection_.CreateGpadl(primary_.relid(), buffers_.receive.data(),
                              buffers_.receive.size() / vmbus::kRingPage, &receive_gpadl_);
  if (result != Result::kOk) {
    receive_gpadl_ = 0;
    return result;
  }
  proto::Nvsp message{};
  message.type = proto::kSendReceiveBuffer;
  message.body[proto::kBufferGpadl] = receive_gpadl_;
  message.body[1] = proto::kReceiveBufferId;
  result = Exchange(&message, true);
  if (result != Result::kOk) return result;
  const bool taken = message.body[proto::kReceiveStatus] == proto::kNvspSuccess;
  return taken ? Result::kOk : Result::kRefused;
}

Result NetworkVsc::ShareSendBuffer() {
  Result result = connection_.CreateGpadl(primary_.relid(), buffers_.send.data(),
                                          buffers_.send.size() / vmbus::kRingPage, &send_gpadl_);
  if (result != Result::kOk) {
    send_gpadl_ = 0;
    return result;
  }
  proto::Nvsp message{};
  message.type = proto::kSendSendBuffer;
  message.body[proto::kBufferGpadl] = send_gpadl_;
  result = Exchange(&message, true);
  if (result != Result::kOk) return result;
  constexpr uint32_t kSmallestSection = 1600;  // a frame and its header
  section_size_ = message.body[proto::kSendSectionSize];
  if (message.body[proto::kSendStatus] != proto::kNvspSuccess || section_size_ < kSmallestSection) {
    return Result::kRefused;
  }
  for (size_t i = buffers_.send.size() / section_size_; i-- > 0;) {
    if (i < kSendSections) free_[free_count_++] = static_cast<uint16_t>(i);
  }
  return Result::kOk;
}

Result NetworkVsc::StartRndis() {
  proto::RndisInitialize initialize{};
  initialize.header = {proto::kRndisInitialize, sizeof(initialize)};
  initialize.request_id = next_request_;
  initialize.major = 1;
  initialize.max_transfer = 0x4000;
  std::memcpy(buffers_.scratch, &initialize, sizeof(initialize));
  Result result =
      Control(sizeof(initialize), proto::kRndisInitialize | proto::kRndisAnswer, next_request_++);
  if (result != Result::kOk) return result;
  size_t length = 0;
  result = Query(proto::kOidPermanentAddress, {}, std::as_writable_bytes(std::span(mac_)), &length);
  if (result != Result::kOk) return result;
  if (length != sizeof(mac_)) return Result::kRefused;
  const uint32_t everything = 0x2D;  // directed, all multicast, broadcast, promiscuous
  return Set(proto::kOidPacketFilter, BytesOf(everything));
}

Result NetworkVsc::Initialize(const Buffers& buffers) {
  buffers_ = buffers;
  free_count_ = 0;
  current_ = -1;
  pending_ = 0;
  std::memset(frames_, 0, sizeof(frames_));
  receive_gpadl_ = send_gpadl_ = 0;
  Result result = NegotiateVersion();
  if (result != Result::kOk) return result;
  proto::Nvsp message{};
  if (version_ >= proto::kVersion2) {
    message.type = proto::kSendNdisConfig;
    message.body[proto::kConfigMtu] = 1514;
    result = Exchange(&message, false);
    if (result != Result::kOk) return result;
  }
  message = {};
  message.type = proto::kSendNdisVersion;
  message.body[0] = 6;
  message.body[1] = version_ >= proto::kVersion5 ? 0x1E : 1;  // as Windows of their times
  result = Exchange(&message, false);
  if (result != Result::kOk) return result;
  result = ShareReceiveBuffer();
  if (result != Result::kOk) return result;
  result = ShareSendBuffer();
  return result == Result::kOk ? StartRndis() : result;
}

Result NetworkVsc::Close() {
  const auto revoke = [this](uint32_t type, uint32_t id) {
    proto::Nvsp message{};
    message.type = type;
    message.body[0] = id;
    static_cast<void>(Exchange(&message, false));  // closing does it as well
  };
  if (receive_gpadl_ != 0) revoke(proto::kRevokeReceiveBuffer, proto::kReceiveBufferId);
  if (send_gpadl_ != 0) revoke(proto::kRevokeSendBuffer, 0);
  Result result = primary_.Close(connection_);
  for (uint32_t* gpadl : {&receive_gpadl_, &send_gpadl_}) {
    if (*gpadl == 0) continue;
    const Result torn = connection_.TearDownGpadl(primary_.relid(), *gpadl);
    if (result == Result::kOk) result = torn;
    *gpadl = 0;
  }
  return result;
}

// Sends the message in the scratch page and waits for the answer with its type and request.
Result NetworkVsc::Control(size_t length, uint32_t answer_type, uint32_t request) {
  proto::Nvsp message{};
  message.type = proto::kSendRndisPacket;
  message.body[proto::kRndisChannel] = proto::kControlChannel;
  message.body[proto::kRndisSection] = proto::kNoSection;
  struct {
    vmbus::GpaDirectHeader header;
    vmbus::GpaRange range;
    uint64_t pfn;
  } headers = {{0, 1}, {static_cast<uint32_t>(length), 0}, transport_.PfnOf(buffers_.scratch)};
  answer_length_ = 0;
  if (primary_.writer().Write(vmbus::kPacketGpaDirect, vmbus::kCompletionRequested,
                              kControlTransaction, BytesOf(headers),
                              BytesOf(message)) != RingStatus::kOk) {
    return Result::kNoRoom;
  }
  primary_.Commit();
  while (true) {
    const bool more = Poll(primary_, [this](std::byte*, uint32_t) { ++dropped_; });
    primary_.Commit();
    if (answer_length_ >= sizeof(proto::RndisSetAnswer)) {
      proto::RndisSetAnswer answer{};
      std::memcpy(&answer, answer_, sizeof(answer));
      if (answer.header.type == answer_type && answer.request_id == request) {
        return answer.status == proto::kRndisSuccess ? Result::kOk : Result::kRefused;
      }
      answer_length_ = 0;
    }
    if (!more && !primary_.AwaitPacket()) return Result::kTimedOut;
  }
}

Result NetworkVsc::Query(uint32_t oid, std::span<const std::byte> input, std::span<std::byte> out,
                         size_t* length) {
  if (input.size() > 1024) return Result::kNoRoom;
  proto::RndisQuery query{};
  query.header = {proto::kRndisQuery, static_cast<uint32_t>(sizeof(query) + input.size())};
  query.request_id = next_request_;
  query.oid = oid;
  query.length = static_cast<uint32_t>(input.size());
  query.offset = sizeof(query) - proto::kRndisOffsetBase;
  std::memcpy(buffers_.scratch, &query, sizeof(query));
  if (!input.empty()) std::memcpy(buffers_.scratch + sizeof(query), input.data(), input.size());
  const Result result =
      Control(query.header.length, proto::kRndisQuery | proto::kRndisAnswer, next_request_++);
  if (result != Result::kOk) return result;
  proto::RndisQueryAnswer answer{};
  if (answer_length_ < sizeof(answer)) return Result::kRefused;
  std::memcpy(&answer, answer_, sizeof(answer));
  const uint64_t start = uint64_t{answer.offset} + proto::kRndisOffsetBase;
  if (start < sizeof(answer) || start > answer_length_ || answer.length > answer_length_ - start ||
      answer.length > out.size()) {
    return Result::kRefused;
  }
  std::memcpy(out.data(), answer_ + start, answer.length);
  *length = answer.length;
  return Result::kOk;
}

Result NetworkVsc::Set(uint32_t oid, std::span<const std::byte> value) {
  if (value.size() > 1024) return Result::kNoRoom;
  proto::RndisQuery set{};
  set.header = {proto::kRndisSet, static_cast<uint32_t>(sizeof(set) + value.size())};
  set.request_id = next_request_;
  set.oid = oid;
  set.length = static_cast<uint32_t>(value.size());
  set.offset = sizeof(set) - proto::kRndisOffsetBase;
  std::memcpy(buffers_.scratch, &set, sizeof(set));
  if (!value.empty()) std::memcpy(buffers_.scratch + sizeof(set), value.data(), value.size());
  return Control(set.header.length, proto::kRndisSet | proto::kRndisAnswer, next_request_++);
}

Result NetworkVsc::RequestSubChannels(uint32_t count, uint32_t* granted) {
  proto::Nvsp message{};
  message.type = proto::kSubChannel;
  message.body[proto::kSubOperation] = proto::kSubChannelAllocate;
  message.body[proto::kSubCount] = count;
  const Result result = Exchange(&message, true);
  if (result != Result::kOk) return result;
  if (message.body[proto::kSubOperation] != proto::kNvspSuccess) return Result::kRefused;
  *granted = message.body[proto::kSubCount];
  return Result::kOk;
}

std::byte* NetworkVsc::Prepare(uint32_t length) {
  const uint32_t message = (static_cast<uint32_t>(sizeof(proto::RndisFrame)) + length + 7) & ~7u;
  if (current_ < 0) {
    if (free_count_ == 0) return nullptr;
    current_ = free_[--free_count_];
    filled_ = 0;
    frames_[current_] = 0;
  }
  if (filled_ + message > section_size_ || frames_[current_] == kFramesPerSection) return nullptr;
  std::byte* at = buffers_.send.data() + static_cast<size_t>(current_) * section_size_ + filled_;
  proto::RndisFrame header{};
  header.header = {proto::kRndisPacket, message};
  header.data_offset = sizeof(header) - proto::kRndisOffsetBase;
  header.data_length = length;
  std::memcpy(at, &header, sizeof(header));
  filled_ += message;
  ++frames_[current_];
  ++pending_;
  return at + sizeof(header);
}

bool NetworkVsc::Flush(Channel& channel) {
  if (current_ < 0) return true;
  proto::Nvsp message{};
  message.type = proto::kSendRndisPacket;
  message.body[proto::kRndisChannel] = proto::kDataChannel;
  message.body[proto::kRndisSection] = static_cast<uint32_t>(current_);
  message.body[proto::kRndisSectionSize] = filled_;
  if (channel.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested,
                             kSendTransaction + static_cast<uint64_t>(current_), {},
                             BytesOf(message)) != RingStatus::kOk) {
    return false;
  }
  current_ = -1;
  return true;
}

std::span<std::byte> NetworkVsc::Range(const vmbus::Packet& packet, size_t i) const {
  proto::TransferPageHeader header{};
  if (packet.headers.size() < sizeof(header)) return {};
  std::memcpy(&header, packet.headers.data(), sizeof(header));
  const size_t at = sizeof(header) + i * sizeof(proto::TransferPageRange);
  proto::TransferPageRange range{};
  if (i >= header.range_count || packet.headers.size() < at + sizeof(range)) return {};
  std::memcpy(&range, packet.headers.data() + at, sizeof(range));
  if (range.byte_offset > buffers_.receive.size() ||
      range.byte_count > buffers_.receive.size() - range.byte_offset || range.byte_count == 0) {
    return {};
  }
  return buffers_.receive.subspan(range.byte_offset, range.byte_count);
}

std::span<std::byte> NetworkVsc::Data(std::span<std::byte> message) {
  proto::RndisFrame frame{};
  if (message.size() < sizeof(proto::RndisHeader)) return {};
  std::memcpy(&frame.header, message.data(), sizeof(frame.header));
  if (frame.header.type != proto::kRndisPacket) {
    answer_length_ = message.size() < sizeof(answer_) ? message.size() : sizeof(answer_);
    std::memcpy(answer_, message.data(), answer_length_);
    return {};
  }
  if (message.size() < sizeof(frame)) return {};
  std::memcpy(&frame, message.data(), sizeof(frame));
  const uint64_t start = uint64_t{frame.data_offset} + proto::kRndisOffsetBase;
  if (start > message.size() || frame.data_length > message.size() - start) return {};
  return message.subspan(start, frame.data_length);
}

void NetworkVsc::AnswerReceive(Channel& channel, uint64_t transaction) {
  proto::Nvsp message{};
  message.type = proto::kSendRndisPacketComplete;
  message.body[0] = proto::kNvspSuccess;
  while (channel.writer().Write(vmbus::kPacketCompletion, 0, transaction, {}, BytesOf(message)) ==
         RingStatus::kFull) {
    channel.Commit();
    // Full of sends that the parent has yet to read; it signals once there is room.
    if (channel.writer().RequestRoom(sizeof(message)) && !transport_.Wait()) return;
  }
}

void NetworkVsc::Finished(uint64_t transaction) {
  const uint64_t section = transaction - kSendTransaction;
  if (section >= kSendSections || frames_[section] == 0) return;
  sent_ += frames_[section];
  pending_ -= frames_[section];
  frames_[section] = 0;
  free_[free_count_++] = static_cast<uint16_t>(section);
}

}  // namespace partita::vsc
