// Runs a parsed block: expressions, and pipelines whose cmdlets pass objects on one by one. Lives
// for one run of a session; one thread. Depth and size are bounded, cancellation is looked at with
// each object.
#ifndef PARTITA_TOOLS_SHELL_INTERPRETER_H_
#define PARTITA_TOOLS_SHELL_INTERPRETER_H_

#include <functional>
#include <string_view>
#include <vector>

#include "tools/shell/ast.h"
#include "tools/shell/binder.h"
#include "tools/shell/error_record.h"
#include "tools/shell/session.h"

namespace partita::shell {

class Interpreter {
 public:
  // Takes a value; false when it wants no more.
  using Sink = std::function<bool(const Value&)>;

  Interpreter(Session* session, std::string_view source) : session_(session), source_(source) {}

  // False when the run has ended (an error, Ctrl-C) or the sink wanted no more.
  bool Run(const Block& block, const Sink& sink);
  bool RunWith(const Block& block, const Value& item, const Sink& sink);

  ExitStatus status() const { return status_; }
  bool ended() const { return ended_ || session_->cancelled(); }
  Session& session() { return *session_; }

  void Failed(const ErrorRecord& error, bool silent);
  void Terminate(ErrorRecord error);

 private:
  bool RunStatement(const Statement& statement, const Sink& sink);
  bool RunPipeline(const Pipeline& pipeline, const Sink& sink);
  Value Evaluate(const Expr& expr);
  Value EvaluateText(const Expr& expr);
  Value EvaluateBinary(const Expr& expr);
  Value EvaluateBlock(const Expr& expr);
  Value Checked(Result<Value> result, size_t position);
  EvaluatedArgument EvaluateArgument(const Argument& argument);

  Session* session_;
  std::string_view source_;
  ExitStatus status_ = ExitStatus::kOk;
  bool ended_ = false;
  int depth_ = 0;
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_INTERPRETER_H_
