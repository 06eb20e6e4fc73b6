// Text to a tree. The language is what an administrator types: pipelines, expressions, variables
// and script blocks; no functions and no loops. Pure; any thread.
//
// The text is hostile: its size, its nesting and the depth of the tree are bounded, time is linear.
#ifndef PARTITA_TOOLS_SHELL_PARSER_H_
#define PARTITA_TOOLS_SHELL_PARSER_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "tools/shell/ast.h"

namespace partita::shell {

constexpr size_t kMaxSource = size_t{1} << 20;
constexpr int kMaxNesting = 48;

struct SyntaxError {
  size_t position = 0;
  std::string message;
  // More text could make it right: an interactive prompt asks for another line.
  bool incomplete = false;
};

struct ParseResult {
  std::shared_ptr<const Block> block;  // null if there is an error
  std::optional<SyntaxError> error;
};

ParseResult Parse(std::string_view text);

// "line 2, column 5" for a position in the text.
std::string LineAndColumn(std::string_view text, size_t position);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_PARSER_H_
