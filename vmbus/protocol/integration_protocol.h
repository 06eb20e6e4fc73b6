// Integration components: the frame around every packet and the bodies of heartbeat, shutdown, time
// synchronisation and key-value exchange, as they lie in memory. Freestanding; no logic. Source:
// Linux, include/linux/hyperv.h and include/uapi/linux/hyperv.h (vmbuspipe_hdr, icmsg_hdr,
// icmsg_negotiate, heartbeat_msg_data, shutdown_msg_data, ictimesync_ref_data, hv_kvp_*).
#ifndef PARTITA_VMBUS_PROTOCOL_INTEGRATION_PROTOCOL_H_
#define PARTITA_VMBUS_PROTOCOL_INTEGRATION_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace partita::vmbus::integration {

struct Version {
  uint16_t major, minor;
  friend constexpr bool operator==(const Version&, const Version&) = default;
};

enum MessageType : uint16_t {
  kNegotiate = 0,
  kHeartbeat = 1,
  kKeyValue = 2,
  kShutdown = 3,
  kTimeSync = 4,
  kSnapshot = 5,
  kFileCopy = 7,
};
enum Flags : uint8_t { kTransaction = 1, kRequest = 2, kResponse = 4 };

inline constexpr uint32_t kPipeData = 1;
inline constexpr uint32_t kStatusOk = 0;
inline constexpr uint32_t kStatusFail = 0x80004005;
inline constexpr uint32_t kStatusNoMoreItems = 0x80070103;

// Before every body.
struct [[gnu::packed]] Frame {
  uint32_t pipe_type;  // kPipeData
  uint32_t pipe_size;  // bytes behind this field
  Version framework;
  uint16_t type;  // MessageType
  Version message;
  uint16_t body_size;
  uint32_t status;  // HRESULT, the guest's
  uint8_t transaction;
  uint8_t flags;
  uint16_t reserved;
};
static_assert(sizeof(Frame) == 28 && offsetof(Frame, status) == 20);

// Followed by `frameworks` + `messages` Versions.
struct Negotiation {
  uint16_t frameworks;
  uint16_t messages;
  uint32_t reserved;
};
static_assert(sizeof(Negotiation) == 8);

struct Heartbeat {
  uint64_t sequence;  // the guest adds one
  uint32_t application_state;
  uint8_t reserved[28];
};
static_assert(sizeof(Heartbeat) == 40);

struct Shutdown {
  uint32_t reason;
  uint32_t timeout_seconds;
  uint32_t flags;
  uint8_t message[2048];
};
static_assert(sizeof(Shutdown) == 2060);
inline constexpr uint32_t kShutdownPlanned = 0x80000000;
inline constexpr uint32_t kShutdownForce = 1, kShutdownRestart = 2, kShutdownHibernate = 4;

struct [[gnu::packed]] TimeSync {  // message version 4.0
  uint64_t host_time;              // 100 ns since 1601-01-01 UTC
  uint64_t reference_time;         // of the partition, when host_time was taken
  uint8_t flags;
  uint8_t leap;
  uint8_t stratum;
  uint8_t reserved[5];
};
static_assert(sizeof(TimeSync) == 24);
struct [[gnu::packed]] OldTimeSync {  // 1.0 and 3.0
  uint64_t host_time;
  uint64_t reserved;
  uint64_t round_trip;
  uint8_t flags;
};
static_assert(sizeof(OldTimeSync) == 25);
inline constexpr uint8_t kTimeProbe = 0, kTimeSyncNow = 1, kTimeSample = 2;
inline constexpr uint64_t kUnixEpoch = 116444736000000000;  // in units of host_time

enum KeyValueOperation : uint8_t { kGet = 0, kSet = 1, kDelete = 2, kEnumerate = 3 };
enum KeyValuePool : uint8_t {
  kPoolExternal = 0,      // host to guest
  kPoolGuest = 1,         // guest to host
  kPoolAuto = 2,          // what the guest says of itself
  kPoolAutoExternal = 3,  // what the host says of itself
};
inline constexpr size_t kMaxKey = 512, kMaxValue = 2048;  // bytes of UTF-16, terminator included
inline constexpr uint32_t kValueString = 1;
struct [[gnu::packed]] Value {
  uint32_t type;
  uint32_t key_size;    // bytes, terminator included
  uint32_t value_size;  // bytes, terminator included
  uint8_t key[kMaxKey];
  uint8_t value[kMaxValue];
};
static_assert(sizeof(Value) == 2572);
struct [[gnu::packed]] IndexedValue {  // enumerate
  uint32_t index;
  Value value;
};
struct [[gnu::packed]] Key {  // delete
  uint32_t size;              // bytes, terminator included
  uint8_t bytes[kMaxKey];
};
struct [[gnu::packed]] KeyValue {
  uint8_t operation;
  uint8_t pool;
  uint16_t reserved;
  union {
    Value value;  // get, set
    IndexedValue enumerate;
    Key remove;
  };
};
static_assert(sizeof(KeyValue) == 4 + 4 + 2572);

// Addresses of an adapter (KVP operations of their own layout; all text is UTF-16).
inline constexpr uint8_t kGetIpInfo = 4, kSetIpInfo = 5;
struct [[gnu::packed]] IpInfo {
  uint8_t operation;
  uint8_t pool;
  uint8_t adapter[256];  // get: the MAC address; set: the instance GUID in braces
  uint8_t family;        // 1 IPv4, 2 IPv6, 3 both
  uint8_t dhcp;
  uint8_t addresses[2048];  // separated by ';', as all that follow
  uint8_t subnets[2048];
  uint8_t gateways[1024];
  uint8_t dns[2048];
};
static_assert(sizeof(IpInfo) == 7428);

struct Snapshot {
  uint8_t operation;
  uint8_t reserved[7];
  uint32_t flags;
};
static_assert(sizeof(Snapshot) == 12);
inline constexpr uint8_t kSnapshotCheck = 2, kSnapshotComplete = 4, kSnapshotFreeze = 5,
                         kSnapshotThaw = 6;

enum FileCopyOperation : uint32_t {
  kCopyStart = 0,
  kCopyWrite = 1,
  kCopyComplete = 2,
  kCopyCancel = 3,
};
struct FileCopyHeader {
  uint32_t operation;
  uint8_t ids[32];
};
static_assert(sizeof(FileCopyHeader) == 36);
struct FileCopyStart {
  FileCopyHeader header;
  uint16_t name[260];
  uint16_t path[260];
  uint32_t flags;
  uint32_t size_low, size_high;
};
static_assert(sizeof(FileCopyStart) == 1088 && offsetof(FileCopyStart, flags) == 1076 &&
              offsetof(FileCopyStart, size_low) == 1080);
inline constexpr uint32_t kCopyOverwrite = 1, kCopyCreatePath = 2;
inline constexpr uint32_t kCopyFragment = 6144;
struct FileCopyWrite {  // always sent whole
  FileCopyHeader header;
  uint32_t padding;
  uint32_t offset_low, offset_high;
  uint32_t size;
  uint8_t data[kCopyFragment];
};
static_assert(sizeof(FileCopyWrite) == 6196);
inline constexpr uint32_t kStatusExists = 0x80070050, kStatusDiskFull = 0x80070070;

}  // namespace partita::vmbus::integration

#endif  // PARTITA_VMBUS_PROTOCOL_INTEGRATION_PROTOCOL_H_
