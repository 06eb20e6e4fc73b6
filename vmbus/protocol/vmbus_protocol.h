// VMBus control messages and ring packets, as they lie in memory. Freestanding; no logic.
// Source: Linux, include/linux/hyperv.h; public VMBus documentation of OpenVMM (vmbus_core).
#ifndef PARTITA_VMBUS_PROTOCOL_VMBUS_PROTOCOL_H_
#define PARTITA_VMBUS_PROTOCOL_VMBUS_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "vmbus/protocol/guid.h"

namespace partita::vmbus {

// --- versions: major << 16 | minor ---
inline constexpr uint32_t kVersion3_0 = 0x00030000;
inline constexpr uint32_t kVersion4_0 = 0x00040000;
inline constexpr uint32_t kVersion4_1 = 0x00040001;
inline constexpr uint32_t kVersion5_0 = 0x00050000;
inline constexpr uint32_t kVersion5_1 = 0x00050001;
inline constexpr uint32_t kVersion5_2 = 0x00050002;
inline constexpr uint32_t kVersion5_3 = 0x00050003;

// --- connection ids ---
inline constexpr uint32_t kMessageConnection = 1;           // control messages
inline constexpr uint32_t kMessageConnection5 = 4;          // INITIATE_CONTACT of 5.0 and later
inline constexpr uint32_t kChannelConnectionBase = 0x2000;  // channel: base + relid
inline constexpr uint32_t kMaxRelid = 2047;                 // event flags per SINT, less flag 0
inline constexpr size_t kMaxMessage = 240;

enum MessageType : uint32_t {
  kInvalidMessage = 0,
  kOfferChannel = 1,
  kRescindChannelOffer = 2,
  kRequestOffers = 3,
  kAllOffersDelivered = 4,
  kOpenChannel = 5,
  kOpenChannelResult = 6,
  kCloseChannel = 7,
  kGpadlHeader = 8,
  kGpadlBody = 9,
  kGpadlCreated = 10,
  kGpadlTeardown = 11,
  kGpadlTorndown = 12,
  kRelidReleased = 13,
  kInitiateContact = 14,
  kVersionResponse = 15,
  kUnload = 16,
  kUnloadResponse = 17,
  kTlConnectRequest = 21,
  kModifyChannel = 22,
  kTlConnectResult = 23,
  kModifyChannelResponse = 24,
};

struct Header {
  uint32_t type;
  uint32_t padding;
};
static_assert(sizeof(Header) == 8);

struct InitiateContact {
  Header header;
  uint32_t version;
  uint32_t target_vp;
  uint64_t interrupt_page_or_target;  // from 5.0: byte 0 SINT, byte 1 VTL
  uint64_t monitor_page_1;
  uint64_t monitor_page_2;
};
static_assert(sizeof(InitiateContact) == 40);

struct VersionResponse {
  Header header;
  uint8_t supported;
  uint8_t connection_state;
  uint16_t padding;
  uint32_t message_connection;  // before 5.0: the selected version
};
static_assert(sizeof(VersionResponse) == 16);

inline constexpr size_t kOfferUserData = 120;
#pragma pack(push, 4)
struct Offer {
  Header header;
  Guid interface_type;
  Guid instance;
  uint64_t reserved[2];
  uint16_t flags;
  uint16_t mmio_megabytes;
  uint8_t user_data[kOfferUserData];
  uint16_t subchannel_index;
  uint16_t reserved2;
  uint32_t relid;
  uint8_t monitor_id;
  uint8_t monitor_allocated;
  uint16_t dedicated_interrupt;
  uint32_t connection_id;
};
#pragma pack(pop)
static_assert(sizeof(Offer) == 196 && offsetof(Offer, flags) == 56 &&
              offsetof(Offer, subchannel_index) == 180 && offsetof(Offer, relid) == 184 &&
              offsetof(Offer, connection_id) == 192);

// RESCIND, CLOSECHANNEL, RELID_RELEASED.
struct RelidMessage {
  Header header;
  uint32_t relid;
};
static_assert(sizeof(RelidMessage) == 12);

inline constexpr size_t kOpenUserData = 120;
struct OpenChannel {
  Header header;
  uint32_t relid;
  uint32_t open_id;
  uint32_t gpadl;
  uint32_t target_vp;
  uint32_t downstream_page_offset;
  uint8_t user_data[kOpenUserData];
};
static_assert(sizeof(OpenChannel) == 148);

struct OpenChannelResult {
  Header header;
  uint32_t relid;
  uint32_t open_id;
  uint32_t status;
};
static_assert(sizeof(OpenChannelResult) == 20);

struct GpadlHeader {
  Header header;
  uint32_t relid;
  uint32_t gpadl;
  uint16_t range_buffer_length;  // 8 + 8 * all PFNs
  uint16_t range_count;
  uint32_t byte_count;
  uint32_t byte_offset;
  // followed by PFNs
};
static_assert(sizeof(GpadlHeader) == 28);
inline constexpr size_t kGpadlHeaderPfns = 26;

struct GpadlBody {
  Header header;
  uint32_t message_number;  // Linux leaves it 0
  uint32_t gpadl;
  // followed by PFNs
};
static_assert(sizeof(GpadlBody) == 16);
inline constexpr size_t kGpadlBodyPfns = 28;

struct GpadlCreated {
  Header header;
  uint32_t relid;
  uint32_t gpadl;
  uint32_t status;
};
static_assert(sizeof(GpadlCreated) == 20);

struct GpadlTeardown {
  Header header;
  uint32_t relid;
  uint32_t gpadl;
};
static_assert(sizeof(GpadlTeardown) == 16);

struct GpadlTorndown {
  Header header;
  uint32_t gpadl;
};
static_assert(sizeof(GpadlTorndown) == 12);

struct TlConnectRequest {
  Header header;
  Guid guest_endpoint;
  Guid host_service;
};
static_assert(sizeof(TlConnectRequest) == 40);

struct ModifyChannel {
  Header header;
  uint32_t relid;
  uint32_t target_vp;
};
static_assert(sizeof(ModifyChannel) == 16);

struct ModifyChannelResponse {
  Header header;
  uint32_t relid;
  uint32_t status;
};
static_assert(sizeof(ModifyChannelResponse) == 16);

// NTSTATUS values used in answers.
inline constexpr uint32_t kStatusSuccess = 0;
inline constexpr uint32_t kStatusUnsuccessful = 0xC0000001;
inline constexpr uint32_t kStatusInvalidParameter = 0xC000000D;
inline constexpr uint32_t kStatusInsufficientResources = 0xC000009A;

// --- ring buffers ---
inline constexpr uint32_t kRingPage = 4096;
struct RingControl {
  uint32_t write_index;
  uint32_t read_index;
  uint32_t interrupt_mask;
  uint32_t pending_send_size;
  uint32_t reserved[12];
  uint32_t feature_bits;  // bit 0: the consumer honours pending_send_size
};
static_assert(sizeof(RingControl) == 68 && offsetof(RingControl, feature_bits) == 64);
inline constexpr uint32_t kFeaturePendingSend = 1;

// --- packets ---
enum PacketType : uint16_t {
  kPacketInBand = 6,
  kPacketTransferPages = 7,
  kPacketGpaDirect = 9,
  kPacketCompletion = 11,
};
struct PacketDescriptor {
  uint16_t type;
  uint16_t offset8;  // payload offset / 8, from the descriptor
  uint16_t length8;  // total / 8, without the trailer
  uint16_t flags;    // bit 0: a completion is requested
  uint64_t transaction_id;
};
static_assert(sizeof(PacketDescriptor) == 16);
inline constexpr uint16_t kCompletionRequested = 1;
inline constexpr uint32_t kTrailer = 8;

struct GpaDirectHeader {
  uint32_t reserved;
  uint32_t range_count;
};
struct GpaRange {
  uint32_t byte_count;
  uint32_t byte_offset;
  // followed by PFNs
};
static_assert(sizeof(GpaDirectHeader) == 8 && sizeof(GpaRange) == 8);

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_PROTOCOL_VMBUS_PROTOCOL_H_
