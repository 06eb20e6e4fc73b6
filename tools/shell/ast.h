// What the parser makes of a line or a script. Plain data, immutable after parsing; any thread.
// Every tree's depth is bounded (kMaxTreeDepth), so that walking and freeing it may recurse.
#ifndef PARTITA_TOOLS_SHELL_AST_H_
#define PARTITA_TOOLS_SHELL_AST_H_

#include <memory>
#include <string>
#include <vector>

#include "tools/shell/value.h"

namespace partita::shell {

constexpr int kMaxTreeDepth = 400;

enum class Operator {
  kNone,
  kOr,
  kAnd,
  kEq,
  kNe,
  kGt,
  kGe,
  kLt,
  kLe,
  kLike,
  kNotLike,
  kMatch,
  kNotMatch,
  kIn,
  kNotIn,
  kContains,
  kNotContains,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kModulo,
  kNot,
  kNegate,
};

struct Block;
struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind {
    kLiteral,   // literal
    kBareWord,  // name is the word as typed; literal its number, if it is one
    kText,      // operands, one after the other
    kVariable,  // name
    kMember,    // operands[0].name
    kIndex,     // operands[0][operands[1]]
    kUnary,     // op operands[0]
    kBinary,    // operands[0] op operands[1]
    kArray,     // operands
    kGroup,     // ( block ), $( block )
    kArrayOf,   // @( block )
    kBlock,     // { block }
  };
  Kind kind = Kind::kLiteral;
  size_t position = 0;  // in the source
  int depth = 1;
  Value literal;
  std::string name;
  Operator op = Operator::kNone;
  std::vector<ExprPtr> operands;
  std::shared_ptr<const Block> block;
};

// `-Name`, `-Name:value` or a value alone. What belongs to what is decided by binding.
struct Argument {
  size_t position = 0;
  std::string name;  // empty for a value alone
  ExprPtr value;     // null for `-Name`
};

struct Command {
  size_t position = 0;
  std::string name;
  std::vector<Argument> arguments;
};

struct Pipeline {
  size_t position = 0;
  ExprPtr head;  // may be null: then the first command is the source
  std::vector<Command> commands;
};

struct Statement {
  std::string variable;  // what is assigned to; empty for none
  Pipeline pipeline;
};

struct Block {
  std::string source;  // as typed, without braces
  std::vector<Statement> statements;
  int depth = 1;
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_AST_H_
