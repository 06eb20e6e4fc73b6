#include "tools/host/terminal.h"

#include <unistd.h>

#include <utility>

namespace partita {

RawTerminal::RawTerminal() {
  if (isatty(STDIN_FILENO) == 0 || tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  cfmakeraw(&raw);
  raw.c_oflag |= OPOST;  // our own lines stay readable
  active_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

RawTerminal::~RawTerminal() {
  if (active_) tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
}

std::string EscapeFilter::Feed(std::string_view typed, bool* exit) {
  constexpr char kEscape = 1;  // Ctrl-A
  std::string out;
  for (const char c : typed) {
    if (std::exchange(escaped_, false)) {
      if (c == 'x' || c == 'X') *exit = true;
      if (c == 'a' || c == kEscape) out.push_back(kEscape);
    } else if (c == kEscape) {
      escaped_ = true;
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace partita
