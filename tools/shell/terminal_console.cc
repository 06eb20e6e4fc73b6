#include "tools/shell/terminal_console.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <optional>

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr size_t kBuffer = size_t{64} << 10;

// What nobody reads any more is dropped.
void WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written > 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd wanted{fd, POLLOUT, 0};
      poll(&wanted, 1, -1);
    } else if (errno != EINTR) {
      return;
    }
  }
}

// A line from the terminal; nothing at its end and on Ctrl-C.
std::optional<std::string> ReadLine(const CancelToken& cancel) {
  std::string line;
  while (!cancel.cancelled()) {
    std::array<pollfd, 2> wanted = {{{STDIN_FILENO, POLLIN, 0}, {cancel.fd(), POLLIN, 0}}};
    if (poll(wanted.data(), wanted.size(), -1) < 0 && errno != EINTR) return std::nullopt;
    if (wanted[0].revents == 0) continue;
    char c = 0;
    if (read(STDIN_FILENO, &c, 1) != 1) return std::nullopt;
    if (c == '\n') return line;
    line += c;
  }
  return std::nullopt;
}

}  // namespace

TerminalConsole::TerminalConsole(const CancelToken* cancel)
    : cancel_(cancel),
      in_(isatty(STDIN_FILENO) == 1),
      out_(isatty(STDOUT_FILENO) == 1),
      err_(isatty(STDERR_FILENO) == 1) {}

TerminalConsole::~TerminalConsole() {
  Progress("");
  Flush();
}

void TerminalConsole::Flush() {
  WriteAll(STDOUT_FILENO, waiting_);
  waiting_.clear();
}

void TerminalConsole::Out(std::string_view text) {
  Progress("");
  waiting_ += text;
  if (out_ || waiting_.size() > kBuffer) Flush();
}

void TerminalConsole::Err(std::string_view text) {
  Progress("");
  Flush();  // errors stand behind what came before them
  WriteAll(STDERR_FILENO, text);
}

void TerminalConsole::Progress(std::string_view text) {
  if (!err_ || (text.empty() && !progress_)) return;
  Flush();
  std::string line = "\r\x1B[K";
  line += Shorten(Printable(text), Width() - 1);
  WriteAll(STDERR_FILENO, line);
  progress_ = !text.empty();
}

Answer TerminalConsole::Ask(std::string_view question) {
  if (!in_ || !err_) return Answer::kNobody;
  for (;;) {
    std::string text(question);
    text += "\n[Y] Yes  [A] Yes to All  [N] No  [L] No to All  [?] Help (default is \"Y\"): ";
    Err(text);
    const std::optional<std::string> line = ReadLine(*cancel_);
    if (!line) {
      Err("\n");
      return Answer::kNoToAll;
    }
    const std::string answer = Lower(*line);
    if (answer.empty() || answer == "y" || answer == "yes") return Answer::kYes;
    if (answer == "a") return Answer::kYesToAll;
    if (answer == "n" || answer == "no") return Answer::kNo;
    if (answer == "l") return Answer::kNoToAll;
    Err("Y does it to this one, A to this and all that follow, N not to this one, L to none of "
        "the rest.\n");
  }
}

size_t TerminalConsole::Width() {
  winsize size{};
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
      return std::max<size_t>(size.ws_col, 20);
  }
  return 80;
}

SessionOptions TerminalConsole::Options() const {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  SessionOptions options;
  options.terminal = out_;
  options.colour = err_ && (no_color == nullptr || *no_color == '\0') &&
                   (term == nullptr || std::string_view(term) != "dumb");
  options.width = Width();
  return options;
}

}  // namespace partita::shell
