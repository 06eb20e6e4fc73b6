// The synthetic network adapter's messages: NVSP inside VMBus packets, RNDIS inside the buffers
// they name. Freestanding; no logic. Source: Linux, drivers/net/hyperv/hyperv_net.h and
// include/linux/rndis.h; MS-RNDIS.
#ifndef PARTITA_VMBUS_PROTOCOL_NETWORK_PROTOCOL_H_
#define PARTITA_VMBUS_PROTOCOL_NETWORK_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace partita::vmbus::network {

// --- NVSP ---
inline constexpr uint32_t kVersion1 = 0x00002;
inline constexpr uint32_t kVersion2 = 0x30002;
inline constexpr uint32_t kVersion4 = 0x40000;
inline constexpr uint32_t kVersion5 = 0x50000;
inline constexpr uint32_t kVersion6 = 0x60000;
inline constexpr uint32_t kVersion6_1 = 0x60001;

enum NvspType : uint32_t {
  kInit = 1,
  kInitComplete = 2,
  kSendNdisVersion = 100,
  kSendReceiveBuffer = 101,
  kSendReceiveBufferComplete = 102,
  kRevokeReceiveBuffer = 103,
  kSendSendBuffer = 104,
  kSendSendBufferComplete = 105,
  kRevokeSendBuffer = 106,
  kSendRndisPacket = 107,
  kSendRndisPacketComplete = 108,
  kSendNdisConfig = 125,
  kSwitchDataPath = 129,
  kSubChannel = 133,
};
enum NvspStatus : uint32_t { kNvspSuccess = 1, kNvspFail = 2 };

inline constexpr uint32_t kDataChannel = 0;
inline constexpr uint32_t kControlChannel = 1;
inline constexpr uint32_t kNoSection = 0xFFFFFFFF;
inline constexpr uint16_t kReceiveBufferId = 0xCAFE;
inline constexpr uint32_t kSubChannelAllocate = 1;
inline constexpr uint64_t kCapabilityVlan = 1 << 3;
inline constexpr uint64_t kCapabilityRsc = 1 << 7;

// Every message is sent with 40 bytes; Linux 6.1 copies that much of an answer.
struct Nvsp {
  uint32_t type;
  uint32_t body[9];  // meaning by type; names of the words in use below
};
static_assert(sizeof(Nvsp) == 40);
// Words of `body`.
inline constexpr size_t kInitMinimum = 0, kInitMaximum = 1;
inline constexpr size_t kInitNegotiated = 0, kInitMdlLength = 1, kInitStatus = 2;
inline constexpr size_t kBufferGpadl = 0;
inline constexpr size_t kReceiveStatus = 0, kReceiveSections = 1, kReceiveOffset = 2,
                        kReceiveSize = 3, kReceiveCount = 4, kReceiveEnd = 5;
inline constexpr size_t kSendStatus = 0, kSendSectionSize = 1;
inline constexpr size_t kRndisChannel = 0, kRndisSection = 1, kRndisSectionSize = 2;
inline constexpr size_t kConfigMtu = 0, kConfigCapabilitiesLow = 2;
inline constexpr size_t kSubOperation = 0, kSubCount = 1;  // answer: status, count

// Packet type 7: descriptor, this, ranges, then (8-byte aligned) the NVSP message.
struct TransferPageHeader {
  uint16_t set_id;
  uint8_t sender_owns_set;
  uint8_t reserved;
  uint32_t range_count;
};
struct TransferPageRange {
  uint32_t byte_count;
  uint32_t byte_offset;
};
static_assert(sizeof(TransferPageHeader) == 8 && sizeof(TransferPageRange) == 8);

// --- RNDIS ---
enum RndisType : uint32_t {
  kRndisPacket = 0x00000001,
  kRndisInitialize = 0x00000002,
  kRndisHalt = 0x00000003,
  kRndisQuery = 0x00000004,
  kRndisSet = 0x00000005,
  kRndisReset = 0x00000006,
  kRndisIndicateStatus = 0x00000007,
  kRndisKeepAlive = 0x00000008,
};
inline constexpr uint32_t kRndisAnswer = 0x80000000;  // set in the type of an answer

enum RndisStatus : uint32_t {
  kRndisSuccess = 0,
  kRndisFailure = 0xC0000001,
  kRndisNotSupported = 0xC00000BB,
  kRndisInvalidData = 0xC0010015,
  kRndisInvalidOid = 0xC0010017,
  kRndisMediaConnect = 0x4001000B,
  kRndisMediaDisconnect = 0x4001000C,
};

struct RndisHeader {
  uint32_t type;
  uint32_t length;  // of the whole message
};
struct RndisInitialize {
  RndisHeader header;
  uint32_t request_id, major, minor, max_transfer;
};
struct RndisInitializeAnswer {
  RndisHeader header;
  uint32_t request_id, status, major, minor, device_flags, medium, max_packets, max_transfer,
      alignment_log2, af_offset, af_size;
};
struct RndisQuery {  // and SET
  RndisHeader header;
  uint32_t request_id, oid, length, offset /* from offset 8 of the message */, vc;
};
struct RndisQueryAnswer {
  RndisHeader header;
  uint32_t request_id, status, length, offset;
};
struct RndisSetAnswer {
  RndisHeader header;
  uint32_t request_id, status;
};
struct RndisIndicate {
  RndisHeader header;
  uint32_t status, length, offset;
};
static_assert(sizeof(RndisInitialize) == 24 && sizeof(RndisInitializeAnswer) == 52 &&
              sizeof(RndisQuery) == 28 && sizeof(RndisQueryAnswer) == 24 &&
              sizeof(RndisSetAnswer) == 16 && sizeof(RndisIndicate) == 20);

// A frame. Offsets count from offset 8 of the message.
struct RndisFrame {
  RndisHeader header;
  uint32_t data_offset, data_length;
  uint32_t oob_offset, oob_length, oob_count;
  uint32_t info_offset, info_length;
  uint32_t vc, reserved;
};
static_assert(sizeof(RndisFrame) == 44);
inline constexpr uint32_t kRndisOffsetBase = 8;

// Per-packet information: this, then the value.
struct PacketInfo {
  uint32_t size;  // of the whole record
  uint32_t type;  // bit 31: internal
  uint32_t offset;
};
static_assert(sizeof(PacketInfo) == 12);
enum PacketInfoType : uint32_t {
  kInfoChecksum = 0,
  kInfoLargeSend = 2,
  kInfoVlan = 6,
  kInfoHash = 8,
  kInfoPacketId = 0x80000001,  // coalesced frames
};
// A record with a value of 32 bits, the only kind in use.
struct PacketInfo32 {
  PacketInfo info;
  uint32_t value;
};
static_assert(sizeof(PacketInfo32) == 16);

// Checksum value, transmit.
inline constexpr uint32_t kTxIpv4 = 1 << 0, kTxIpv6 = 1 << 1, kTxTcp = 1 << 2, kTxUdp = 1 << 3,
                          kTxIpHeader = 1 << 4;
constexpr uint32_t TxHeaderOffset(uint32_t checksum) { return checksum >> 16 & 0x3FF; }
// Checksum value, receive.
inline constexpr uint32_t kRxTcpOk = 1 << 3, kRxUdpOk = 1 << 4, kRxIpOk = 1 << 5;
// Large send, version 2.
constexpr uint32_t LargeSendMss(uint32_t value) { return value & 0xFFFFF; }
constexpr uint32_t LargeSendTcpOffset(uint32_t value) { return value >> 20 & 0x3FF; }
inline constexpr uint32_t kLargeSendV2 = 1u << 30, kLargeSendIpv6 = 1u << 31;
// 802.1Q: priority 2:0, CFI 3, VLAN 15:4; on the wire priority 15:13, DEI 12, VLAN 11:0.
constexpr uint16_t VlanTci(uint32_t info) {
  return static_cast<uint16_t>((info & 7) << 13 | (info >> 3 & 1) << 12 | (info >> 4 & 0xFFF));
}
constexpr uint32_t VlanInfo(uint16_t tci) {
  return static_cast<uint32_t>(tci >> 13 | (tci >> 12 & 1) << 3 | (tci & 0xFFF) << 4);
}
// Packet id value: version 1, flags, id.
inline constexpr uint32_t kPacketIdPart = 1 << 8, kPacketIdFirst = 1 << 9, kPacketIdLast = 1 << 10,
                          kPacketIdVersion = 1;

// --- OIDs ---
enum Oid : uint32_t {
  kOidSupportedList = 0x00010101,
  kOidHardwareStatus = 0x00010102,
  kOidMediaSupported = 0x00010103,
  kOidMediaInUse = 0x00010104,
  kOidMaximumFrameSize = 0x00010106,
  kOidLinkSpeed = 0x00010107,
  kOidPacketFilter = 0x0001010E,
  kOidMaximumTotalSize = 0x00010111,
  kOidMediaConnectStatus = 0x00010114,
  kOidReceiveScaleCapabilities = 0x00010203,
  kOidReceiveScaleParameters = 0x00010204,
  kOidFriendlyName = 0x00020216,
  kOidConfigurationParameter = 0x0001021B,
  kOidTransmitOk = 0x00020101,
  kOidReceiveOk = 0x00020102,
  kOidTransmitError = 0x00020103,
  kOidReceiveError = 0x00020104,
  kOidReceiveNoBuffer = 0x00020105,
  kOidPermanentAddress = 0x01010101,
  kOidCurrentAddress = 0x01010102,
  kOidMulticastList = 0x01010103,
  kOidMaximumListSize = 0x01010104,
  kOidOffloadParameters = 0xFC01020C,
  kOidOffloadCapabilities = 0xFC01020D,
};

// Offload capabilities (answer) and parameters (set); byte offsets of the fields that matter.
struct OffloadCapabilities {
  uint8_t type, revision;  // 0xA7
  uint16_t size;
  uint32_t ipv4_tx_encapsulation, ipv4_tx_checksum, ipv4_rx_encapsulation, ipv4_rx_checksum;
  uint32_t ipv6_tx_encapsulation, ipv6_tx_checksum, ipv6_rx_encapsulation, ipv6_rx_checksum;
  uint32_t large_send_v1[4];
  uint32_t ipsec_v1[7];
  uint32_t large_send_v2_ipv4[3];  // encapsulation, maximum size, least segments
  uint32_t large_send_v2_ipv6[4];  // the same, then options
  uint32_t flags;
  uint8_t ipsec_v2[32];
  uint8_t rsc_ipv4, rsc_ipv6;
  uint16_t reserved;
  uint32_t gre[2];
};
static_assert(sizeof(OffloadCapabilities) == 156 &&
              offsetof(OffloadCapabilities, large_send_v2_ipv4) == 80 &&
              offsetof(OffloadCapabilities, flags) == 108 &&
              offsetof(OffloadCapabilities, rsc_ipv4) == 144);
inline constexpr uint8_t kOffloadObject = 0xA7;
inline constexpr uint16_t kOffloadLeastSize = 112;
inline constexpr uint32_t kChecksumIpOptions = 0x001, kChecksumTcpOptions = 0x004,
                          kChecksumTcp = 0x010, kChecksumUdp = 0x040;
inline constexpr uint32_t kEncapsulation8023 = 2;
inline constexpr size_t kParameterRsc4 = 22, kParameterRsc6 = 23;
inline constexpr uint8_t kParameterDisabled = 1, kParameterEnabled = 2;

struct ReceiveScaleCapabilities {
  uint8_t type, revision;  // 0x88, 2
  uint16_t size;           // 18
  uint32_t flags;
  uint32_t interrupt_messages, queues;
  uint16_t table_entries;
  uint16_t padding;  // not sent: the answer has 18 bytes
};
inline constexpr size_t kReceiveScaleSize = 18;
static_assert(offsetof(ReceiveScaleCapabilities, padding) == kReceiveScaleSize);

}  // namespace partita::vmbus::network

#endif  // PARTITA_VMBUS_PROTOCOL_NETWORK_PROTOCOL_H_
