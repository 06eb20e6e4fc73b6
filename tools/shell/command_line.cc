#include "tools/shell/command_line.h"

#include <algorithm>
#include <utility>

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr std::string_view kOptions = "--json --jsonl --csv --json-errors -c";

bool IsOption(std::string_view word) {
  return word == "-c" || word == "--json" || word == "--jsonl" || word == "--csv" ||
         word == "--json-errors";
}

bool IsLine(const std::string& word) { return word.find_first_of(" \t\n|;") != std::string::npos; }

// Verb-Noun, known or not.
bool LooksLikeCmdlet(const std::string& word) {
  const size_t dash = word.find('-');
  return dash != std::string::npos && dash > 0 && dash + 1 < word.size() &&
         std::all_of(word.begin(), word.end(), [](char c) { return IsLetter(c) || c == '-'; });
}

bool IsPlain(std::string_view word) {
  return !word.empty() && std::none_of(word.begin(), word.end(), [](char c) {
    return static_cast<unsigned char>(c) <= ' ' ||
           std::string_view("'\"`;|&(){}$<>#").find(c) != std::string_view::npos;
  });
}

std::string Quoted(std::string_view word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("''") : std::string(1, c);
  return out + "'";
}

// The length of `-Name:` in front of a value; 0 for none.
size_t NamePart(std::string_view word) {
  if (word.size() < 2 || word[0] != '-' || !IsLetter(word[1])) return 0;
  size_t at = 1;
  while (at < word.size() && IsNameChar(word[at])) ++at;
  return at < word.size() && word[at] == ':' ? at + 1 : 0;
}

std::string WordOf(std::string_view word) {
  if (word == "|" || word == ";" || word == "?" || word == "%" || IsPlain(word)) {
    return std::string(word);
  }
  if (const size_t name = NamePart(word); name != 0 && name < word.size())
    return std::string(word.substr(0, name)) + WordOf(word.substr(name));
  const bool block = word.size() > 1 && word.front() == '{' && word.back() == '}';
  const bool expression = word.size() > 1 && word.front() == '(' && word.back() == ')';
  const bool variable = word.size() > 1 && word.front() == '$' && IsPlain(word.substr(1));
  return block || expression || variable ? std::string(word) : Quoted(word);
}

ErrorRecord Usage(std::string message) {
  ErrorRecord error;
  error.id = "Usage";
  error.category = ErrorCategory::kInvalidArgument;
  error.message = std::move(message);
  error.next_step = "see `partita --help`";
  return error;
}

}  // namespace

std::string LineOf(const std::vector<std::string>& arguments) {
  std::vector<std::string> words;
  words.reserve(arguments.size());
  for (const std::string& word : arguments) words.push_back(WordOf(word));
  return Join(words, " ");
}

bool IsForShell(const std::vector<std::string>& arguments, const CmdletTable& table,
                const IsFile& is_file) {
  if (arguments.empty()) return true;
  const std::string& first = arguments.front();
  return IsOption(first) || table.Find(first) != nullptr || LooksLikeCmdlet(first) ||
         IsLine(first) || is_file(first);
}

Result<Invocation> ParseCommandLine(const std::vector<std::string>& arguments,
                                    const CmdletTable& table, const IsFile& is_file) {
  Invocation out;
  std::vector<std::string> rest;
  bool text = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--") {
      rest.insert(rest.end(), arguments.begin() + static_cast<ptrdiff_t>(i) + 1, arguments.end());
      break;
    }
    if (word == "--json") {
      out.format = OutputFormat::kJson;
    } else if (word == "--jsonl") {
      out.format = OutputFormat::kJsonLines;
    } else if (word == "--csv") {
      out.format = OutputFormat::kCsv;
    } else if (word == "--json-errors") {
      out.json_errors = true;
    } else if (word == "-c" && rest.empty()) {
      if (++i >= arguments.size()) return Usage("-c needs the text to run");
      out.text = arguments[i];
      text = true;
    } else if (StartsWithFold(word, "--")) {
      return Usage("there is no option " + word + "; the shell has " + std::string(kOptions));
    } else {
      rest.push_back(word);
    }
  }
  if (text) {
    out.kind = Invocation::Kind::kText;
    out.arguments = std::move(rest);
  } else if (rest.empty() || (rest.size() == 1 && rest.front() == "-")) {
    out.kind = Invocation::Kind::kStandardInput;
  } else if (table.Find(rest.front()) == nullptr && !LooksLikeCmdlet(rest.front()) &&
             is_file(rest.front())) {
    out.kind = Invocation::Kind::kFile;
    out.text = rest.front();
    out.arguments.assign(rest.begin() + 1, rest.end());
  } else {
    out.kind = Invocation::Kind::kText;
    out.text = rest.size() == 1 ? rest.front() : LineOf(rest);
  }
  return out;
}

}  // namespace partita::shell
