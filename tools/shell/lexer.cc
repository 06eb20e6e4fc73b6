#include "tools/shell/lexer.h"

#include "tools/shell/text.h"

namespace partita::shell {

bool Lexer::Take(char c) {
  if (AtEnd() || Peek() != c) return false;
  ++at_;
  return true;
}

bool Lexer::SkipBlanks() {
  while (!AtEnd()) {
    const char c = Peek();
    if (IsBlank(c)) {
      ++at_;
    } else if (c == '`' && Peek(1) == '\n') {
      at_ += 2;
    } else if (c == '`' && Peek(1) == '\r' && Peek(2) == '\n') {
      at_ += 3;
    } else if (c == '#') {
      while (!AtEnd() && Peek() != '\n') ++at_;
    } else if (c == '<' && Peek(1) == '#') {
      const size_t end = text_.find("#>", at_ + 2);
      at_ = end == std::string_view::npos ? text_.size() : end + 2;
      if (end == std::string_view::npos) return false;
    } else {
      break;
    }
  }
  return true;
}

bool Lexer::SkipSeparators(bool semicolons) {
  do {
    if (!SkipBlanks()) return false;
  } while (Take('\n') || (semicolons && Take(';')));
  return true;
}

std::string_view Lexer::Name() {
  const size_t begin = at_;
  while (!AtEnd() && IsNameChar(Peek())) ++at_;
  return From(begin);
}

bool Lexer::AtWordEnd() const {
  if (AtEnd()) return true;
  const char c = Peek();
  return IsBlank(c) || c == '\n' ||
         std::string_view("|;&(){},\"'<>").find(c) != std::string_view::npos;
}

std::string Lexer::Word() {
  std::string word;
  while (!AtWordEnd() && Peek() != '$') {
    if (Peek() == '`' && (Peek(1) == '\n' || Peek(1) == '\r')) break;  // a continued line
    if (Peek() == '`' && at_ + 1 < text_.size()) ++at_;
    word += Next();
  }
  return word;
}

Value Lexer::Number() {
  const size_t begin = at_;
  if (Peek() == '.' ? !IsDigit(Peek(1)) : !IsDigit(Peek())) return {};
  // Letters belong to it (0x1F, 2e3, 512MB), and so does a sign behind an exponent.
  while (!AtEnd()) {
    const char c = Peek();
    const bool exponent_sign = (c == '+' || c == '-') && LowerChar(text_[at_ - 1]) == 'e' &&
                               IsDigit(Peek(1)) && !StartsWithFold(From(begin), "0x");
    const bool fraction = c == '.' && IsDigit(Peek(1));
    if (!(IsNameChar(c) || exponent_sign || fraction || (c == '.' && at_ == begin))) break;
    ++at_;
  }
  Value value = ParseNumber(From(begin));
  if (value.is_null()) at_ = begin;
  return value;
}

std::string_view Lexer::DashWord() const {
  if (Peek() != '-' || !IsLetter(Peek(1))) return {};
  size_t end = at_ + 1;
  while (end < text_.size() && IsNameChar(text_[end])) ++end;
  return text_.substr(at_ + 1, end - at_ - 1);
}

std::optional<std::string> Lexer::SingleQuoted() {
  std::string out;
  while (!AtEnd()) {
    const char c = Next();
    if (c == '\'' && !Take('\'')) return out;
    out += c;
  }
  return std::nullopt;
}

char Lexer::Escaped(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case '0':
      return '\0';
    case 'e':
      return '\x1B';
    default:
      return c;
  }
}

}  // namespace partita::shell
