// The running commands of one pipeline, each handing its objects to the next. Made and used by the
// interpreter; one thread.
#ifndef PARTITA_TOOLS_SHELL_PIPELINE_H_
#define PARTITA_TOOLS_SHELL_PIPELINE_H_

#include <memory>
#include <vector>

#include "tools/shell/cmdlet.h"
#include "tools/shell/interpreter.h"

namespace partita::shell {

class Stage;

class RunningPipeline {
 public:
  RunningPipeline(Interpreter* interpreter, const Interpreter::Sink* sink);
  ~RunningPipeline();
  RunningPipeline(const RunningPipeline&) = delete;
  RunningPipeline& operator=(const RunningPipeline&) = delete;

  void Add(const CmdletInfo& info, Bound bound, size_t position);
  void Begin();
  // Hands a value to the first command; false when it wants no more.
  bool Feed(const Value& value);
  // Calls the first command without input: it is the source.
  void Start();
  // Lets everyone finish. False when the run ended or the sink wanted no more.
  bool End();

 private:
  friend class Stage;
  Interpreter* interpreter_;
  const Interpreter::Sink* sink_;
  bool sink_closed_ = false;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_PIPELINE_H_
