// Identities that stay the same from run to run: 16 bytes derived from a name (FNV-1a, 128 bits in
// two halves; not a secret, only distinct).
#ifndef PARTITA_TOOLS_CONTROL_IDENTITY_H_
#define PARTITA_TOOLS_CONTROL_IDENTITY_H_

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace partita {

inline std::string StableIdentity(std::string_view name) {
  std::string bytes;
  for (const uint64_t basis : {0xcbf29ce484222325ull, 0x84222325cbf29ce4ull}) {
    uint64_t hash = basis;
    for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(hash >> (8 * i)));
  }
  return bytes;
}

// Six bytes that stay the same for the adapter in this position of a partition, with the prefix
// that Hyper-V uses (00-15-5D).
inline std::string DerivedMac(std::string_view partition_id, size_t index) {
  const std::string hash =
      StableIdentity(std::string(partition_id) + " adapter " + std::to_string(index));
  return std::string("\x00\x15\x5d", 3) + hash.substr(0, 3);
}

inline std::string MacText(std::string_view mac) {
  char text[18] = {};
  if (mac.size() != 6) return "";
  const auto* b = reinterpret_cast<const uint8_t*>(mac.data());
  snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
  return text;
}

}  // namespace partita

#endif  // PARTITA_TOOLS_CONTROL_IDENTITY_H_
