// Identities that stay the same from run to run: 16 bytes derived from a name (FNV-1a, 128 bits in
// two halves; not a secret, only distinct).
#ifndef PARTITA_TOOLS_PARTITA_IDENTITY_H_
#define PARTITA_TOOLS_PARTITA_IDENTITY_H_

#include <cstdint>
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

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_IDENTITY_H_
