#include "tools/shell/parser.h"

#include <algorithm>
#include <array>
#include <utility>

#include "tools/shell/lexer.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

struct NamedOperator {
  std::string_view name;
  Operator op;
};
constexpr std::array<NamedOperator, 2> kLogical = {
    {{"and", Operator::kAnd}, {"or", Operator::kOr}}};
constexpr std::array<NamedOperator, 14> kComparisons = {{{"eq", Operator::kEq},
                                                         {"ne", Operator::kNe},
                                                         {"gt", Operator::kGt},
                                                         {"ge", Operator::kGe},
                                                         {"lt", Operator::kLt},
                                                         {"le", Operator::kLe},
                                                         {"like", Operator::kLike},
                                                         {"notlike", Operator::kNotLike},
                                                         {"match", Operator::kMatch},
                                                         {"notmatch", Operator::kNotMatch},
                                                         {"in", Operator::kIn},
                                                         {"notin", Operator::kNotIn},
                                                         {"contains", Operator::kContains},
                                                         {"notcontains", Operator::kNotContains}}};

template <size_t N>
Operator FindOperator(const std::array<NamedOperator, N>& table, std::string_view word) {
  for (const NamedOperator& entry : table) {
    if (EqualsFold(entry.name, word)) return entry.op;
  }
  return Operator::kNone;
}

bool IsKeyword(std::string_view word) {
  constexpr std::array<std::string_view, 14> kKeywords = {
      "if",  "else",  "elseif", "foreach",  "for",   "while",  "do",
      "try", "catch", "switch", "function", "param", "return", "class"};
  return std::any_of(kKeywords.begin(), kKeywords.end(),
                     [&](std::string_view keyword) { return EqualsFold(keyword, word); });
}

class Parser {
 public:
  explicit Parser(std::string_view text) : lexer_(text), text_(text) {}

  std::optional<SyntaxError> error() { return std::move(error_); }

  // Up to `close` (taken), or to the end for NUL.
  std::shared_ptr<const Block> Statements(char close, std::string_view opened) {
    const Nesting nesting(this);
    const size_t begin = lexer_.position();
    if (!nesting.ok) return nullptr;
    auto block = std::make_shared<Block>();
    for (;;) {
      if (!Separators(true)) return nullptr;
      if (lexer_.AtEnd()) {
        if (close == '\0') break;
        Incomplete(std::string("the closing '") + close + "' of " + std::string(opened) +
                   " is missing");
        return nullptr;
      }
      if (close != '\0' && lexer_.Peek() == close) break;
      Statement statement;
      if (!ParseStatement(&statement)) return nullptr;
      Deepen(&block->depth, statement.pipeline);
      block->statements.push_back(std::move(statement));
      if (!EndOfStatement(close)) return nullptr;
    }
    block->source = std::string(text_.substr(begin, lexer_.position() - begin));
    if (close != '\0') lexer_.Next();
    if (block->depth > kMaxTreeDepth) {
      Fail(begin, "this is nested too deep; split it into several lines with variables");
      return nullptr;
    }
    return block;
  }

 private:
  struct Nesting {
    explicit Nesting(Parser* p) : parser(p), ok(++p->nesting_ <= kMaxNesting) {
      if (!ok) p->Fail(p->lexer_.position(), "this is nested too deep; split it with variables");
    }
    ~Nesting() { --parser->nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    Parser* parser;
    bool ok;
  };

  ExprPtr Fail(size_t position, std::string message, bool incomplete = false) {
    if (!error_) error_ = SyntaxError{position, std::move(message), incomplete};
    return nullptr;
  }
  ExprPtr Incomplete(std::string message) {
    return Fail(lexer_.position(), std::move(message), true);
  }
  bool Missing(std::string what) {
    Incomplete(std::move(what));
    return false;
  }
  bool Blanks() { return Closed(lexer_.SkipBlanks()); }
  bool Separators(bool semicolons) { return Closed(lexer_.SkipSeparators(semicolons)); }
  bool Closed(bool comment_is_closed) {
    if (!comment_is_closed) Incomplete("the comment that '<#' begins has no '#>'");
    return comment_is_closed;
  }

  ExprPtr Make(Expr::Kind kind, size_t position) {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->position = position;
    return expr;
  }
  // Adds an operand and keeps the tree's depth; false (and an error) when it grows too deep.
  bool Adopt(Expr* parent, ExprPtr child) {
    if (child == nullptr) return false;
    parent->depth = std::max(parent->depth, child->depth + 1);
    parent->operands.push_back(std::move(child));
    if (parent->depth <= kMaxTreeDepth) return true;
    Fail(parent->position, "this expression is too long; split it with variables");
    return false;
  }
  static void Deepen(int* depth, const Pipeline& pipeline) {
    if (pipeline.head != nullptr) *depth = std::max(*depth, pipeline.head->depth + 1);
    for (const Command& command : pipeline.commands) {
      for (const Argument& argument : command.arguments) {
        if (argument.value != nullptr) *depth = std::max(*depth, argument.value->depth + 1);
      }
    }
  }

  bool EndOfStatement(char close) {
    if (!Blanks()) return false;
    const char c = lexer_.Peek();
    if (lexer_.AtEnd() || c == '\n' || c == ';' || (close != '\0' && c == close)) return true;
    Fail(lexer_.position(), Unexpected(c));
    return false;
  }
  static std::string Unexpected(char c) {
    if (c == '>' || c == '<')
      return "redirection is not part of this language; use '| Out-File PATH'";
    if (c == '&')
      return "'&' is not part of this language; write one statement after the other with ';'";
    if (c == ')' || c == '}' || c == ']')
      return std::string("there is nothing open that '") + c + "' closes";
    if (c == '=') return "only a variable can be assigned to: $name = ...";
    return "'" + Printable(std::string_view(&c, 1)) +
           "' was not expected here; use '|' between commands and ';' between statements";
  }

  // `$name =`, and then a pipeline.
  bool ParseStatement(Statement* statement) {
    const size_t begin = lexer_.position();
    if (lexer_.Take('$')) {
      const std::string_view name = lexer_.Name();
      if (!name.empty() && Blanks() && lexer_.Peek() == '=' && lexer_.Peek(1) != '=') {
        lexer_.Next();
        statement->variable = std::string(name);
        if (!Separators(false)) return false;
        if (lexer_.AtEnd()) return Missing("a value is missing behind '='");
        return ParsePipeline(&statement->pipeline);
      }
      if (error_) return false;
      lexer_.Rewind(begin);
    }
    return ParsePipeline(&statement->pipeline);
  }

  bool ParsePipeline(Pipeline* pipeline) {
    pipeline->position = lexer_.position();
    if (StartsExpression()) {
      pipeline->head = ParseExpression();
      if (pipeline->head == nullptr) return false;
    } else {
      pipeline->commands.emplace_back();
      if (!ParseCommand(&pipeline->commands.back(), true)) return false;
    }
    while (Blanks() && lexer_.Peek() == '|') {
      if (lexer_.Peek(1) == '|') {
        Fail(lexer_.position(), "'||' is not part of this language; use ';' or Where-Object");
        return false;
      }
      lexer_.Next();
      if (!Separators(false)) return false;
      if (lexer_.AtEnd()) return Missing("a command is missing behind '|'");
      pipeline->commands.emplace_back();
      if (!ParseCommand(&pipeline->commands.back(), false)) return false;
    }
    return !error_;
  }

  bool StartsExpression() const {
    const char c = lexer_.Peek();
    if (c == '-')
      return EqualsFold(lexer_.DashWord(), "not") || IsDigit(lexer_.Peek(1)) ||
             lexer_.Peek(1) == '$' || lexer_.Peek(1) == '(';
    return IsDigit(c) || (c == '.' && IsDigit(lexer_.Peek(1))) ||
           std::string_view("$\"'(@{!").find(c) != std::string_view::npos;
  }

  bool ParseCommand(Command* command, bool first) {
    command->position = lexer_.position();
    command->name = lexer_.Word();
    if (command->name.empty()) {
      Fail(command->position,
           lexer_.AtEnd() ? std::string("a command is missing") : Unexpected(lexer_.Peek()));
      return false;
    }
    if (first && IsKeyword(command->name)) {
      Fail(command->position,
           "'" + Printable(command->name) +
               "' is not part of this language, which has no functions and no loops; "
               "use pipelines with Where-Object and ForEach-Object");
      return false;
    }
    for (;;) {
      if (!Blanks()) return false;
      const char c = lexer_.Peek();
      if (lexer_.AtEnd() || std::string_view("|;\n)}").find(c) != std::string_view::npos)
        return true;
      Argument argument;
      argument.position = lexer_.position();
      if (c == '-' && IsLetter(lexer_.Peek(1))) {
        lexer_.Next();
        argument.name = std::string(lexer_.Name());
        if (lexer_.Take(':')) {
          if (!Blanks()) return false;
          argument.value = ParseArgument();
          if (argument.value == nullptr) return false;
        } else if (!lexer_.AtWordEnd()) {
          Fail(lexer_.position(),
               "a parameter's name ends here; its value comes behind a blank or ':'");
          return false;
        }
      } else {
        argument.value = ParseArgument();
        if (argument.value == nullptr) return false;
      }
      command->arguments.push_back(std::move(argument));
    }
  }

  // A value of a command, or several with commas between.
  ExprPtr ParseArgument() {
    const size_t begin = lexer_.position();
    ExprPtr first = ParseArgumentItem();
    if (first == nullptr || !Blanks()) return nullptr;
    if (lexer_.Peek() != ',') return first;
    ExprPtr array = Make(Expr::Kind::kArray, begin);
    if (!Adopt(array.get(), std::move(first))) return nullptr;
    while (lexer_.Take(',')) {
      if (!Separators(false)) return nullptr;
      if (lexer_.AtEnd()) return Incomplete("a value is missing behind ','");
      if (!Adopt(array.get(), ParseArgumentItem()) || !Blanks()) return nullptr;
    }
    return array;
  }

  ExprPtr ParseArgumentItem() {
    const size_t begin = lexer_.position();
    const char c = lexer_.Peek();
    if (lexer_.AtEnd()) return Incomplete("a value is missing");
    if (c == '$' && !StartsVariable()) {
      lexer_.Next();
      return BareWord(begin, "$");
    }
    if (std::string_view("$\"'({").find(c) != std::string_view::npos ||
        (c == '@' && lexer_.Peek(1) == '(')) {
      return ParsePostfix();
    }
    return BareWord(begin, "");
  }
  bool StartsVariable() const { return IsNameChar(lexer_.Peek(1)) || lexer_.Peek(1) == '('; }

  // A word as typed; `web$i` puts the variable in.
  ExprPtr BareWord(size_t begin, std::string word) {
    word += lexer_.Word();
    if (lexer_.Peek() != '$') {
      if (word.empty()) return Fail(begin, Unexpected(lexer_.Peek()));
      ExprPtr expr = Make(Expr::Kind::kBareWord, begin);
      expr->literal = ParseNumber(lexer_.From(begin));
      expr->name = std::move(word);
      return expr;
    }
    ExprPtr text = Make(Expr::Kind::kText, begin);
    for (;;) {
      if (!word.empty()) {
        ExprPtr part = Make(Expr::Kind::kLiteral, begin);
        part->literal = std::exchange(word, {});
        if (!Adopt(text.get(), std::move(part))) return nullptr;
      }
      if (lexer_.AtWordEnd() || lexer_.Peek() == '`') return text;
      if (lexer_.Peek() == '$' && StartsVariable()) {
        if (!Adopt(text.get(), ParseDollar())) return nullptr;
      } else if (lexer_.Peek() == '$') {
        word += lexer_.Next();
      }
      word += lexer_.Word();
    }
  }

  // Expressions, from the loosest operator to the tightest.
  ExprPtr ParseExpression() {
    const Nesting nesting(this);
    if (!nesting.ok) return nullptr;
    ExprPtr left = ParseComparison();
    while (left != nullptr && Blanks()) {
      const Operator op = FindOperator(kLogical, lexer_.DashWord());
      if (op == Operator::kNone) return UnknownDashWord() ? nullptr : std::move(left);
      left =
          Binary(op, std::move(left), 1 + (op == Operator::kAnd ? 3 : 2), &Parser::ParseComparison);
    }
    return nullptr;
  }
  bool UnknownDashWord() {
    const std::string_view word = lexer_.DashWord();
    if (word.empty()) return false;
    Fail(lexer_.position(),
         "-" + Printable(word) +
             " is no operator; there are -eq -ne -gt -ge -lt -le -like -match -in "
             "-contains (and -not... of the last four), -and -or -not");
    return true;
  }
  ExprPtr ParseComparison() {
    ExprPtr left = ParseSum();
    while (left != nullptr && Blanks()) {
      const std::string_view word = lexer_.DashWord();
      const Operator op = FindOperator(kComparisons, word);
      if (op == Operator::kNone) return left;
      left = Binary(op, std::move(left), 1 + word.size(), &Parser::ParseSum);
    }
    return nullptr;
  }
  ExprPtr ParseSum() {
    ExprPtr left = ParseProduct();
    while (left != nullptr && Blanks()) {
      const char c = lexer_.Peek();
      if (!(c == '+' || (c == '-' && lexer_.DashWord().empty()))) return left;
      left = Binary(c == '+' ? Operator::kAdd : Operator::kSubtract, std::move(left), 1,
                    &Parser::ParseProduct);
    }
    return nullptr;
  }
  ExprPtr ParseProduct() {
    ExprPtr left = ParseUnary();
    while (left != nullptr && Blanks()) {
      const char c = lexer_.Peek();
      if (c != '*' && c != '/' && c != '%') return left;
      const Operator op = c == '*'   ? Operator::kMultiply
                          : c == '/' ? Operator::kDivide
                                     : Operator::kModulo;
      left = Binary(op, std::move(left), 1, &Parser::ParseUnary);
    }
    return nullptr;
  }
  ExprPtr Binary(Operator op, ExprPtr left, size_t length, ExprPtr (Parser::*operand)()) {
    ExprPtr binary = Make(Expr::Kind::kBinary, lexer_.position());
    binary->op = op;
    lexer_.Rewind(lexer_.position() + length);
    if (!Adopt(binary.get(), std::move(left)) || !Separators(false)) return nullptr;
    if (lexer_.AtEnd()) return Incomplete("a value is missing behind the operator");
    if (!Adopt(binary.get(), (this->*operand)())) return nullptr;
    return binary;
  }
  ExprPtr ParseUnary() {
    const size_t begin = lexer_.position();
    const bool negate = lexer_.Peek() == '-' && lexer_.DashWord().empty();
    const bool word = EqualsFold(lexer_.DashWord(), "not");
    if (!negate && !word && lexer_.Peek() != '!') return ParseCommaList();
    const Nesting nesting(this);
    if (!nesting.ok) return nullptr;
    lexer_.Rewind(begin + (word ? 4 : 1));
    ExprPtr unary = Make(Expr::Kind::kUnary, begin);
    unary->op = negate ? Operator::kNegate : Operator::kNot;
    if (!Blanks()) return nullptr;
    if (!Adopt(unary.get(), ParseUnary())) return nullptr;
    return unary;
  }
  // `1,2,3`: binds tighter than arithmetic.
  ExprPtr ParseCommaList() {
    const size_t begin = lexer_.position();
    ExprPtr first = ParsePostfix();
    if (first == nullptr || !Blanks()) return nullptr;
    if (lexer_.Peek() != ',') return first;
    ExprPtr array = Make(Expr::Kind::kArray, begin);
    if (!Adopt(array.get(), std::move(first))) return nullptr;
    while (lexer_.Take(',')) {
      if (!Separators(false)) return nullptr;
      if (!Adopt(array.get(), ParsePostfix()) || !Blanks()) return nullptr;
    }
    return array;
  }

  // `.Name` and `[0]` behind a value.
  ExprPtr ParsePostfix() {
    ExprPtr value = ParsePrimary();
    while (value != nullptr) {
      const size_t begin = lexer_.position();
      if (lexer_.Peek() == '.' && IsNameChar(lexer_.Peek(1))) {
        lexer_.Next();
        ExprPtr member = Make(Expr::Kind::kMember, begin);
        member->name = std::string(lexer_.Name());
        if (lexer_.Peek() == '(')
          return Fail(begin, "methods are not part of this language; properties are: $vm.State");
        if (!Adopt(member.get(), std::move(value))) return nullptr;
        value = std::move(member);
      } else if (lexer_.Peek() == '[') {
        lexer_.Next();
        ExprPtr index = Make(Expr::Kind::kIndex, begin);
        if (!Adopt(index.get(), std::move(value)) || !Blanks()) return nullptr;
        if (!Adopt(index.get(), ParseExpression()) || !Blanks()) return nullptr;
        if (lexer_.AtEnd()) return Incomplete("the closing ']' is missing");
        if (!lexer_.Take(']')) return Fail(lexer_.position(), "']' was expected here");
        value = std::move(index);
      } else {
        return value;
      }
    }
    return nullptr;
  }

  ExprPtr ParsePrimary() {
    const size_t begin = lexer_.position();
    if (lexer_.AtEnd()) return Incomplete("a value is missing");
    const char c = lexer_.Peek();
    if (c == '$') return ParseDollar();
    if (c == '"') return ParseDoubleQuoted();
    if (c == '\'') {
      lexer_.Next();
      auto text = lexer_.SingleQuoted();
      if (!text) return Incomplete("the closing ' of quoted text is missing");
      return Literal(begin, std::move(*text));
    }
    if (c == '(') return ParseBlock(Expr::Kind::kGroup, 1, ')', "a group in parentheses");
    if (c == '@' && lexer_.Peek(1) == '(')
      return ParseBlock(Expr::Kind::kArrayOf, 2, ')', "the array");
    if (c == '{') return ParseBlock(Expr::Kind::kBlock, 1, '}', "the script block");
    if (c == '@') return Fail(begin, "of '@' only the array @( ... ) is part of this language");
    Value number = lexer_.Number();
    if (!number.is_null()) return Literal(begin, std::move(number));
    if (IsLetter(c)) {
      return Fail(begin,
                  "a word needs quotes in an expression: '" + Printable(lexer_.Name()) + "'");
    }
    return Fail(begin, Unexpected(c));
  }
  ExprPtr Literal(size_t begin, Value value) {
    ExprPtr literal = Make(Expr::Kind::kLiteral, begin);
    literal->literal = std::move(value);
    return literal;
  }
  ExprPtr ParseBlock(Expr::Kind kind, size_t opening, char close, std::string_view what) {
    ExprPtr expr = Make(kind, lexer_.position());
    lexer_.Rewind(lexer_.position() + opening);
    expr->block = Statements(close, what);
    if (expr->block == nullptr) return nullptr;
    expr->depth = expr->block->depth + 1;
    return expr;
  }
  // `$name` or `$( ... )`.
  ExprPtr ParseDollar() {
    const size_t begin = lexer_.position();
    if (lexer_.Peek(1) == '(') return ParseBlock(Expr::Kind::kGroup, 2, ')', "the subexpression");
    lexer_.Next();
    const std::string_view name = lexer_.Name();
    if (name.empty()) return Fail(begin, "a variable's name is missing behind '$'");
    if (lexer_.Peek() == ':' && IsNameChar(lexer_.Peek(1))) {
      return Fail(begin,
                  "variables have no scopes here; write $" + std::string(lexer_.From(begin + 1)));
    }
    if (EqualsFold(name, "true")) return Literal(begin, true);
    if (EqualsFold(name, "false")) return Literal(begin, false);
    if (EqualsFold(name, "null")) return Literal(begin, {});
    ExprPtr variable = Make(Expr::Kind::kVariable, begin);
    variable->name = std::string(name);
    return variable;
  }
  ExprPtr ParseDoubleQuoted() {
    ExprPtr text = Make(Expr::Kind::kText, lexer_.position());
    lexer_.Next();
    std::string plain;
    const auto flush = [&] {
      return plain.empty() || Adopt(text.get(), Literal(text->position, std::exchange(plain, {})));
    };
    while (!lexer_.AtEnd()) {
      if (lexer_.Peek() == '$' && StartsVariable()) {
        if (!flush() || !Adopt(text.get(), ParseDollar())) return nullptr;
        continue;
      }
      char c = lexer_.Next();
      if (c == '"' && !lexer_.Take('"')) return flush() ? std::move(text) : nullptr;
      if (c == '`') {
        if (lexer_.AtEnd()) break;
        c = Lexer::Escaped(lexer_.Next());
      }
      plain += c;
    }
    return Incomplete("the closing \" of quoted text is missing");
  }

  Lexer lexer_;
  std::string_view text_;
  int nesting_ = 0;
  std::optional<SyntaxError> error_;
};

}  // namespace

ParseResult Parse(std::string_view text) {
  ParseResult result;
  if (text.size() > kMaxSource) {
    result.error = SyntaxError{kMaxSource, "the text is longer than 1 MiB", false};
    return result;
  }
  Parser parser(text);
  result.block = parser.Statements('\0', "");
  result.error = parser.error();
  if (result.error) result.block = nullptr;
  // A line that ends in a backtick goes on.
  if (!text.empty() && text.back() == '`' && result.block != nullptr) {
    result.block = nullptr;
    result.error = SyntaxError{text.size(), "the line goes on behind the backtick", true};
  }
  return result;
}

std::string LineAndColumn(std::string_view text, size_t position) {
  position = std::min(position, text.size());
  size_t line = 1;
  size_t start = 0;
  for (size_t i = 0; i < position; ++i) {
    if (text[i] == '\n') ++line, start = i + 1;
  }
  return "line " + std::to_string(line) + ", column " + std::to_string(position - start + 1);
}

}  // namespace partita::shell
