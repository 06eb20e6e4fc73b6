// The lexical rules of the language: what is skipped, and where words, names, numbers and quoted
// text end. What a character means depends on where it stands (`-eq` is an operator in an
// expression and a parameter in a command), so the parser asks for what it expects. Owns nothing;
// the text must stay. Text is whatever a user, a script or a pipe sends.
#ifndef PARTITA_TOOLS_SHELL_LEXER_H_
#define PARTITA_TOOLS_SHELL_LEXER_H_

#include <optional>
#include <string>
#include <string_view>

#include "tools/shell/value.h"

namespace partita::shell {

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  size_t position() const { return at_; }
  void Rewind(size_t position) { at_ = position; }
  bool AtEnd() const { return at_ >= text_.size(); }
  // The character `ahead` of here; NUL behind the end.
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  char Next() { return AtEnd() ? '\0' : text_[at_++]; }
  bool Take(char c);
  std::string_view From(size_t begin) const { return text_.substr(begin, at_ - begin); }

  // Blanks, `# comments`, `<# comments #>` and continued lines (a backtick before the newline).
  // False when a comment has no end.
  [[nodiscard]] bool SkipBlanks();
  // Newlines and semicolons too.
  [[nodiscard]] bool SkipSeparators(bool semicolons);

  // Letters, digits and `_`; empty when there is none here.
  std::string_view Name();
  // A word of a command line: up to a blank, newline or one of `|;&(){},"'` and `<>`. A backtick
  // takes the next character as it is. Stops before `$` so that the parser can put in the variable.
  std::string Word();
  bool AtWordEnd() const;
  // A number in an expression, `1.5` or `512MB`; null value when there is none here.
  Value Number();
  // `-eq` and its like, without the dash and in lower case; nothing is taken when it is none.
  std::string_view DashWord() const;
  // Behind the opening `'`; nothing when the closing one is missing.
  std::optional<std::string> SingleQuoted();
  // The character a backtick stands before in double quotes.
  static char Escaped(char c);

 private:
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_LEXER_H_
