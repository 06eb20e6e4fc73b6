// What of a guest's text reaches people: its words, and nothing that a terminal or a page of text
// obeys. The serial console is not text of this kind: its bytes are between the guest and the
// terminal that its user chose, and pass as they are.
#ifndef PARTITA_BASE_GUEST_TEXT_H_
#define PARTITA_BASE_GUEST_TEXT_H_

#include <cstdint>

namespace partita {

// Whether a code point only shows something. Left out are control characters (C1 too: U+009B begins
// an escape sequence), separators of lines and paragraphs, marks that turn the direction of the
// text around them, and tags, which nobody sees.
constexpr bool ShowsOnly(uint32_t code) {
  if (code < 0x20 || (code >= 0x7F && code < 0xA0)) return false;
  if (code == 0x061C || code == 0x200E || code == 0x200F) return false;
  if (code >= 0x2028 && code <= 0x202E) return false;
  if (code >= 0x2066 && code <= 0x206F) return false;
  return code < 0xE0000 || code > 0xE007F;
}

}  // namespace partita

#endif  // PARTITA_BASE_GUEST_TEXT_H_
