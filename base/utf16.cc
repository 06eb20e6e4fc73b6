#include "base/utf16.h"

#include <cstring>

namespace partita {
namespace {

constexpr uint32_t kReplacement = 0xfffd;

bool IsSurrogate(uint32_t code) { return code >= 0xd800 && code < 0xe000; }

void AppendUtf8(uint32_t code, std::string& text) {
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  const unsigned more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint32_t kLead[] = {0, 0xc0, 0xe0, 0xf0};
  text += static_cast<char>(kLead[more] | code >> (6 * more));
  for (unsigned i = more; i-- > 0;) text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
}

// The next code point of `text` at `at`, which moves behind it; behind one byte where that begins
// none.
uint32_t NextCode(std::string_view text, size_t& at) {
  const auto first = static_cast<uint8_t>(text[at++]);
  if (first < 0x80) return first;
  if (first < 0xc2 || first > 0xf4) return kReplacement;
  const unsigned more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  uint32_t code = first & (0x3fu >> more);
  for (unsigned i = 0; i < more; ++i) {
    const uint8_t next = at + i < text.size() ? static_cast<uint8_t>(text[at + i]) : 0;
    if ((next & 0xc0) != 0x80) return kReplacement;
    code = code << 6 | (next & 0x3fu);
  }
  constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
  if (code < kLeast[more] || code > 0x10ffff || IsSurrogate(code)) return kReplacement;
  at += more;
  return code;
}

}  // namespace

std::string Utf8FromUtf16(std::span<const std::byte> utf16, bool (*keep)(uint32_t code)) {
  const size_t units = utf16.size() / 2;
  const auto unit = [&](size_t i) {
    uint16_t value = 0;
    std::memcpy(&value, utf16.data() + 2 * i, sizeof(value));
    return static_cast<uint32_t>(value);
  };
  std::string text;
  for (size_t i = 0; i < units; ++i) {
    uint32_t code = unit(i);
    if (IsSurrogate(code)) {
      const uint32_t low = i + 1 < units ? unit(i + 1) : 0;
      const bool pair = code < 0xdc00 && low >= 0xdc00 && low < 0xe000;
      code = pair ? 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff)) : kReplacement;
      if (pair) ++i;
    }
    if (keep == nullptr || keep(code)) AppendUtf8(code, text);
  }
  return text;
}

std::vector<std::byte> Utf16FromUtf8(std::string_view utf8) {
  std::vector<std::byte> utf16;
  const auto append = [&](uint32_t unit) {
    utf16.push_back(static_cast<std::byte>(unit));
    utf16.push_back(static_cast<std::byte>(unit >> 8));
  };
  for (size_t at = 0; at < utf8.size();) {
    const uint32_t code = NextCode(utf8, at);
    if (code < 0x10000) {
      append(code);
    } else {
      append(0xd800 | (code - 0x10000) >> 10);
      append(0xdc00 | (code & 0x3ff));
    }
  }
  return utf16;
}

}  // namespace partita
