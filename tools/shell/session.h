// A shell session: its variables, the cmdlets it knows, and where its output goes. Runs text:
// parses, runs pipelines object by object, and shows what comes out. One thread, except
// CancelToken.
#ifndef PARTITA_TOOLS_SHELL_SESSION_H_
#define PARTITA_TOOLS_SHELL_SESSION_H_

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "tools/shell/cmdlet.h"
#include "tools/shell/error_record.h"
#include "tools/shell/value.h"
#include "tools/shell/view.h"

namespace partita::shell {

// Ctrl-C: set by a signal handler or another thread, ends the pipeline and not the shell.
class CancelToken {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  void Reset() { cancelled_.store(false, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> cancelled_ = false;
};

enum class Answer { kYes, kYesToAll, kNo, kNoToAll };

// The outside: a terminal, pipes, or a test.
class Console {
 public:
  virtual ~Console() = default;
  virtual void Out(std::string_view text) = 0;
  virtual void Err(std::string_view text) = 0;
  // Nobody there to ask is kNoToAll.
  virtual Answer Ask(std::string_view question) = 0;
};

enum class OutputFormat { kText, kJson, kJsonLines, kCsv };

struct SessionOptions {
  bool terminal = false;  // control characters are made visible, lines fit `width`
  bool colour = false;    // the caller has looked at NO_COLOR
  size_t width = 80;
  OutputFormat format = OutputFormat::kText;
};

class Session {
 public:
  // Everything outlives the session.
  Session(const CmdletTable* table, const ViewTable* views, Console* console,
          const CancelToken* cancel, SessionOptions options);

  // Runs a line or a script and shows its output. Errors go to the console.
  ExitStatus Run(std::string_view text);

  const CmdletTable& table() const { return *table_; }
  const ViewTable& views() const { return *views_; }
  Console& console() { return *console_; }
  const SessionOptions& options() const { return options_; }
  bool cancelled() const { return cancel_->cancelled(); }
  // Columns that text is to fit in; 0 for any.
  size_t width() const { return options_.terminal ? options_.width : 0; }

  // Names without case; a variable that is not there is null.
  Value Variable(std::string_view name) const;
  void Assign(std::string_view name, Value value);
  const std::map<std::string, std::pair<std::string, Value>>& variables() const {
    return variables_;
  }

  void Report(const ErrorRecord& error, std::string_view source);
  void Note(std::string_view text);  // a line of -Verbose or -WhatIf

 private:
  const CmdletTable* table_;
  const ViewTable* views_;
  Console* console_;
  const CancelToken* cancel_;
  SessionOptions options_;
  std::map<std::string, std::pair<std::string, Value>> variables_;  // by lower-case name
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_SESSION_H_
