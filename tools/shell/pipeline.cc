#include "tools/shell/pipeline.h"

#include <utility>

#include "tools/shell/text.h"

namespace partita::shell {

class Stage : public Context {
 public:
  Stage(RunningPipeline* pipeline, size_t index, const CmdletInfo& info, Bound bound,
        size_t position)
      : pipeline_(pipeline),
        index_(index),
        info_(info),
        bound_(std::move(bound)),
        position_(position),
        cmdlet_(info.make()) {
    if (bound_.Has("Confirm")) {
      ask_ = bound_.Switch("Confirm");
    } else {
      ask_ = info.confirm && !bound_.Switch("Force");
    }
  }

  void Begin() { cmdlet_->Begin(bound_, *this); }
  void Process() { cmdlet_->Process(bound_, *this); }
  bool Feed(const Value& value) {
    if (stopped() || closed_) return false;
    Result<Bound> bound = BindInput(info_, bound_, value);
    if (!bound.ok()) {
      Error(std::move(bound.error()));
    } else {
      cmdlet_->Process(*bound, *this);
    }
    return !stopped() && !closed_;
  }
  void End() {
    if (!stopped()) cmdlet_->End(bound_, *this);
    ended_ = true;
  }
  // Wants no more objects.
  bool closed() const { return closed_ || ended_ || stopped(); }

  bool Write(Value value) override {
    if (stopped()) return false;
    if (index_ + 1 < pipeline_->stages_.size()) {
      pipeline_->stages_[index_ + 1]->Feed(value);
    } else if (!(*pipeline_->sink_)(value)) {
      pipeline_->sink_closed_ = true;
    }
    return !stopped();
  }
  void Error(ErrorRecord error) override {
    const std::string action = bound_.Text("ErrorAction");
    if (action == "Stop") return Terminate(std::move(error));
    pipeline_->interpreter_->Failed(error, action == "SilentlyContinue");
  }
  void Terminate(ErrorRecord error) override {
    if (!error.position) error.position = position_;
    pipeline_->interpreter_->Terminate(std::move(error));
  }
  void Verbose(std::string_view text) override {
    if (bound_.Switch("Verbose")) session().Note("VERBOSE: " + std::string(text));
  }
  bool ShouldProcess(std::string_view target, std::string_view action) override {
    const std::string what = "\"" + std::string(action) + "\" on \"" + std::string(target) + "\"";
    if (bound_.Switch("WhatIf")) {
      session().Note("What if: " + what + " would be done.");
      return false;
    }
    if (!ask_ || all_) return !none_;
    if (none_) return false;
    const Answer answer = session().console().Ask(Printable("Do " + what + "?"));
    if (answer == Answer::kNobody) {
      Error({.id = "ConfirmationNeeded",
             .category = ErrorCategory::kInvalidArgument,
             .target = std::string(target),
             .message = what + " asks first, and there is nobody to ask",
             .next_step = "-Confirm:$false does it without a question"});
    }
    all_ = answer == Answer::kYesToAll;
    none_ = answer == Answer::kNoToAll;
    return answer == Answer::kYes || answer == Answer::kYesToAll;
  }
  bool stopped() const override {
    if (pipeline_->interpreter_->ended()) return true;
    return index_ + 1 < pipeline_->stages_.size() ? pipeline_->stages_[index_ + 1]->closed()
                                                  : pipeline_->sink_closed_;
  }
  void StopUpstream() override { closed_ = true; }
  bool RunBlock(const Block& block, const Value& item,
                const std::function<bool(Value)>& sink) override {
    bool wanted = true;
    pipeline_->interpreter_->RunWith(block, item,
                                     [&](const Value& value) { return wanted = sink(value); });
    return wanted && !pipeline_->interpreter_->ended();
  }
  Session& session() override { return pipeline_->interpreter_->session(); }

 private:
  RunningPipeline* pipeline_;
  size_t index_;
  const CmdletInfo& info_;
  Bound bound_;
  size_t position_;
  std::unique_ptr<Cmdlet> cmdlet_;
  bool closed_ = false;
  bool ended_ = false;
  bool ask_ = false;
  bool all_ = false;
  bool none_ = false;
};

RunningPipeline::RunningPipeline(Interpreter* interpreter, const Interpreter::Sink* sink)
    : interpreter_(interpreter), sink_(sink) {}
RunningPipeline::~RunningPipeline() = default;

void RunningPipeline::Add(const CmdletInfo& info, Bound bound, size_t position) {
  stages_.push_back(
      std::make_unique<Stage>(this, stages_.size(), info, std::move(bound), position));
}
void RunningPipeline::Begin() {
  for (const auto& stage : stages_) {
    if (!interpreter_->ended()) stage->Begin();
  }
}
bool RunningPipeline::Feed(const Value& value) { return stages_.front()->Feed(value); }
void RunningPipeline::Start() {
  if (!stages_.front()->closed()) stages_.front()->Process();
}
bool RunningPipeline::End() {
  for (const auto& stage : stages_) stage->End();
  return !sink_closed_ && !interpreter_->ended();
}

}  // namespace partita::shell
