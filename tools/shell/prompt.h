// The shell's prompt on a terminal: lines by libedit with history and Tab, each run by the session
// until the input ends or `exit`. Ctrl-C drops the line, or ends the pipeline that runs. One
// thread.
#ifndef PARTITA_TOOLS_SHELL_PROMPT_H_
#define PARTITA_TOOLS_SHELL_PROMPT_H_

#include "tools/shell/completion.h"
#include "tools/shell/session.h"
#include "tools/shell/terminal_console.h"

namespace partita::shell {

// Names from the session's service and variables, and paths from the file system.
class LiveNames : public NameSource {
 public:
  explicit LiveNames(Session* session) : session_(session) {}
  std::vector<std::string> Names(std::string_view kind) override;
  std::vector<std::string> Variables() override;
  std::vector<std::string> Paths(std::string_view prefix) override;

 private:
  Session* session_;
};

// False if the terminal cannot be used.
bool RunPrompt(Session* session, TerminalConsole* console, CancelToken* cancel);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_PROMPT_H_
