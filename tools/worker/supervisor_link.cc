#include "tools/worker/supervisor_link.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <utility>

#include "base/log.h"

namespace partita {
namespace {

void SetNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

bool SameUser(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == 0 || peer.uid == geteuid());
}

// Takes as long for a wrong secret as for the right one.
bool Equal(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() && !a.empty() ? 0 : 1;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  }
  return difference == 0;
}

}  // namespace

SupervisorLink::SupervisorLink(EventLoop& loop, UniqueFd first)
    : loop_(loop), channel_(std::make_unique<control::Channel>(std::move(first))) {}

SupervisorLink::~SupervisorLink() {
  if (!serving_) return;
  if (channel_ != nullptr) loop_.Remove(channel_->fd());
  for (const auto& [fd, channel] : visitors_) loop_.Remove(fd);
  if (listener_.valid()) loop_.Remove(listener_.get());
}

absl::Status SupervisorLink::Serve(UniqueFd listener, std::string secret, Events events) {
  listener_ = std::move(listener);
  secret_ = std::move(secret);
  events_ = std::move(events);
  serving_ = true;
  if (listener_.valid()) {
    SetNonBlocking(listener_.get());
    SetNonBlocking(channel_->fd());
    RETURN_IF_ERROR(loop_.Add(listener_.get(), EPOLLIN, [this](uint32_t) { Accept(); }));
  }
  return loop_.Add(channel_->fd(), EPOLLIN, [this](uint32_t) { OnRequest(); });
}

void SupervisorLink::Send(const control::Event& event) {
  if (channel_ == nullptr) return;
  const absl::Status sent = channel_->Send(event);
  if (!sent.ok() && listener_.valid() && !absl::IsInvalidArgument(sent)) Drop();
}

void SupervisorLink::Reply(uint64_t session, uint64_t id, control::Reply reply) {
  if (channel_ == nullptr || session != session_) return;
  control::Event event;
  *event.mutable_reply() = std::move(reply);
  event.mutable_reply()->set_id(id);
  const absl::Status sent = channel_->Send(event);
  if (sent.ok()) return;
  if (listener_.valid() && !absl::IsInvalidArgument(sent)) return Drop();
  // Whoever asked is told in any case, or it would wait for ever.
  event.mutable_reply()->Clear();
  event.mutable_reply()->set_id(id);
  event.mutable_reply()->set_error("the answer could not be sent: " + std::string(Message(sent)));
  if (!channel_->Send(event).ok()) Log(Message(sent));
}

// The supervisor is gone, or as good as.
void SupervisorLink::Drop() {
  if (serving_) loop_.Remove(channel_->fd());
  // Not at once: a caller may be in the middle of it.
  loop_.Post([gone = std::shared_ptr<control::Channel>(std::move(channel_))] {});
  channel_ = nullptr;
  ++session_;
}

void SupervisorLink::OnRequest() {
  control::Request request;
  std::vector<UniqueFd> descriptors;
  const absl::Status status = channel_->Receive(&request, &descriptors);
  if (absl::IsDeadlineExceeded(status)) return;
  if (absl::IsInvalidArgument(status)) return Log(Message(status));  // that one alone
  if (!status.ok()) {
    Drop();
    if (!listener_.valid()) events_.lost();
    return;
  }
  events_.request(request, std::move(descriptors), session_);
}

void SupervisorLink::Accept() {
  UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  if (!SameUser(fd.get()) || visitors_.size() >= kMaxVisitors) {
    ++refused_;
    return LogLimited("a visitor of the control socket was turned away");
  }
  const int number = fd.get();
  visitors_[number] = std::make_unique<control::Channel>(std::move(fd));
  const control::Channel* visitor = visitors_[number].get();
  if (!loop_.Add(number, EPOLLIN, [this, number](uint32_t) { OnVisitor(number); }).ok()) {
    visitors_.erase(number);
    return;
  }
  loop_.After(kVisitorMs, [this, number, visitor, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    const auto it = visitors_.find(number);
    if (it == visitors_.end() || it->second.get() != visitor) return;
    loop_.Remove(number);
    visitors_.erase(it);
  });
}

// The old one's end may be noticed later than the new one's beginning.
bool SupervisorLink::SupervisorIsGone() const {
  if (channel_ == nullptr) return true;
  pollfd look = {.fd = channel_->fd(), .events = POLLRDHUP, .revents = 0};
  return poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

void SupervisorLink::OnVisitor(int fd) {
  const auto it = visitors_.find(fd);
  if (it == visitors_.end()) return;
  std::unique_ptr<control::Channel> visitor = std::move(it->second);
  visitors_.erase(it);
  loop_.Remove(fd);
  control::Request request;
  const absl::Status received = visitor->Receive(&request);
  control::Event answer;
  answer.mutable_reply()->set_id(request.id());
  if (!received.ok() || !request.has_hello() || !Equal(request.hello().secret(), secret_)) {
    answer.mutable_reply()->set_error("that is not this partition's secret");
  } else if (!SupervisorIsGone()) {
    answer.mutable_reply()->set_error("this partition has a supervisor");
  }
  if (!answer.reply().error().empty()) {
    ++refused_;
    static_cast<void>(visitor->Send(answer).ok());
    return;
  }
  if (channel_ != nullptr) Drop();
  ++session_;
  channel_ = std::move(visitor);
  if (!loop_.Add(channel_->fd(), EPOLLIN, [this](uint32_t) { OnRequest(); }).ok()) {
    channel_ = nullptr;
    return;
  }
  Send(answer);
  if (channel_ != nullptr) events_.connected();
}

}  // namespace partita
