#include "tools/service/worker_link.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <utility>

#include "base/monotonic.h"
#include "tools/host/unix_socket.h"
#include "tools/host/worker_process.h"

namespace partita::service {
namespace {

constexpr uint64_t kHelloId = 1;
constexpr uint32_t kAgainMs = 300;

UniqueFd OpenProcess(pid_t pid) {
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

void SetNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

std::string Hex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    text += kDigits[static_cast<uint8_t>(c) >> 4];
    text += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return text;
}

std::string FromHex(std::string_view text) {
  const auto digit = [](char c) { return c >= 'a' ? c - 'a' + 10 : c - '0'; };
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>((digit(text[i]) << 4 | (digit(text[i + 1]) & 15)) & 0xFF);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<WorkerLink>> WorkerLink::Spawn(EventLoop& loop, std::string program,
                                                              Address address, control::Start start,
                                                              std::span<const int> descriptors,
                                                              Events events) {
  ASSIGN_OR_RETURN(SpawnedWorker spawned, SpawnWorker(std::move(program), true));
  std::unique_ptr<WorkerLink> link(new WorkerLink(loop, std::move(address), std::move(events)));
  link->child_ = true;
  link->WatchProcess(spawned.pid);
  link->channel_ = std::make_unique<control::Channel>(std::move(spawned.channel));
  SetNonBlocking(link->channel_->fd());
  link->words_ = std::move(spawned.words);
  RETURN_IF_ERROR(
      loop.Add(link->words_.get(), EPOLLIN, [raw = link.get()](uint32_t) { raw->ReadWords(); }));
  RETURN_IF_ERROR(
      loop.Add(link->channel_->fd(), EPOLLIN, [raw = link.get()](uint32_t) { raw->OnReadable(); }));
  link->connected_ = true;
  start.set_exec_monotonic_ns(MonotonicNs());
  control::Request request;
  *request.mutable_start() = std::move(start);
  RETURN_IF_ERROR(link->channel_->Send(request, descriptors));
  return link;
}

std::unique_ptr<WorkerLink> WorkerLink::Adopt(EventLoop& loop, Address address, Events events) {
  std::unique_ptr<WorkerLink> link(new WorkerLink(loop, std::move(address), std::move(events)));
  link->ConnectLater(0);
  return link;
}

WorkerLink::~WorkerLink() {
  if (channel_ != nullptr) loop_.Remove(channel_->fd());
  if (words_.valid()) loop_.Remove(words_.get());
  if (process_.valid()) loop_.Remove(process_.get());
}

void WorkerLink::WatchProcess(pid_t pid) {
  if (process_.valid()) return;
  pid_ = pid;
  process_ = OpenProcess(pid);
  if (!process_.valid()) return;
  if (!loop_.Add(process_.get(), EPOLLIN, [this](uint32_t) { OnExit(); }).ok()) process_.Reset();
}

void WorkerLink::ConnectLater(uint32_t milliseconds) {
  loop_.After(milliseconds, [this, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired() && channel_ == nullptr && !gone_) Connect();
  });
}

void WorkerLink::Connect() {
  const auto address = UnixAddress("worker", address_.socket);
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!address.ok()) return Gone(std::nullopt);
  const auto* raw = reinterpret_cast<const sockaddr*>(&*address);
  if (!fd.valid()) return ConnectLater(kAgainMs);  // out of descriptors: it may still be there
  if (connect(fd.get(), raw, sizeof(*address)) != 0) {
    // Nobody has the listening socket any more: there is no such process, or it is at its end.
    const bool nobody = errno == ECONNREFUSED || errno == ENOENT;
    if (nobody && !process_.valid()) return Gone(std::nullopt);
    return ConnectLater(kAgainMs);
  }
  channel_ = std::make_unique<control::Channel>(std::move(fd));
  control::Request request;
  request.set_id(kHelloId);
  request.mutable_hello()->set_secret(FromHex(address_.secret));
  if (!channel_->Send(request).ok() ||
      !loop_.Add(channel_->fd(), EPOLLIN, [this](uint32_t) { OnReadable(); }).ok()) {
    channel_ = nullptr;
    ConnectLater(kAgainMs);
  }
}

void WorkerLink::OnReadable() {
  const std::weak_ptr<bool> alive = alive_;
  if (!ReceiveOne() && !alive.expired()) LoseChannel();
}

bool WorkerLink::ReceiveOne() {
  control::Event event;
  const absl::Status status = channel_->Receive(&event);
  if (absl::IsDeadlineExceeded(status) || absl::IsInvalidArgument(status)) return true;
  if (!status.ok()) return false;
  Handle(event);
  return true;
}

void WorkerLink::Handle(const control::Event& event) {
  if (!event.has_reply()) {
    if (event.has_condition() && event.condition().pid() > 0) WatchProcess(event.condition().pid());
    return events_.event(event);
  }
  const control::Reply& reply = event.reply();
  if (reply.id() == kHelloId) {
    connected_ = reply.error().empty();
    if (!connected_) LoseChannel();  // another one has it, for now
    return;
  }
  const auto it = asked_.find(reply.id());
  if (it == asked_.end()) return;
  const Answer answer = std::move(it->second);
  asked_.erase(it);
  if (reply.error().empty()) return answer(reply);
  answer(FailedPrecondition(reply.error()));
}

void WorkerLink::LoseChannel() {
  loop_.Remove(channel_->fd());
  channel_ = nullptr;
  connected_ = false;
  const std::weak_ptr<bool> alive = alive_;
  for (auto& [id, answer] : std::exchange(asked_, {})) {
    answer(Unavailable("the connection to the worker is gone"));
    if (alive.expired()) return;
  }
  ConnectLater(kAgainMs);
}

void WorkerLink::Send(const control::Request& request, std::span<const int> descriptors) {
  if (channel_ == nullptr || !connected_) return;
  if (!channel_->Send(request, descriptors).ok()) return;  // it goes, and is noticed
}

void WorkerLink::Ask(control::Request request, std::span<const int> descriptors,
                     uint32_t patience_ms, Answer answer) {
  const uint64_t id = next_++;
  request.set_id(id);
  asked_[id] = std::move(answer);
  const auto fail = [this, id, alive = std::weak_ptr<bool>(alive_)](const absl::Status& status) {
    if (alive.expired()) return;
    const auto it = asked_.find(id);
    if (it == asked_.end()) return;
    const Answer late = std::move(it->second);
    asked_.erase(it);
    late(status);
  };
  absl::Status sent = Unavailable("the worker cannot be reached");
  if (channel_ != nullptr && connected_) sent = channel_->Send(request, descriptors);
  if (!sent.ok()) return loop_.Post([fail, sent] { fail(sent); });
  loop_.After(patience_ms,
              [fail] { fail(absl::DeadlineExceededError("the worker did not answer in time")); });
}

void WorkerLink::Kill() const {
  if (process_.valid()) syscall(SYS_pidfd_send_signal, process_.get(), SIGKILL, nullptr, 0);
}

void WorkerLink::ReadWords() {
  std::array<char, 4096> bytes{};
  const ssize_t got = read(words_.get(), bytes.data(), bytes.size());
  if (got > 0) return events_.words({bytes.data(), static_cast<size_t>(got)});
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  loop_.Remove(words_.get());
  words_.Reset();
}

void WorkerLink::OnExit() {
  // What it said before it went comes first.
  const std::weak_ptr<bool> alive = alive_;
  constexpr int kMost = 64;
  for (int i = 0; i < kMost && channel_ != nullptr; ++i) {
    control::Event event;
    const absl::Status status = channel_->Receive(&event);
    if (absl::IsInvalidArgument(status)) continue;
    if (!status.ok()) break;
    Handle(event);
    if (alive.expired()) return;
  }
  if (words_.valid()) ReadWords();
  if (!child_) return Gone(std::nullopt);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  Gone(status);
}

void WorkerLink::Gone(std::optional<int> wait_status) {
  if (std::exchange(gone_, true)) return;
  if (process_.valid()) loop_.Remove(process_.get());
  process_.Reset();
  const std::weak_ptr<bool> alive = alive_;
  for (auto& [id, answer] : std::exchange(asked_, {})) {
    answer(Unavailable("the worker is gone"));
    if (alive.expired()) return;
  }
  const auto gone = events_.gone;
  gone(wait_status);
}

}  // namespace partita::service
