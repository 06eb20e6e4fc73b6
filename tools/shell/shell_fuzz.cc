// Any text into the parser; whatever it accepts is walked, so that a tree deeper than promised is
// found.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "tools/shell/ast.h"
#include "tools/shell/parser.h"
#include "tools/shell/text.h"

namespace {

using namespace partita::shell;

int Depth(const Block& block);
int Depth(const Expr& expr) {
  int depth = expr.block == nullptr ? 0 : Depth(*expr.block);
  for (const ExprPtr& operand : expr.operands) depth = std::max(depth, Depth(*operand));
  return depth + 1;
}
int Depth(const Block& block) {
  int depth = 0;
  for (const Statement& statement : block.statements) {
    if (statement.pipeline.head != nullptr)
      depth = std::max(depth, Depth(*statement.pipeline.head));
    for (const Command& command : statement.pipeline.commands) {
      for (const Argument& argument : command.arguments) {
        if (argument.value != nullptr) depth = std::max(depth, Depth(*argument.value));
      }
    }
  }
  return depth + 1;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const ParseResult result = Parse(text);
  if ((result.block == nullptr) != result.error.has_value()) std::abort();
  if (result.error && (result.error->message.empty() || result.error->position > size))
    std::abort();
  if (result.block != nullptr && Depth(*result.block) > kMaxTreeDepth + 1) std::abort();
  const std::string shown = Printable(text, true);
  if (std::any_of(shown.begin(), shown.end(), [](char c) {
        return static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t';
      })) {
    std::abort();
  }
  if (DisplayWidth(Shorten(shown, 10)) > 10) std::abort();
  static_cast<void>(WildcardMatch(text.substr(0, std::min<size_t>(size, 64)), text));
  static_cast<void>(ParseNumber(text));
  static_cast<void>(ToTimeSpan(std::string(text)));
  return 0;
}
