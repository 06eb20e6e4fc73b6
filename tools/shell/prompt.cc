#include "tools/shell/prompt.h"

#include <histedit.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <filesystem>
#include <memory>
#include <optional>

#include "tools/shell/parser.h"
#include "tools/shell/service.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr int kHistory = 1000;
constexpr size_t kMaxOffered = 200;

// libedit keeps its lines in wide characters and asks the thread's locale what they are. UTF-8 it
// is, whatever the user's locale calls itself.
class Utf8Thread {
 public:
  Utf8Thread() : utf8_(newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (utf8_ != nullptr) before_ = uselocale(utf8_);
  }
  ~Utf8Thread() {
    if (utf8_ == nullptr) return;
    uselocale(before_);
    freelocale(utf8_);
  }
  Utf8Thread(const Utf8Thread&) = delete;
  Utf8Thread& operator=(const Utf8Thread&) = delete;

 private:
  locale_t utf8_;
  locale_t before_ = nullptr;
};

std::string HistoryFile() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  std::string folder = state != nullptr && *state == '/' ? state : "";
  if (folder.empty() && home != nullptr && *home == '/')
    folder = std::string(home) + "/.local/state";
  if (folder.empty()) return {};
  std::error_code error;
  std::filesystem::create_directories(folder + "/partita", error);
  return error ? "" : folder + "/partita/history";
}

std::string Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") + 1 - begin));
}

size_t Characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

class Prompt {
 public:
  Prompt(Session* session, TerminalConsole* console, CancelToken* cancel)
      : session_(session), console_(console), cancel_(cancel), names_(session) {}
  ~Prompt() {
    if (history_ != nullptr) history_end(history_);
    if (edit_ != nullptr) el_end(edit_);
  }
  Prompt(const Prompt&) = delete;
  Prompt& operator=(const Prompt&) = delete;

  bool Start();
  void Run();

 private:
  static Prompt* Of(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<Prompt*>(self);
  }
  static char* PromptText(EditLine* edit) {
    static std::array<char, 10> first = {"partita> "};
    static std::array<char, 4> more = {">> "};
    return Of(edit)->text_.empty() ? first.data() : more.data();
  }
  static int ReadCharacter(EditLine* edit, wchar_t* out);
  static unsigned char Tab(EditLine* edit, int /*key*/) { return Of(edit)->OnTab(); }
  unsigned char OnTab();
  void Offer(const std::vector<std::string>& candidates);
  std::optional<std::string> ReadLine();
  void Remember(const std::string& text);

  Session* session_;
  TerminalConsole* console_;
  CancelToken* cancel_;
  LiveNames names_;
  EditLine* edit_ = nullptr;
  History* history_ = nullptr;
  std::string history_file_;
  std::string text_;  // lines of a statement that is not whole yet
};

bool Prompt::Start() {
  edit_ = el_init("partita", stdin, stdout, stderr);
  if (edit_ == nullptr) return false;
  history_ = history_init();
  HistEvent event{};
  history(history_, &event, H_SETSIZE, kHistory);
  history(history_, &event, H_SETUNIQUE, 1);
  history_file_ = HistoryFile();
  if (!history_file_.empty()) history(history_, &event, H_LOAD, history_file_.c_str());
  el_set(edit_, EL_CLIENTDATA, this);
  el_set(edit_, EL_PROMPT, &PromptText);
  el_set(edit_, EL_EDITOR, "emacs");
  el_set(edit_, EL_SIGNAL, 0);
  el_set(edit_, EL_HIST, history, history_);
  el_set(edit_, EL_GETCFN, &ReadCharacter);
  el_set(edit_, EL_ADDFN, "partita-complete", "Completes what is typed", &Tab);
  el_set(edit_, EL_BIND, "^I", "partita-complete", nullptr);
  el_set(edit_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  return true;
}

// One character of UTF-8; what is none is taken byte by byte. -1 with EINTR on Ctrl-C, so that the
// line ends there and then.
int Prompt::ReadCharacter(EditLine* edit, wchar_t* out) {
  const Prompt* self = Of(edit);
  std::string bytes;
  for (;;) {
    std::array<pollfd, 2> wanted = {{{STDIN_FILENO, POLLIN, 0}, {self->cancel_->fd(), POLLIN, 0}}};
    if (poll(wanted.data(), wanted.size(), -1) < 0 && errno != EINTR) return -1;
    if (self->cancel_->cancelled()) {
      errno = EINTR;
      return -1;
    }
    if (wanted[0].revents == 0) continue;
    char c = 0;
    const ssize_t got = read(STDIN_FILENO, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return static_cast<int>(got);
    bytes += c;
    std::mbstate_t state{};
    const size_t used = std::mbrtowc(out, bytes.data(), bytes.size(), &state);
    if (used == static_cast<size_t>(-2) && bytes.size() < 4) continue;
    if (used == static_cast<size_t>(-1) || used == static_cast<size_t>(-2)) *out = L'?';
    return 1;
  }
}

unsigned char Prompt::OnTab() {
  const LineInfo* line = el_line(edit_);
  const std::string before(line->buffer, static_cast<size_t>(line->cursor - line->buffer));
  // What was typed on the lines before belongs to it.
  const std::string all = text_ + before;
  const Completion found = Complete(all, session_->table(), &names_);
  if (found.candidates.empty() || found.begin < text_.size()) return CC_REFRESH_BEEP;
  const std::string word = all.substr(found.begin);
  std::string better = CommonPrefix(found.candidates);
  const bool one = found.candidates.size() == 1;
  if (one && better.back() != '/' && better.back() != '-') better += ' ';
  if (one || better.size() > word.size()) {
    el_deletestr(edit_, static_cast<int>(Characters(word)));
    el_insertstr(edit_, better.c_str());
    return CC_REFRESH;
  }
  Offer(found.candidates);
  return CC_REDISPLAY;
}

// Below the line, in columns; the prompt is drawn anew behind them.
void Prompt::Offer(const std::vector<std::string>& candidates) {
  size_t widest = 1;
  const size_t shown = std::min(candidates.size(), kMaxOffered);
  for (size_t i = 0; i < shown; ++i)
    widest = std::max(widest, DisplayWidth(Printable(candidates[i])));
  const size_t columns = std::max<size_t>(1, TerminalConsole::Width() / (widest + 2));
  const size_t rows = (shown + columns - 1) / columns;
  std::string text = "\n";
  for (size_t row = 0; row < rows; ++row) {
    std::string line;
    for (size_t i = row; i < shown; i += rows)
      line += PadRight(Printable(candidates[i]), widest + 2);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  if (shown < candidates.size())
    text += "... and " + std::to_string(candidates.size() - shown) + " more\n";
  console_->Out(text);
}

// Nothing at the end of the input. A line that Ctrl-C ended is empty.
std::optional<std::string> Prompt::ReadLine() {
  el_resize(edit_);
  int count = 0;
  const char* line = el_gets(edit_, &count);
  if (cancel_->cancelled()) {
    cancel_->Reset();
    text_.clear();
    console_->Out("^C\n");
    return "";
  }
  if (line == nullptr || count <= 0) return std::nullopt;
  return std::string(line, static_cast<size_t>(count));
}

void Prompt::Remember(const std::string& text) {
  HistEvent event{};
  history(history_, &event, H_ENTER, text.c_str());
  if (history_file_.empty()) return;
  const mode_t before = umask(077);
  history(history_, &event, H_SAVE, history_file_.c_str());
  umask(before);
}

void Prompt::Run() {
  while (const std::optional<std::string> line = ReadLine()) {
    text_ += *line;
    const std::string trimmed = Trimmed(text_);
    if (trimmed.empty()) {
      text_.clear();
      continue;
    }
    if (EqualsFold(trimmed, "exit") || EqualsFold(trimmed, "quit")) return;
    const ParseResult parsed = Parse(text_);
    // An empty line gives up on what is not whole.
    if (parsed.error && parsed.error->incomplete && !Trimmed(*line).empty()) continue;
    const std::string statement = std::exchange(text_, {});
    Remember(trimmed + "\n");
    session_->SetWidth(TerminalConsole::Width());
    session_->Run(statement);
    // The terminal has shown its ^C by itself.
    if (cancel_->cancelled()) console_->Err("\n");
    cancel_->Reset();
  }
  console_->Out("\n");
}

}  // namespace

std::vector<std::string> LiveNames::Names(std::string_view kind) {
  std::vector<std::string> names;
  Service* service = session_->service();
  if (service == nullptr || kind != "VM") return names;
  Result<Json> answer = service->Call("GET", "/v1/vms");
  if (!answer.ok() || !answer->is_object() || !answer->contains("vms")) return names;
  for (const Json& one : (*answer)["vms"]) {
    if (one.is_object() && one.contains("name") && one["name"].is_string())
      names.push_back(one["name"].get<std::string>());
  }
  return names;
}

std::vector<std::string> LiveNames::Variables() {
  std::vector<std::string> names;
  for (const auto& [key, variable] : session_->variables()) names.push_back(variable.first);
  return names;
}

std::vector<std::string> LiveNames::Paths(std::string_view prefix) {
  const size_t slash = prefix.rfind('/');
  const std::string front(slash == std::string_view::npos ? "" : prefix.substr(0, slash + 1));
  std::vector<std::string> paths;
  std::error_code error;
  std::filesystem::directory_iterator entries(front.empty() ? "." : front, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    std::string path = front + entries->path().filename().string();
    // Hidden ones when they are asked for.
    if (entries->path().filename().string()[0] == '.' &&
        (prefix.size() <= front.size() || prefix[front.size()] != '.'))
      continue;
    std::error_code ignored;
    if (entries->is_directory(ignored)) path += '/';
    if (StartsWithFold(path, prefix)) paths.push_back(std::move(path));
  }
  return paths;
}

bool RunPrompt(Session* session, TerminalConsole* console, CancelToken* cancel) {
  const Utf8Thread utf8;
  Prompt prompt(session, console, cancel);
  if (!prompt.Start()) return false;
  prompt.Run();
  return true;
}

}  // namespace partita::shell
