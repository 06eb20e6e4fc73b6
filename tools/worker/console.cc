#include "tools/worker/console.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <utility>

namespace partita {

Console::Console(EventLoop& loop, UniqueFd fd, Kind kind) : loop_(loop), kind_(kind) {
  if (!fd.valid()) return;
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  if (kind_ == Kind::kStream) {
    stream_ = std::move(fd);
    Watch(stream_.get());
    return;
  }
  listener_ = std::move(fd);
  static_cast<void>(loop_
                        .Add(listener_.get(), EPOLLIN,
                             [this](uint32_t) {
                               UniqueFd client(accept4(listener_.get(), nullptr, nullptr,
                                                       SOCK_NONBLOCK | SOCK_CLOEXEC));
                               if (!client.valid()) return;
                               CloseStream();  // the newest visitor gets the console
                               stream_ = std::move(client);
                               Watch(stream_.get());
                               WriteOutput();
                             })
                        .ok());
}

Console::~Console() {
  CloseStream();
  for (const auto& [fd, visitor] : visitors_) loop_.Remove(fd);
  if (listener_.valid()) loop_.Remove(listener_.get());
}

void Console::Watch(int fd) {
  struct stat info {};
  regular_file_ = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (regular_file_) return;  // always ready, and epoll refuses it
  // Edge-triggered output readiness: one event when a stuck reader reads again.
  watched_ =
      loop_.Add(fd, EPOLLIN | EPOLLOUT | EPOLLET, [this](uint32_t events) { OnEvents(events); })
          .ok();
}

void Console::CloseStream() {
  if (watched_) loop_.Remove(stream_.get());
  watched_ = false;
  stream_.Reset();
}

void Console::Attach(SerialPort* serial) {
  if (serial_ != nullptr) WriteOutput();
  serial_ = serial;
}

void Console::OutputReady() { WriteOutput(); }

void Console::OnEvents(uint32_t events) {
  if ((events & EPOLLOUT) != 0) WriteOutput();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) ReadInput();
}

void Console::ReadInput() {
  std::array<char, 512> bytes{};
  while (stream_.valid()) {
    const ssize_t got = read(stream_.get(), bytes.data(), bytes.size());
    if (got > 0) {
      if (serial_ != nullptr) {
        serial_->Input(std::span(bytes).first(static_cast<size_t>(got)));
      }
      continue;
    }
    if (got < 0 && errno == EINTR) continue;
    // End of input is not the end of output (a pipe, `< /dev/null`); a visitor who left is.
    if (got == 0 && listener_.valid()) CloseStream();
    return;
  }
}

void Console::WriteOutput() {
  if (serial_ == nullptr) return;
  if (kind_ == Kind::kHub) return Publish(serial_->TakeOutput());
  if (!stream_.valid()) return;
  while (true) {
    std::string text = serial_->TakeOutput();
    size_t at = 0;
    while (at < text.size()) {
      const ssize_t written = write(stream_.get(), text.data() + at, text.size() - at);
      if (written > 0) {
        at += static_cast<size_t>(written);
      } else if (written < 0 && errno == EINTR) {
        continue;
      } else {
        serial_->ReturnOutput(std::string_view(text).substr(at));
        return;
      }
    }
    if (text.empty()) return;
  }
}

absl::Status Console::MayVisit(bool writer) const {
  if (kind_ != Kind::kHub) return FailedPrecondition("this console is no place for visitors");
  if (visitors_.size() >= kMaxVisitors) {
    return ResourceExhausted("the console has as many visitors as it takes");
  }
  for (const auto& [fd, other] : visitors_) {
    if (writer && other.writer) {
      return FailedPrecondition("somebody else writes at this console; it can be read");
    }
  }
  return absl::OkStatus();
}

absl::Status Console::AddVisitor(UniqueFd socket, bool writer) {
  RETURN_IF_ERROR(MayVisit(writer));
  const int fd = socket.get();
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  RETURN_IF_ERROR(loop_.Add(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                            [this, fd](uint32_t events) { OnVisitor(fd, events); }));
  visitors_[fd] = {.socket = std::move(socket), .writer = writer, .behind = kept_};
  if (!Flush(visitors_[fd])) ShowOut(fd);
  return absl::OkStatus();
}

void Console::Publish(std::string_view text) {
  if (text.empty()) return;
  kept_ += text;
  if (kept_.size() > kKept) kept_.erase(0, kept_.size() - kKept);
  for (auto it = visitors_.begin(); it != visitors_.end();) {
    Visitor& visitor = (it++)->second;
    visitor.behind += text;
    if (!Flush(visitor) || visitor.behind.size() > kMaxBehind) ShowOut(visitor.socket.get());
  }
}

bool Console::Flush(Visitor& visitor) {
  while (!visitor.behind.empty()) {
    const ssize_t sent = send(visitor.socket.get(), visitor.behind.data(), visitor.behind.size(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    visitor.behind.erase(0, static_cast<size_t>(sent));
  }
  return true;
}

bool Console::ReadVisitor(Visitor& visitor) {
  std::array<char, 512> bytes{};
  while (true) {
    const ssize_t got = recv(visitor.socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    if (got == 0) return false;
    // A reader's bytes are taken, or its connection's end would never be seen.
    if (visitor.writer && serial_ != nullptr) {
      serial_->Input(std::span(bytes).first(static_cast<size_t>(got)));
    }
  }
}

void Console::OnVisitor(int fd, uint32_t events) {
  const auto it = visitors_.find(fd);
  if (it == visitors_.end()) return;
  bool stays = Flush(it->second);
  if (stays && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
    stays = ReadVisitor(it->second);
  }
  if (!stays) ShowOut(fd);
}

void Console::ShowOut(int fd) {
  loop_.Remove(fd);
  visitors_.erase(fd);
}

void Console::Drain() {
  if (kind_ == Kind::kHub) return WriteOutput();
  // A pipe or socket to a live reader empties quickly; a stuck one is given a bounded chance.
  constexpr int kTries = 20, kEachMs = 10;
  for (int i = 0; i < kTries; ++i) {
    WriteOutput();
    if (serial_ == nullptr || !stream_.valid() || regular_file_ || !serial_->HasOutput()) return;
    pollfd wait = {.fd = stream_.get(), .events = POLLOUT, .revents = 0};
    poll(&wait, 1, kEachMs);
  }
}

}  // namespace partita
