// Rules for text that hold in every locale: ASCII case, wildcards, and what may be written to a
// terminal. No function of the C or C++ locale is used here or anywhere in the shell, so that a
// Turkish administrator's "dotless i" changes nothing. Pure; any thread.
//
// Text may come from a guest (key-value pairs, file names): everything here takes any bytes.
#ifndef PARTITA_TOOLS_SHELL_TEXT_H_
#define PARTITA_TOOLS_SHELL_TEXT_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace partita::shell {

inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }
inline bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
// What a variable, parameter or property name is made of.
inline bool IsNameChar(char c) { return IsLetter(c) || IsDigit(c) || c == '_'; }

inline char LowerChar(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
std::string Lower(std::string_view text);
// Below, at or above zero; ASCII letters compare without case, other bytes as they are.
int CompareFold(std::string_view a, std::string_view b);
inline bool EqualsFold(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CompareFold(a, b) == 0;
}
bool StartsWithFold(std::string_view text, std::string_view prefix);

// `*`, `?` and `[a-z]`, a backtick takes the next character as it is; without case. Time is at most
// the product of the two lengths.
bool WildcardMatch(std::string_view pattern, std::string_view text);
bool HasWildcard(std::string_view text);

// Control characters, characters that change the direction of text, and bytes that are no UTF-8
// become visible escapes (`\x1B`, `\u{202E}`). `keep_lines` leaves newlines and tabs.
std::string Printable(std::string_view text, bool keep_lines = false);
// Columns that printable text takes on a terminal: 0 for combining, 2 for wide characters.
size_t DisplayWidth(std::string_view text);
// At most `width` columns; cut text ends in "...".
std::string Shorten(std::string_view text, size_t width);
std::string PadRight(std::string_view text, size_t width);
std::string PadLeft(std::string_view text, size_t width);
std::string Join(const std::vector<std::string>& parts, std::string_view separator);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_TEXT_H_
