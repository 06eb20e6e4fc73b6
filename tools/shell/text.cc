#include "tools/shell/text.h"

#include <algorithm>
#include <array>

namespace partita::shell {
namespace {

constexpr char32_t kInvalid = 0xFFFFFFFF;

// The code point at `*at`, which moves past it; kInvalid (one byte) for what is no UTF-8.
char32_t NextCodePoint(std::string_view text, size_t* at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(*at);
  const size_t start = (*at)++;
  if (first < 0x80) return first;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || start + length > text.size()) return kInvalid;
  char32_t point = first & (0xFFU >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(start + i) & 0xC0) != 0x80) return kInvalid;
    point = (point << 6) | (byte(start + i) & 0x3FU);
  }
  constexpr std::array<char32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  if (point < kSmallest[length] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) {
    return kInvalid;
  }
  *at = start + length;
  return point;
}

struct Range {
  char32_t first;
  char32_t last;
};
template <size_t N>
bool In(const std::array<Range, N>& ranges, char32_t point) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& r) { return point >= r.first && point <= r.last; });
}

// Unicode: controls, line and paragraph separators, direction marks, tags and other invisibles.
constexpr std::array<Range, 10> kUnsafe = {{{0, 0x1F},
                                            {0x7F, 0x9F},
                                            {0xAD, 0xAD},
                                            {0x61C, 0x61C},
                                            {0x200B, 0x200F},
                                            {0x2028, 0x202E},
                                            {0x2060, 0x206F},
                                            {0xFEFF, 0xFEFF},
                                            {0xFFF9, 0xFFFB},
                                            {0xE0000, 0xE0FFF}}};
// The common blocks of combining marks, and of East Asian Width "W" (UAX 11).
constexpr std::array<Range, 6> kCombining = {{{0x300, 0x36F},
                                              {0x483, 0x489},
                                              {0x591, 0x5BD},
                                              {0x64B, 0x65F},
                                              {0x20D0, 0x20FF},
                                              {0xFE00, 0xFE0F}}};
constexpr std::array<Range, 8> kWide = {{{0x1100, 0x115F},
                                         {0x2E80, 0x303E},
                                         {0x3041, 0xA4CF},
                                         {0xAC00, 0xD7A3},
                                         {0xF900, 0xFAFF},
                                         {0xFE30, 0xFE6F},
                                         {0xFF00, 0xFF60},
                                         {0x1F300, 0x3FFFD}}};

size_t WidthOf(char32_t point) {
  if (point == kInvalid) return 1;
  if (In(kCombining, point)) return 0;
  return In(kWide, point) ? 2 : 1;
}

void AppendHex(std::string* out, char32_t value, int digits) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) *out += kHex[(value >> shift) & 15U];
}

// One element of a pattern at `*at` against `c`; moves past the element.
bool ElementMatches(std::string_view pattern, size_t* at, char c) {
  const char kind = pattern[(*at)++];
  if (kind == '?') return true;
  if (kind == '`' && *at < pattern.size()) return LowerChar(pattern[(*at)++]) == LowerChar(c);
  const size_t close = kind == '[' ? pattern.find(']', *at) : std::string_view::npos;
  if (close == std::string_view::npos || close == *at) return LowerChar(kind) == LowerChar(c);
  bool found = false;
  for (size_t i = *at; i < close; ++i) {
    const char low = LowerChar(pattern[i]);
    char high = low;
    if (i + 2 < close && pattern[i + 1] == '-') high = LowerChar(pattern[i += 2]);
    found = found || (LowerChar(c) >= low && LowerChar(c) <= high);
  }
  *at = close + 1;
  return found;
}

}  // namespace

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = LowerChar(c);
  return out;
}

int CompareFold(std::string_view a, std::string_view b) {
  const size_t common = std::min(a.size(), b.size());
  for (size_t i = 0; i < common; ++i) {
    const auto x = static_cast<unsigned char>(LowerChar(a[i]));
    const auto y = static_cast<unsigned char>(LowerChar(b[i]));
    if (x != y) return x < y ? -1 : 1;
  }
  return a.size() == b.size() ? 0 : a.size() < b.size() ? -1 : 1;
}

bool StartsWithFold(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && EqualsFold(text.substr(0, prefix.size()), prefix);
}

bool WildcardMatch(std::string_view pattern, std::string_view text) {
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;  // pattern after the last `*`
  size_t star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      star_text = t;
      continue;
    }
    size_t next = p;
    if (p < pattern.size() && ElementMatches(pattern, &next, text[t])) {
      p = next;
      ++t;
      continue;
    }
    if (star == std::string_view::npos) return false;
    p = star;
    t = ++star_text;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool HasWildcard(std::string_view text) {
  return text.find_first_of("*?[") != std::string_view::npos;
}

std::string Printable(std::string_view text, bool keep_lines) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t point = NextCodePoint(text, &at);
    if (keep_lines && (point == '\n' || point == '\t')) {
      out += text[start];
    } else if (point == kInvalid || (point < 0x100 && In(kUnsafe, point))) {
      out += "\\x";
      AppendHex(&out, point == kInvalid ? static_cast<unsigned char>(text[start]) : point, 2);
    } else if (In(kUnsafe, point)) {
      out += "\\u{";
      AppendHex(&out, point, point > 0xFFFF ? 5 : 4);
      out += '}';
    } else {
      out += text.substr(start, at - start);
    }
  }
  return out;
}

size_t DisplayWidth(std::string_view text) {
  size_t width = 0;
  for (size_t at = 0; at < text.size();) width += WidthOf(NextCodePoint(text, &at));
  return width;
}

std::string Shorten(std::string_view text, size_t width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  const size_t dots = std::min<size_t>(3, width);
  size_t used = 0;
  size_t end = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t wide = WidthOf(NextCodePoint(text, &at));
    if (used + wide > width - dots) break;
    used += wide;
    end = at;
  }
  return std::string(text.substr(0, end)) + std::string(dots, '.');
}

std::string PadRight(std::string_view text, size_t width) {
  const size_t have = DisplayWidth(text);
  return std::string(text) + std::string(have < width ? width - have : 0, ' ');
}

std::string PadLeft(std::string_view text, size_t width) {
  const size_t have = DisplayWidth(text);
  return std::string(have < width ? width - have : 0, ' ') + std::string(text);
}

std::string Join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const std::string& part : parts) {
    if (&part != parts.data()) out += separator;
    out += part;
  }
  return out;
}

}  // namespace partita::shell
