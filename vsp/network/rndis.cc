#include "vsp/network/rndis.h"

#include <algorithm>
#include <cstring>

namespace partita::network {
namespace {

namespace proto = vmbus::network;

constexpr uint32_t kMaxPacketsPerMessage = 8;
constexpr uint32_t kMaxTransfer = 0x100000;
constexpr uint32_t kAlignmentLog2 = 3;
constexpr uint32_t kMaxLargeSend = 0xF53C;
constexpr uint32_t kTableEntries = 128;
constexpr uint32_t kAnswerDataOffset = sizeof(proto::RndisQueryAnswer) - proto::kRndisOffsetBase;

template <typename T>
void Append(std::vector<std::byte>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(value));
}
template <typename T>
std::vector<std::byte> Bytes(const T& value) {
  std::vector<std::byte> out;
  Append(out, value);
  return out;
}
template <typename T>
std::optional<T> Load(std::span<const std::byte> from) {
  if (from.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, from.data(), sizeof(T));
  return value;
}

// The value that a query or set carries: inside the message, or nothing.
std::optional<std::span<const std::byte>> Input(const proto::RndisQuery& query,
                                                std::span<const std::byte> message) {
  if (query.length == 0) return std::span<const std::byte>();
  const uint64_t start = uint64_t{query.offset} + proto::kRndisOffsetBase;
  if (start < sizeof(query) || start > message.size() || query.length > message.size() - start) {
    return std::nullopt;
  }
  return message.subspan(start, query.length);
}

}  // namespace

void RndisCounters::DescribeTo(StatSink& sink) const {
  sink.Add("network.control.messages", messages);
  sink.Add("network.rejected.control", bad_messages);
  sink.Add("network.control.unknown_oids", unknown_oids);
}

void RndisControl::Reset() {
  settings_ = {};
  settings_.mac = features_.mac;
}

std::vector<std::byte> RndisControl::Handle(std::span<const std::byte> message,
                                            const AdapterTotals& totals) {
  counters_.messages.Add();
  const auto header = Load<proto::RndisHeader>(message);
  if (!header || header->length < sizeof(*header) || header->length > message.size()) {
    counters_.bad_messages.Add();
    return {};
  }
  message = message.first(header->length);
  switch (header->type) {
    case proto::kRndisInitialize: {
      const auto request = Load<proto::RndisInitialize>(message);
      if (!request) break;
      settings_.initialized = true;
      return Bytes(
          proto::RndisInitializeAnswer{.header = {proto::kRndisInitialize | proto::kRndisAnswer,
                                                  sizeof(proto::RndisInitializeAnswer)},
                                       .request_id = request->request_id,
                                       .status = proto::kRndisSuccess,
                                       .major = 1,
                                       .minor = 0,
                                       .device_flags = 1,  // connectionless
                                       .medium = 0,        // 802.3
                                       .max_packets = kMaxPacketsPerMessage,
                                       .max_transfer = kMaxTransfer,
                                       .alignment_log2 = kAlignmentLog2,
                                       .af_offset = 0,
                                       .af_size = 0});
    }
    case proto::kRndisHalt:
      Reset();
      return {};
    case proto::kRndisQuery:
      return Query(message, totals);
    case proto::kRndisSet:
      return Set(message);
    case proto::kRndisReset:
      settings_.filter = 0;
      // The answer has no request id: status, then whether addressing was reset.
      return Bytes(proto::RndisSetAnswer{
          .header = {proto::kRndisReset | proto::kRndisAnswer, sizeof(proto::RndisSetAnswer)},
          .request_id = proto::kRndisSuccess,
          .status = 0});
    case proto::kRndisKeepAlive: {
      const auto id = Load<proto::RndisSetAnswer>(message);  // a request id is all it has
      const auto short_id =
          message.size() >= 12 ? Load<uint32_t>(message.subspan(8)) : std::nullopt;
      if (!id && !short_id) break;
      return Bytes(proto::RndisSetAnswer{
          .header = {proto::kRndisKeepAlive | proto::kRndisAnswer, sizeof(proto::RndisSetAnswer)},
          .request_id = *short_id,
          .status = proto::kRndisSuccess});
    }
    default:
      break;
  }
  counters_.bad_messages.Add();
  return {};
}

std::vector<std::byte> RndisControl::Query(std::span<const std::byte> message,
                                           const AdapterTotals& totals) {
  const auto query = Load<proto::RndisQuery>(message);
  if (!query) {
    counters_.bad_messages.Add();
    return {};
  }
  std::optional<std::vector<std::byte>> value;
  const auto input = Input(*query, message);
  if (input) {
    value = Value(query->oid, *input, totals);
    if (!value) counters_.unknown_oids.Add();
  } else {
    counters_.bad_messages.Add();
  }
  // Stock Linux does not look at the status but takes an offset of 0 for a failure.
  const size_t size = value ? value->size() : 0;
  std::vector<std::byte> answer = Bytes(proto::RndisQueryAnswer{
      .header = {proto::kRndisQuery | proto::kRndisAnswer,
                 static_cast<uint32_t>(sizeof(proto::RndisQueryAnswer) + size)},
      .request_id = query->request_id,
      .status = value   ? proto::kRndisSuccess
                : input ? proto::kRndisNotSupported
                        : proto::kRndisInvalidData,
      .length = static_cast<uint32_t>(size),
      .offset = value ? kAnswerDataOffset : 0});
  if (value) answer.insert(answer.end(), value->begin(), value->end());
  return answer;
}

std::vector<std::byte> RndisControl::Set(std::span<const std::byte> message) {
  const auto set = Load<proto::RndisQuery>(message);
  if (!set) {
    counters_.bad_messages.Add();
    return {};
  }
  const auto input = Input(*set, message);
  uint32_t status = proto::kRndisInvalidData;
  if (input) status = Apply(set->oid, *input);
  if (status == proto::kRndisInvalidData) counters_.bad_messages.Add();
  if (status == proto::kRndisNotSupported) counters_.unknown_oids.Add();
  return Bytes(proto::RndisSetAnswer{
      .header = {proto::kRndisSet | proto::kRndisAnswer, sizeof(proto::RndisSetAnswer)},
      .request_id = set->request_id,
      .status = status});
}

std::optional<std::vector<std::byte>> RndisControl::Value(uint32_t oid,
                                                          std::span<const std::byte> input,
                                                          const AdapterTotals& totals) const {
  constexpr uint32_t kEthernetHeader = 14;
  switch (oid) {
    case proto::kOidSupportedList: {
      std::vector<std::byte> out;
      for (const uint32_t known : {proto::kOidSupportedList,
                                   proto::kOidHardwareStatus,
                                   proto::kOidMediaSupported,
                                   proto::kOidMediaInUse,
                                   proto::kOidMaximumFrameSize,
                                   proto::kOidLinkSpeed,
                                   proto::kOidPacketFilter,
                                   proto::kOidMaximumTotalSize,
                                   proto::kOidMediaConnectStatus,
                                   proto::kOidReceiveScaleCapabilities,
                                   proto::kOidReceiveScaleParameters,
                                   proto::kOidConfigurationParameter,
                                   proto::kOidTransmitOk,
                                   proto::kOidReceiveOk,
                                   proto::kOidTransmitError,
                                   proto::kOidReceiveError,
                                   proto::kOidReceiveNoBuffer,
                                   proto::kOidPermanentAddress,
                                   proto::kOidCurrentAddress,
                                   proto::kOidMulticastList,
                                   proto::kOidMaximumListSize,
                                   proto::kOidOffloadParameters,
                                   proto::kOidOffloadCapabilities}) {
        Append(out, known);
      }
      return out;
    }
    case proto::kOidHardwareStatus:  // ready
    case proto::kOidMediaSupported:  // 802.3
    case proto::kOidMediaInUse:
      return Bytes(uint32_t{0});
    case proto::kOidMaximumFrameSize:
      return Bytes(features_.mtu);
    case proto::kOidMaximumTotalSize:
      return Bytes(features_.mtu + kEthernetHeader);
    case proto::kOidLinkSpeed:
      return Bytes(static_cast<uint32_t>(features_.link_speed));
    case proto::kOidMediaConnectStatus:
      return Bytes(uint32_t{link_up_ ? 0u : 1u});
    case proto::kOidPermanentAddress:
      return Bytes(features_.mac);
    case proto::kOidCurrentAddress:
      return Bytes(settings_.mac);
    case proto::kOidPacketFilter:
      return Bytes(settings_.filter);
    case proto::kOidMaximumListSize:
      return Bytes(uint32_t{32});
    case proto::kOidTransmitOk:
      return Bytes(totals.sent);
    case proto::kOidReceiveOk:
      return Bytes(totals.received);
    case proto::kOidTransmitError:
      return Bytes(totals.send_errors);
    case proto::kOidReceiveError:
      return Bytes(totals.receive_errors);
    case proto::kOidReceiveNoBuffer:
      return Bytes(totals.no_buffer);
    case proto::kOidOffloadCapabilities: {
      std::vector<std::byte> offload = Offload(input);
      if (offload.empty()) return std::nullopt;
      return offload;
    }
    case proto::kOidReceiveScaleCapabilities: {
      const proto::ReceiveScaleCapabilities capabilities = {
          .type = 0x88,
          .revision = 2,
          .size = proto::kReceiveScaleSize,
          .flags =
              0x01000300,  // Toeplitz over TCP/IPv4 and TCP/IPv6; by message-signalled interrupt
          .interrupt_messages = features_.queues,
          .queues = features_.queues,
          .table_entries = kTableEntries,
          .padding = 0};
      auto bytes = Bytes(capabilities);
      bytes.resize(proto::kReceiveScaleSize);  // Linux refuses more
      return bytes;
    }
    default:
      return std::nullopt;
  }
}

std::vector<std::byte> RndisControl::Offload(std::span<const std::byte> input) const {
  // An older guest reads a shorter structure; its header says which.
  if (input.size() < 4 || std::to_integer<uint8_t>(input[0]) != proto::kOffloadObject) return {};
  uint16_t size = 0;
  std::memcpy(&size, input.data() + 2, sizeof(size));
  if (size < proto::kOffloadLeastSize) return {};
  size = std::min<uint16_t>(size, sizeof(proto::OffloadCapabilities));
  proto::OffloadCapabilities caps{};
  caps.type = proto::kOffloadObject;
  caps.revision = std::to_integer<uint8_t>(input[1]);
  caps.size = size;
  if (features_.checksum) {
    constexpr uint32_t kBoth = proto::kChecksumTcpOptions | proto::kChecksumTcp |
                               proto::kChecksumUdp | proto::kChecksumIpOptions;
    caps.ipv4_tx_encapsulation = caps.ipv4_rx_encapsulation = proto::kEncapsulation8023;
    caps.ipv6_tx_encapsulation = caps.ipv6_rx_encapsulation = proto::kEncapsulation8023;
    caps.ipv4_tx_checksum = caps.ipv4_rx_checksum = kBoth;
    caps.ipv6_tx_checksum = caps.ipv6_rx_checksum = kBoth;
  }
  if (features_.large_send) {
    caps.large_send_v2_ipv4[0] = caps.large_send_v2_ipv6[0] = proto::kEncapsulation8023;
    caps.large_send_v2_ipv4[1] = caps.large_send_v2_ipv6[1] = kMaxLargeSend;
    caps.large_send_v2_ipv4[2] = caps.large_send_v2_ipv6[2] = 2;  // least segments
    caps.large_send_v2_ipv6[3] = 0x5;  // with extension headers and TCP options
  }
  if (features_.coalesced) caps.rsc_ipv4 = caps.rsc_ipv6 = 1;
  auto bytes = Bytes(caps);
  bytes.resize(size);
  return bytes;
}

uint32_t RndisControl::Apply(uint32_t oid, std::span<const std::byte> value) {
  switch (oid) {
    case proto::kOidPacketFilter: {
      const auto filter = Load<uint32_t>(value);
      if (!filter) return proto::kRndisInvalidData;
      settings_.filter = *filter;
      return proto::kRndisSuccess;
    }
    case proto::kOidOffloadParameters: {
      if (value.size() <= proto::kParameterRsc6)
        return proto::kRndisSuccess;  // older: no RSC in it
      const auto at = [&](size_t i) { return std::to_integer<uint8_t>(value[i]); };
      const uint8_t v4 = at(proto::kParameterRsc4), v6 = at(proto::kParameterRsc6);
      if (v4 == proto::kParameterDisabled || v6 == proto::kParameterDisabled) {
        settings_.coalesced = false;
      } else if (v4 == proto::kParameterEnabled && v6 == proto::kParameterEnabled) {
        settings_.coalesced = features_.coalesced;
      }
      return proto::kRndisSuccess;
    }
    case proto::kOidReceiveScaleParameters:
    case proto::kOidMulticastList:
      return proto::kRndisSuccess;  // the back end steers flows; the guest filters groups
    case proto::kOidConfigurationParameter:
      return ApplyAddress(value);
    default:
      return proto::kRndisNotSupported;
  }
}

// "NetworkAddress" = twelve hexadecimal digits, both in UTF-16.
uint32_t RndisControl::ApplyAddress(std::span<const std::byte> value) {
  struct Parameter {
    uint32_t name_offset, name_length, type, value_offset, value_length;
  };
  const auto parameter = Load<Parameter>(value);
  constexpr char kName[] = "NetworkAddress";
  auto inside = [&](uint64_t offset, uint64_t length) {
    return offset <= value.size() && length <= value.size() - offset;
  };
  if (!parameter || !inside(parameter->name_offset, parameter->name_length) ||
      !inside(parameter->value_offset, parameter->value_length)) {
    return proto::kRndisInvalidData;
  }
  auto text = [&](uint32_t offset, uint32_t length) {
    std::string out;
    for (uint32_t i = 0; i + 1 < length && i < 64; i += 2) {
      const auto low = std::to_integer<uint8_t>(value[offset + i]);
      out += std::to_integer<uint8_t>(value[offset + i + 1]) != 0 ? '?' : static_cast<char>(low);
    }
    return out;
  };
  if (text(parameter->name_offset, parameter->name_length) != kName) {
    return proto::kRndisNotSupported;
  }
  const std::string digits = text(parameter->value_offset, parameter->value_length);
  MacAddress mac{};
  if (digits.size() != 12) return proto::kRndisInvalidData;
  for (size_t i = 0; i < digits.size(); ++i) {
    const char c = digits[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return proto::kRndisInvalidData;
    mac[i / 2] = static_cast<uint8_t>(mac[i / 2] << 4 | digit);
  }
  if ((mac[0] & 1) != 0) return proto::kRndisInvalidData;  // a group address
  // Refused rather than granted and then cut off by the port.
  if (!features_.any_address && mac != features_.mac) return proto::kRndisFailure;
  settings_.mac = mac;
  return proto::kRndisSuccess;
}

std::vector<std::byte> RndisControl::LinkIndication(bool up) {
  return Bytes(
      proto::RndisIndicate{.header = {proto::kRndisIndicateStatus, sizeof(proto::RndisIndicate)},
                           .status = up ? proto::kRndisMediaConnect : proto::kRndisMediaDisconnect,
                           .length = 0,
                           .offset = 0});
}

std::optional<FrameLayout> ParseFrameHeader(const proto::RndisFrame& header, uint64_t available) {
  const uint64_t length = header.header.length;
  if (header.header.type != proto::kRndisPacket || length < sizeof(header) || length > available) {
    return std::nullopt;
  }
  const uint64_t data = uint64_t{header.data_offset} + proto::kRndisOffsetBase;
  const uint64_t info = uint64_t{header.info_offset} + proto::kRndisOffsetBase;
  constexpr uint32_t kLeastFrame = 14;
  if (data < sizeof(header) || data > length || header.data_length > length - data ||
      header.data_length < kLeastFrame || header.data_length > kMaxFrame) {
    return std::nullopt;
  }
  FrameLayout layout{.message_length = header.header.length,
                     .data_offset = static_cast<uint32_t>(data),
                     .data_length = header.data_length};
  if (header.info_length != 0) {
    if (info < sizeof(header) || info > length || header.info_length > length - info ||
        header.info_length > kMaxPacketInfo) {
      return std::nullopt;
    }
    layout.info_offset = static_cast<uint32_t>(info);
    layout.info_length = header.info_length;
  }
  return layout;
}

std::optional<FrameRequests> ParsePacketInfo(std::span<const std::byte> info) {
  FrameRequests requests;
  while (!info.empty()) {
    const auto record = Load<proto::PacketInfo>(info);
    if (!record || record->size < sizeof(*record) || record->size > info.size()) {
      return std::nullopt;
    }
    std::optional<uint32_t>* wanted = record->type == proto::kInfoChecksum    ? &requests.checksum
                                      : record->type == proto::kInfoLargeSend ? &requests.large_send
                                      : record->type == proto::kInfoVlan      ? &requests.vlan
                                                                              : nullptr;
    if (wanted != nullptr) {
      if (record->offset < sizeof(*record) || record->offset > record->size ||
          record->size - record->offset < sizeof(uint32_t)) {
        return std::nullopt;
      }
      *wanted = Load<uint32_t>(info.subspan(record->offset));
    }
    info = info.subspan(record->size);
  }
  return requests;
}

}  // namespace partita::network
