// GUIDs in wire order: first three groups little-endian, the rest as bytes. Freestanding.
#ifndef PARTITA_VMBUS_PROTOCOL_GUID_H_
#define PARTITA_VMBUS_PROTOCOL_GUID_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace partita::vmbus {

struct Guid {
  uint8_t bytes[16];
  friend constexpr bool operator==(const Guid& a, const Guid& b) {
    for (size_t i = 0; i < sizeof(bytes); ++i) {
      if (a.bytes[i] != b.bytes[i]) return false;
    }
    return true;
  }
};
static_assert(sizeof(Guid) == 16 && std::is_trivially_copyable_v<Guid>);

constexpr uint8_t HexDigit(char c) {
  return static_cast<uint8_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}
// From the usual text of 36 characters.
constexpr Guid ParseGuid(const char (&text)[37]) {
  // Position in the text of each wire byte's first digit.
  constexpr size_t kAt[16] = {6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
  Guid guid{};
  for (size_t i = 0; i < 16; ++i) {
    guid.bytes[i] = static_cast<uint8_t>(HexDigit(text[kAt[i]]) << 4 | HexDigit(text[kAt[i] + 1]));
  }
  return guid;
}

// "{f8615163-df3e-46c5-913f-f2d2f965ed0e}" into `text`.
constexpr void GuidText(const Guid& guid, char (&text)[39]) {
  constexpr char kHex[] = "0123456789abcdef";
  constexpr size_t kOrder[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  size_t at = 0;
  text[at++] = '{';
  for (size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
    text[at++] = kHex[guid.bytes[kOrder[i]] >> 4];
    text[at++] = kHex[guid.bytes[kOrder[i]] & 15];
  }
  text[at++] = '}';
  text[at] = 0;
}

// Device classes. Source: Linux, include/linux/hyperv.h (HV_*_GUID).
inline constexpr Guid kScsiClass = ParseGuid("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f");
inline constexpr Guid kNetworkClass = ParseGuid("f8615163-df3e-46c5-913f-f2d2f965ed0e");
inline constexpr Guid kShutdownClass = ParseGuid("0e0b6031-5213-4934-818b-38d90ced39db");
inline constexpr Guid kTimeSyncClass = ParseGuid("9527e630-d0ae-497b-adce-e80ab0175caf");
inline constexpr Guid kHeartbeatClass = ParseGuid("57164f39-9115-4e78-ab55-382f3bd5422d");
inline constexpr Guid kKeyValueClass = ParseGuid("a9a0f4e7-5a45-4d96-b827-8a841e8c03e6");
inline constexpr Guid kSnapshotClass = ParseGuid("35fa2e29-ea23-4236-96ae-3a6ebacba440");
inline constexpr Guid kFileCopyClass = ParseGuid("34d14be3-dee4-41c8-9ae7-6b174977c192");
inline constexpr Guid kDynamicMemoryClass = ParseGuid("525074dc-8985-46e2-8057-a307dc18a502");
inline constexpr Guid kKeyboardClass = ParseGuid("f912ad6d-2b17-48ea-bd65-f927a61c7684");

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_PROTOCOL_GUID_H_
