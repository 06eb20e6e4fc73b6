// The user's terminal while it is a partition's console: raw, with a way out (Ctrl-A x), and put
// back on every way out of the program.
#ifndef PARTITA_TOOLS_HOST_TERMINAL_H_
#define PARTITA_TOOLS_HOST_TERMINAL_H_

#include <termios.h>

#include <string>
#include <string_view>

namespace partita {

class RawTerminal {
 public:
  RawTerminal();  // does nothing unless standard input is a terminal
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  [[nodiscard]] bool active() const { return active_; }

 private:
  termios saved_{};
  bool active_ = false;
};

// Finds Ctrl-A x in what is typed; Ctrl-A a sends one Ctrl-A.
class EscapeFilter {
 public:
  // Returns the bytes for the guest; sets `*exit` when the user wants out.
  std::string Feed(std::string_view typed, bool* exit);

 private:
  bool escaped_ = false;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_TERMINAL_H_
