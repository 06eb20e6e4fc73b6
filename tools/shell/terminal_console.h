// The shell's console on standard input, output and error. Knows which of them are terminals: there
// is colour, a question can be asked and progress is shown there, and nowhere else. One thread.
#ifndef PARTITA_TOOLS_SHELL_TERMINAL_CONSOLE_H_
#define PARTITA_TOOLS_SHELL_TERMINAL_CONSOLE_H_

#include <string>

#include "tools/shell/session.h"

namespace partita::shell {

class TerminalConsole : public Console {
 public:
  explicit TerminalConsole(const CancelToken* cancel);
  ~TerminalConsole() override;
  TerminalConsole(const TerminalConsole&) = delete;
  TerminalConsole& operator=(const TerminalConsole&) = delete;

  void Out(std::string_view text) override;
  void Err(std::string_view text) override;
  Answer Ask(std::string_view question) override;
  void Progress(std::string_view text) override;
  void Flush() override;

  bool interactive() const { return in_ && out_; }  // input and output are terminals
  // What a session on these descriptors is to be like; NO_COLOR and TERM=dumb are honoured.
  SessionOptions Options() const;
  static size_t Width();

 private:
  const CancelToken* cancel_;
  bool in_, out_, err_;
  std::string waiting_;    // for standard output
  bool progress_ = false;  // there is a line of it on the screen
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_TERMINAL_CONSOLE_H_
