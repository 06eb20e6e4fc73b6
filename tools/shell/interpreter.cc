#include "tools/shell/interpreter.h"

#include <string>
#include <utility>

#include "tools/shell/operators.h"
#include "tools/shell/pipeline.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr int kMaxDepth = 24;
constexpr size_t kMaxStages = 32;

ErrorRecord CommandNotFound(const Command& command, const CmdletTable& table) {
  ErrorRecord error;
  error.id = "CommandNotFound";
  error.category = ErrorCategory::kInvalidArgument;
  error.target = command.name;
  error.message = "there is no cmdlet or alias '" + command.name + "'";
  error.next_step = "Get-Command lists what there is";
  if (const std::string near = NearestCommand(table, command.name); !near.empty())
    error.next_step = "did you mean " + near + "?";
  error.position = command.position;
  return error;
}

// Arrays go down a pipeline element by element.
bool Enumerate(const Value& value, const Interpreter::Sink& sink) {
  const Array* array = value.IfArray();
  if (array == nullptr) return sink(value);
  for (const Value& element : *array) {
    if (!sink(element)) return false;
  }
  return true;
}

Value AsTyped(const Expr& expr, const Value& value) {
  if (expr.kind == Expr::Kind::kBareWord) return expr.name;
  const Array* array = value.IfArray();
  if (expr.kind != Expr::Kind::kArray || array == nullptr) return value;
  Array texts = *array;
  for (size_t i = 0; i < texts.size() && i < expr.operands.size(); ++i) {
    if (expr.operands[i]->kind == Expr::Kind::kBareWord) texts[i] = expr.operands[i]->name;
  }
  return texts;
}

}  // namespace

void Interpreter::Failed(const ErrorRecord& error, bool silent) {
  status_ = Worse(status_, StatusOf(error.category));
  // Who pressed Ctrl-C knows it.
  if (!silent && error.category != ErrorCategory::kCancelled) session_->Report(error, source_);
}

void Interpreter::Terminate(ErrorRecord error) {
  if (ended_) return;
  Failed(error, false);
  ended_ = true;
}

bool Interpreter::Run(const Block& block, const Sink& sink) {
  if (++depth_ > kMaxDepth)
    Terminate(InvalidOperation("TooDeep", "script blocks call each other too deep"));
  bool go = !ended();
  for (const Statement& statement : block.statements) {
    if (!go) break;
    go = RunStatement(statement, sink);
  }
  --depth_;
  if (session_->cancelled()) status_ = Worse(status_, ExitStatus::kSomeFailed);
  return go && !ended();
}

bool Interpreter::RunWith(const Block& block, const Value& item, const Sink& sink) {
  Value before = session_->Variable("_");
  session_->Assign("_", item);
  const bool go = Run(block, sink);
  session_->Assign("_", std::move(before));
  return go;
}

bool Interpreter::RunStatement(const Statement& statement, const Sink& sink) {
  if (statement.variable.empty()) return RunPipeline(statement.pipeline, sink);
  const Pipeline& pipeline = statement.pipeline;
  Value value;
  if (pipeline.head != nullptr && pipeline.commands.empty()) {
    value = Evaluate(*pipeline.head);
  } else {
    Array values;
    RunPipeline(pipeline, [&](const Value& v) {
      values.push_back(v);
      if (values.size() > kMaxElements)
        Terminate(
            InvalidOperation("TooLarge", "more than a million objects do not fit a variable"));
      return !ended();
    });
    value = values.empty()       ? Value()
            : values.size() == 1 ? values.front()
                                 : Value(std::move(values));
  }
  if (ended()) return false;
  session_->Assign(statement.variable, std::move(value));
  return true;
}

bool Interpreter::RunPipeline(const Pipeline& pipeline, const Sink& sink) {
  if (pipeline.commands.size() > kMaxStages) {
    ErrorRecord error =
        InvalidOperation("TooLong", "a pipeline has at most 32 commands; use a variable");
    error.position = pipeline.position;
    Terminate(std::move(error));
    return false;
  }
  if (pipeline.commands.empty()) {
    const Value value = Evaluate(*pipeline.head);
    if (ended()) return false;
    return value.is_null() || Enumerate(value, sink);
  }
  RunningPipeline running(this, &sink);
  for (const Command& command : pipeline.commands) {
    const CmdletInfo* info = session_->table().Find(command.name);
    if (info == nullptr) {
      Terminate(CommandNotFound(command, session_->table()));
      return false;
    }
    std::vector<EvaluatedArgument> arguments;
    for (const Argument& argument : command.arguments)
      arguments.push_back(EvaluateArgument(argument));
    if (ended()) return false;
    const bool piped = pipeline.head != nullptr || &command != pipeline.commands.data();
    Result<Bound> bound = Bind(*info, arguments, piped);
    if (!bound.ok()) {
      Terminate(std::move(bound.error()));
      return false;
    }
    running.Add(*info, std::move(*bound), command.position);
  }
  const Value input = pipeline.head == nullptr ? Value() : Evaluate(*pipeline.head);
  if (ended()) return false;
  running.Begin();
  if (pipeline.head == nullptr) {
    running.Start();
  } else {
    Enumerate(input, [&](const Value& value) { return running.Feed(value); });
  }
  return running.End();
}

Value Interpreter::Checked(Result<Value> result, size_t position) {
  if (result.ok()) return std::move(*result);
  ErrorRecord error = std::move(result.error());
  if (!error.position) error.position = position;
  Terminate(std::move(error));
  return {};
}

Value Interpreter::Evaluate(const Expr& expr) {
  if (ended()) return {};
  switch (expr.kind) {
    case Expr::Kind::kLiteral:
      return expr.literal;
    case Expr::Kind::kBareWord:
      return expr.literal.is_null() ? Value(expr.name) : expr.literal;
    case Expr::Kind::kText:
      return EvaluateText(expr);
    case Expr::Kind::kVariable:
      return session_->Variable(expr.name);
    case Expr::Kind::kMember:
      return Member(Evaluate(*expr.operands[0]), expr.name);
    case Expr::Kind::kIndex: {
      const Value value = Evaluate(*expr.operands[0]);
      return Checked(Index(value, Evaluate(*expr.operands[1])), expr.position);
    }
    case Expr::Kind::kUnary:
      return Checked(ApplyUnary(expr.op, Evaluate(*expr.operands[0])), expr.position);
    case Expr::Kind::kBinary:
      return EvaluateBinary(expr);
    case Expr::Kind::kArray: {
      Array array;
      for (const ExprPtr& operand : expr.operands) array.push_back(Evaluate(*operand));
      return array;
    }
    case Expr::Kind::kGroup:
    case Expr::Kind::kArrayOf:
      return EvaluateBlock(expr);
    case Expr::Kind::kBlock:
      return expr.block;
  }
  return {};
}

Value Interpreter::EvaluateBinary(const Expr& expr) {
  const Value left = Evaluate(*expr.operands[0]);
  if (ended()) return {};
  // The right side of -and and -or runs only if it decides.
  if (expr.op == Operator::kAnd && !ToBool(left)) return false;
  if (expr.op == Operator::kOr && ToBool(left)) return true;
  const Value right = Evaluate(*expr.operands[1]);
  if (ended()) return {};
  return Checked(Apply(expr.op, left, right), expr.position);
}

Value Interpreter::EvaluateText(const Expr& expr) {
  std::string text;
  for (const ExprPtr& part : expr.operands) {
    text += ToText(Evaluate(*part));
    if (text.size() <= kMaxText) continue;
    Terminate(InvalidOperation("TooLarge", "text of more than 16 MiB is not made here"));
    return {};
  }
  return text;
}

Value Interpreter::EvaluateBlock(const Expr& expr) {
  Array values;
  Run(*expr.block, [&](const Value& value) {
    values.push_back(value);
    if (values.size() > kMaxElements)
      Terminate(
          InvalidOperation("TooLarge", "more than a million objects do not fit an expression"));
    return !ended();
  });
  if (expr.kind == Expr::Kind::kArrayOf) return values;
  if (values.empty()) return {};
  return values.size() == 1 ? values.front() : Value(std::move(values));
}

EvaluatedArgument Interpreter::EvaluateArgument(const Argument& argument) {
  EvaluatedArgument out;
  out.position = argument.position;
  out.name = argument.name;
  out.has_value = argument.value != nullptr;
  if (out.has_value) {
    out.value = Evaluate(*argument.value);
    out.text = AsTyped(*argument.value, out.value);
  }
  return out;
}

}  // namespace partita::shell
