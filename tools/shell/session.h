// A shell session: its variables, the cmdlets it knows, and where its output goes. Runs text:
// parses, runs pipelines object by object, and shows what comes out. One thread, except
// CancelToken.
#ifndef PARTITA_TOOLS_SHELL_SESSION_H_
#define PARTITA_TOOLS_SHELL_SESSION_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "tools/shell/cmdlet.h"
#include "tools/shell/error_record.h"
#include "tools/shell/jobs.h"
#include "tools/shell/value.h"
#include "tools/shell/view.h"

namespace partita::shell {

// Ctrl-C: set by a signal handler or another thread, ends the pipeline and not the shell.
class CancelToken {
 public:
  CancelToken();
  CancelToken(const CancelToken&) = delete;
  CancelToken& operator=(const CancelToken&) = delete;
  // Fit for a signal handler.
  void Cancel();
  void Reset();
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Readable once cancelled, for whoever waits for other things too; -1 if the system had none.
  int fd() const { return event_.get(); }
  // Waits; false when it was cancelled before the time was over.
  bool Sleep(std::chrono::milliseconds time) const;

 private:
  std::atomic<bool> cancelled_ = false;
  UniqueFd event_;
};

// kNobody: there is nobody to ask.
enum class Answer { kYes, kYesToAll, kNo, kNoToAll, kNobody };

// The outside: a terminal, pipes, or a test.
class Console {
 public:
  virtual ~Console() = default;
  virtual void Out(std::string_view text) = 0;
  virtual void Err(std::string_view text) = 0;
  virtual Answer Ask(std::string_view question) = 0;
  // How far long work is; empty when it is over. Shown on a terminal alone.
  virtual void Progress(std::string_view /*text*/) {}
  // Whatever was written is on its way.
  virtual void Flush() {}
};

enum class OutputFormat { kText, kJson, kJsonLines, kCsv };

struct SessionOptions {
  bool terminal = false;  // control characters are made visible, lines fit `width`
  bool colour = false;    // the caller has looked at NO_COLOR
  size_t width = 80;
  OutputFormat format = OutputFormat::kText;
  bool json_errors = false;  // an error is a JSON object on a line
};

class Service;
class Renderer;

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
  // The management service; null until Use was called.
  void Use(Service* service) { service_ = service; }
  Service* service() const { return service_; }
  static ErrorRecord NoService();
  std::vector<Job>& jobs() { return jobs_; }
  const CancelToken& cancel() const { return *cancel_; }
  bool cancelled() const { return cancel_->cancelled(); }
  // Columns that text is to fit in; 0 for any.
  size_t width() const { return options_.terminal ? options_.width : 0; }
  // The terminal has another size now.
  void SetWidth(size_t width) { options_.width = width; }

  // Names without case; a variable that is not there is null.
  Value Variable(std::string_view name) const;
  void Assign(std::string_view name, Value value);
  const std::map<std::string, std::pair<std::string, Value>>& variables() const {
    return variables_;
  }

  void Report(const ErrorRecord& error, std::string_view source);
  // What was put out so far is to be seen; more may take long.
  void ShowNow();
  void Note(std::string_view text);  // a line of -Verbose or -WhatIf

 private:
  const CmdletTable* table_;
  const ViewTable* views_;
  Console* console_;
  const CancelToken* cancel_;
  SessionOptions options_;
  Service* service_ = nullptr;
  Renderer* renderer_ = nullptr;  // while something runs
  std::vector<Job> jobs_;
  std::map<std::string, std::pair<std::string, Value>> variables_;  // by lower-case name
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_SESSION_H_
