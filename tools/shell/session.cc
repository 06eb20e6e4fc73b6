#include "tools/shell/session.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

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

CancelToken::CancelToken() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void CancelToken::Cancel() {
  cancelled_.store(true, std::memory_order_relaxed);
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = write(event_.get(), &one, sizeof(one));
}

void CancelToken::Reset() {
  cancelled_.store(false, std::memory_order_relaxed);
  uint64_t count = 0;
  [[maybe_unused]] const auto taken = read(event_.get(), &count, sizeof(count));
}

bool CancelToken::Sleep(std::chrono::milliseconds time) const {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!cancelled()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return true;
    pollfd wanted{event_.get(), POLLIN, 0};
    poll(&wanted, 1, static_cast<int>(std::min<int64_t>(left.count() + 1, 60'000)));
  }
  return false;
}

Session::Session(const CmdletTable* table, const ViewTable* views, Console* console,
                 const CancelToken* cancel, SessionOptions options)
    : table_(table), views_(views), console_(console), cancel_(cancel), options_(options) {}

ErrorRecord Session::NoService() {
  ErrorRecord error;
  error.id = "service.unreachable";
  error.category = ErrorCategory::kUnreachable;
  error.message = "this session has no management service";
  return error;
}

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
  renderer_ = renderer.get();
  Interpreter interpreter(this, text);
  interpreter.Run(*parsed.block, [&](const Value& value) {
    renderer->Add(value);
    return true;
  });
  renderer->Finish();
  renderer_ = nullptr;
  console_->Progress("");
  console_->Flush();
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
  console_->Progress("");
  if (options_.json_errors) {
    Array cause;
    for (const std::string& one : error.cause) cause.emplace_back(one);
    Object object("ErrorRecord");
    object.Add("Id", error.id)
        .Add("Category", CategoryName(error.category))
        .Add("Target", error.target)
        .Add("Message", error.message)
        .Add("Cause", std::move(cause))
        .Add("NextStep", error.next_step);
    console_->Err(ToJson(std::move(object), false) + "\n");
    return;
  }
  std::string text = error.message;
  for (const std::string& cause : error.cause) text += ": " + cause;
  if (error.position && !source.empty())
    text += " (" + LineAndColumn(source, *error.position) + ")";
  if (!error.next_step.empty()) text += "; " + error.next_step;
  text = Printable(text);
  console_->Err(options_.colour ? "\x1B[31m" + text + "\x1B[0m\n" : text + "\n");
}

void Session::ShowNow() {
  if (renderer_ != nullptr) renderer_->ShowNow();
  console_->Flush();
}

void Session::Note(std::string_view text) { console_->Err(Printable(text) + "\n"); }

}  // namespace partita::shell
