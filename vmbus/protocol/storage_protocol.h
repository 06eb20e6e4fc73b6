// The synthetic SCSI controller's packets. Freestanding; no logic.
// Source: Linux, drivers/scsi/storvsc_drv.c; OpenVMM, storvsp_protocol.
#ifndef PARTITA_VMBUS_PROTOCOL_STORAGE_PROTOCOL_H_
#define PARTITA_VMBUS_PROTOCOL_STORAGE_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace partita::vmbus::storage {

enum Operation : uint32_t {
  kCompleteIo = 1,
  kRemoveDevice = 2,
  kExecuteSrb = 3,
  kResetLun = 4,
  kResetAdapter = 5,
  kResetBus = 6,
  kBeginInitialization = 7,
  kEndInitialization = 8,
  kQueryProtocolVersion = 9,
  kQueryProperties = 10,
  kEnumerateBus = 11,
  kFchbaData = 12,
  kCreateSubChannels = 13,
};

inline constexpr uint16_t kVersion5_1 = 0x0501;
inline constexpr uint16_t kVersion6_0 = 0x0600;
inline constexpr uint16_t kVersion6_2 = 0x0602;

inline constexpr uint64_t kInitTransaction = 0xFFFFFFFFFFFFFFFD;
inline constexpr uint64_t kResetTransaction = 0xFFFFFFFFFFFFFFFC;

inline constexpr size_t kCdbSize = 16;
inline constexpr size_t kSenseSize = 20;

struct ScsiRequest {
  uint16_t length;  // 52
  uint8_t srb_status;
  uint8_t scsi_status;
  uint8_t port;
  uint8_t path;
  uint8_t target;
  uint8_t lun;
  uint8_t cdb_length;
  uint8_t sense_length;
  uint8_t data_direction;
  uint8_t reserved;
  uint32_t data_length;
  uint8_t cdb_or_sense[kSenseSize];
  uint16_t reserved2;
  uint8_t queue_tag;
  uint8_t queue_action;
  uint32_t srb_flags;
  uint32_t timeout_seconds;
  uint32_t queue_sort_key;
};
static_assert(sizeof(ScsiRequest) == 52 && offsetof(ScsiRequest, data_length) == 12 &&
              offsetof(ScsiRequest, cdb_or_sense) == 16 && offsetof(ScsiRequest, srb_flags) == 40);

enum DataDirection : uint8_t { kDataOut = 0, kDataIn = 1, kNoData = 2 };

struct Properties {
  uint32_t reserved;
  uint16_t max_channels;  // additional sub-channels
  uint16_t reserved2;
  uint32_t flags;  // bit 0: several channels
  uint32_t max_transfer;
  uint64_t reserved3;
};
static_assert(sizeof(Properties) == 24);

struct ProtocolVersion {
  uint16_t version;  // major << 8 | minor
  uint16_t revision;
};

#pragma pack(push, 4)
struct Packet {
  uint32_t operation;
  uint32_t flags;
  uint32_t status;
  union {
    ScsiRequest srb;
    ProtocolVersion version;
    uint8_t properties[sizeof(Properties)];
    uint16_t subchannel_count;
    uint8_t bytes[52];
  };
};
#pragma pack(pop)
static_assert(sizeof(Packet) == 64 && std::is_trivially_copyable_v<Packet>);

// SRB status values.
inline constexpr uint8_t kSrbSuccess = 0x01;
inline constexpr uint8_t kSrbAborted = 0x02;
inline constexpr uint8_t kSrbError = 0x04;
inline constexpr uint8_t kSrbInvalidRequest = 0x06;
inline constexpr uint8_t kSrbBusReset = 0x0E;
inline constexpr uint8_t kSrbInvalidLun = 0x20;
inline constexpr uint8_t kSrbAutosenseValid = 0x80;

// NTSTATUS values.
inline constexpr uint32_t kStatusSuccess = 0;
inline constexpr uint32_t kStatusInvalidParameter = 0xC000000D;
inline constexpr uint32_t kStatusRevisionMismatch = 0xC0000059;
inline constexpr uint32_t kStatusNoSuchDevice = 0xC00000C0;
inline constexpr uint32_t kStatusIoDeviceError = 0xC0000185;

}  // namespace partita::vmbus::storage

#endif  // PARTITA_VMBUS_PROTOCOL_STORAGE_PROTOCOL_H_
