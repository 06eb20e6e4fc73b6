#include "tools/shell/completion.h"

#include <algorithm>
#include <optional>

#include "tools/shell/binder.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

struct Word {
  size_t begin = 0;
  std::string text;     // without quotes
  bool quoted = false;  // an open or closed quote began it
};

// The words of the command that the cursor is in; the last one is the cursor's, perhaps empty.
std::vector<Word> CommandWords(std::string_view text) {
  std::vector<Word> words(1);
  char quote = '\0';
  bool in_word = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote != '\0') {
      if (c == quote) {
        quote = '\0';
      } else {
        words.back().text += c;
      }
      continue;
    }
    if (IsBlank(c) || c == '\n' || std::string_view("|;{}()=").find(c) != std::string_view::npos) {
      if (!IsBlank(c)) words.clear();
      if (words.empty() || in_word) words.emplace_back();
      in_word = false;
      words.back().begin = i + 1;
      continue;
    }
    if (!in_word) words.back().begin = i;
    in_word = true;
    if (c == '\'' || c == '"') {
      quote = c;
      words.back().quoted = words.back().quoted || words.back().text.empty();
    } else {
      words.back().text += c;
    }
  }
  return words;
}

bool NeedsQuotes(std::string_view word) {
  return std::any_of(word.begin(), word.end(), [](char c) {
    return IsBlank(c) || std::string_view("'\"`;|&(){}$,<>#").find(c) != std::string_view::npos;
  });
}

std::string Quoted(std::string_view word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("''") : std::string(1, c);
  return out + "'";
}

void KeepSorted(std::vector<std::string>* candidates) {
  std::sort(candidates->begin(), candidates->end(), [](const std::string& a, const std::string& b) {
    const int order = CompareFold(a, b);
    return order != 0 ? order < 0 : a < b;
  });
  candidates->erase(std::unique(candidates->begin(), candidates->end()), candidates->end());
}

class Completer {
 public:
  Completer(const CmdletTable& table, NameSource* source) : table_(table), source_(source) {}

  Completion Run(std::string_view text) {
    const std::vector<Word> words = CommandWords(text);
    const Word& word = words.back();
    out_.begin = word.begin;
    if (!word.quoted && StartsWithFold(word.text, "$")) {
      Variables(word.text);
    } else if (words.size() == 1) {
      Commands(word.text);
    } else if (const CmdletInfo* info = table_.Find(words.front().text); info != nullptr) {
      Arguments(*info, words);
    }
    KeepSorted(&out_.candidates);
    return std::move(out_);
  }

 private:
  void Offer(const std::string& candidate, std::string_view typed) {
    if (StartsWithFold(candidate, typed)) out_.candidates.push_back(candidate);
  }

  void Variables(std::string_view typed) {
    for (const char* constant : {"$true", "$false", "$null"}) Offer(constant, typed);
    for (const std::string& name : source_->Variables()) Offer("$" + name, typed);
  }

  void Commands(const std::string& typed) {
    // Before the dash the verbs are enough: there are few of them.
    const bool verbs = typed.find('-') == std::string::npos;
    for (const CmdletInfo& info : table_.cmdlets())
      Offer(verbs ? info.verb + "-" : info.Name(), typed);
    if (!out_.candidates.empty() || typed.find('/') == std::string::npos) return;
    for (const std::string& path : source_->Paths(typed)) Offer(path, typed);
  }

  void Arguments(const CmdletInfo& info, const std::vector<Word>& words) {
    const Word& word = words.back();
    const Word& previous = words[words.size() - 2];
    if (!word.quoted && StartsWithFold(word.text, "-")) {
      const size_t colon = word.text.find(':');
      if (colon == std::string::npos) return Parameters(info, words);
      if (const auto p = Named(info, word.text.substr(1, colon - 1)))
        Values(*p, word.text.substr(colon + 1), word.text.substr(0, colon + 1));
      return;
    }
    if (words.size() > 2 && !previous.quoted && StartsWithFold(previous.text, "-")) {
      const auto p = Named(info, previous.text.substr(1));
      if (p && p->type != ParameterType::kSwitch) return Values(*p, word.text, "");
    }
    if (const auto p = AtPosition(info, words)) Values(*p, word.text, "");
  }

  static std::optional<Parameter> Named(const CmdletInfo& info, std::string_view name) {
    Result<Parameter> found = FindParameter(info, name);
    return found.ok() ? std::optional(*found) : std::nullopt;
  }

  void Parameters(const CmdletInfo& info, const std::vector<Word>& words) {
    for (const Parameter& p : AllParameters(info)) {
      const auto given = [&](const Word& w) {
        return &w != &words.back() && !w.quoted && EqualsFold(w.text, "-" + p.name);
      };
      if (std::none_of(words.begin(), words.end(), given)) Offer("-" + p.name, words.back().text);
    }
  }

  // The parameter that the cursor's word is by its position.
  static std::optional<Parameter> AtPosition(const CmdletInfo& info,
                                             const std::vector<Word>& words) {
    int position = 0;
    std::vector<std::string> named;
    for (size_t i = 1; i + 1 < words.size(); ++i) {
      if (words[i].quoted || !StartsWithFold(words[i].text, "-")) {
        ++position;
        continue;
      }
      const auto p = Named(info, words[i].text.substr(1, words[i].text.find(':') - 1));
      if (!p) continue;
      named.push_back(p->name);
      if (p->type != ParameterType::kSwitch && words[i].text.find(':') == std::string::npos) ++i;
    }
    // As the binder counts: the lowest positions that are free.
    std::vector<Parameter> free;
    for (const Parameter& p : info.parameters) {
      if (p.position >= 0 && p.type != ParameterType::kObject &&
          std::find(named.begin(), named.end(), p.name) == named.end())
        free.push_back(p);
    }
    std::stable_sort(free.begin(), free.end(), [](const Parameter& a, const Parameter& b) {
      return a.position < b.position;
    });
    return position < static_cast<int>(free.size()) ? std::optional(free[position]) : std::nullopt;
  }

  // `front` stands before the value in the same word and stays.
  void Values(const Parameter& p, const std::string& typed, const std::string& front) {
    // Of a list the last element is the cursor's.
    const size_t comma = p.array ? typed.rfind(',') : std::string::npos;
    const std::string before = comma == std::string::npos ? "" : typed.substr(0, comma + 1);
    const std::string last = typed.substr(before.size());
    std::vector<std::string> values = p.values;
    if (p.type == ParameterType::kBool) {
      out_.candidates = {front + "$true", front + "$false"};
      return;
    }
    if (p.completer == "Command") {
      for (const CmdletInfo& info : table_.cmdlets()) values.push_back(info.Name());
    } else if (p.completer == "Variable") {
      values = source_->Variables();
    } else if (!p.completer.empty()) {
      values = source_->Names(p.completer);
    } else if (p.type == ParameterType::kPath) {
      values = source_->Paths(last);
    }
    for (const std::string& value : values) {
      if (!StartsWithFold(value, last)) continue;
      std::string whole = front + before;
      whole += NeedsQuotes(value) ? Quoted(value) : value;
      out_.candidates.push_back(std::move(whole));
    }
  }

  const CmdletTable& table_;
  NameSource* source_;
  Completion out_;
};

}  // namespace

Completion Complete(std::string_view before_cursor, const CmdletTable& table, NameSource* source) {
  return Completer(table, source).Run(before_cursor);
}

std::string CommonPrefix(const std::vector<std::string>& candidates) {
  if (candidates.empty()) return {};
  std::string prefix = candidates.front();
  for (const std::string& candidate : candidates) {
    size_t same = 0;
    while (same < prefix.size() && same < candidate.size() &&
           LowerChar(prefix[same]) == LowerChar(candidate[same]))
      ++same;
    prefix.resize(same);
  }
  return prefix;
}

}  // namespace partita::shell
