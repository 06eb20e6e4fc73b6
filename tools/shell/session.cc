#include "tools/shell/session.h"

#include <memory>
#include <utility>

#include "tools/shell/interpreter.h"
#include "tools/shell/parser.h"
#include "tools/shell/render.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

std::unique_ptr<Renderer> MakeRenderer(Session* session) {
  const auto out = [session](std::string_view text) { session->console().Out(text); };
  const auto shown = [session](std::string_view text) {
    session->console().Out(session->options().terminal ? Printable(text, true) : std::string(text));
  };
  switch (session->options().format) {
    case OutputFormat::kJson:
      return MakeJsonRenderer(out);
    case OutputFormat::kJsonLines:
      return MakeJsonLinesRenderer(out);
    case OutputFormat::kCsv:
      return MakeCsvRenderer(shown);
    case OutputFormat::kText:
      break;
  }
  return MakeTextRenderer(session->views(), session->width(), session->options().terminal, out);
}

}  // namespace

Session::Session(const CmdletTable* table, const ViewTable* views, Console* console,
                 const CancelToken* cancel, SessionOptions options)
    : table_(table), views_(views), console_(console), cancel_(cancel), options_(options) {}

ExitStatus Session::Run(std::string_view text) {
  const ParseResult parsed = Parse(text);
  if (parsed.error) {
    ErrorRecord error;
    error.id = "ParseError";
    error.category = ErrorCategory::kSyntax;
    error.message = parsed.error->message;
    error.position = parsed.error->position;
    Report(error, text);
    return ExitStatus::kUsage;
  }
  const std::unique_ptr<Renderer> renderer = MakeRenderer(this);
  Interpreter interpreter(this, text);
  interpreter.Run(*parsed.block, [&](const Value& value) {
    renderer->Add(value);
    return true;
  });
  renderer->Finish();
  return interpreter.status();
}

Value Session::Variable(std::string_view name) const {
  const auto found = variables_.find(Lower(name));
  return found == variables_.end() ? Value() : found->second.second;
}

void Session::Assign(std::string_view name, Value value) {
  variables_[Lower(name)] = {std::string(name), std::move(value)};
}

void Session::Report(const ErrorRecord& error, std::string_view source) {
  std::string text = error.message;
  for (const std::string& cause : error.cause) text += ": " + cause;
  if (error.position && !source.empty())
    text += " (" + LineAndColumn(source, *error.position) + ")";
  if (!error.next_step.empty()) text += "; " + error.next_step;
  text = Printable(text);
  console_->Err(options_.colour ? "\x1B[31m" + text + "\x1B[0m\n" : text + "\n");
}

void Session::Note(std::string_view text) { console_->Err(Printable(text) + "\n"); }

}  // namespace partita::shell
