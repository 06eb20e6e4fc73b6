// UTF-16 (little-endian, as guests and disk formats carry it) and UTF-8. What is not well-formed
// becomes U+FFFD. Any thread.
#ifndef PARTITA_BASE_UTF16_H_
#define PARTITA_BASE_UTF16_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace partita {

// A last odd byte is left out. A zero is a character like any other. `keep`, if given, says of each
// code point whether it is kept.
[[nodiscard]] std::string Utf8FromUtf16(std::span<const std::byte> utf16,
                                        bool (*keep)(uint32_t code) = nullptr);
// Without a terminator.
[[nodiscard]] std::vector<std::byte> Utf16FromUtf8(std::string_view utf8);

}  // namespace partita

#endif  // PARTITA_BASE_UTF16_H_
