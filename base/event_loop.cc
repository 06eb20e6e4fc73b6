#include "base/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/monotonic.h"
#include "base/mutex.h"

namespace partita {
namespace {

// What may run before descriptors are looked at again, whichever is reached first.
constexpr size_t kMaxTasks = 64;
constexpr uint64_t kMaxTaskNs = 5'000'000;

uint64_t NowMs() { return MonotonicNs() / 1'000'000; }

}  // namespace

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return SystemError("creating an epoll instance");
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  epoll_event event{.events = EPOLLIN, .data = {.fd = wake.fd()}};
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.fd(), &event) != 0) {
    return SystemError("watching the wake-up eventfd");
  }
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wake)));
}

absl::Status EventLoop::Add(int fd, uint32_t events, std::function<void(uint32_t)> callback) {
  epoll_event event{.events = events, .data = {.fd = fd}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return SystemError("watching a descriptor");
  }
  watched_[fd] = std::make_shared<std::function<void(uint32_t)>>(std::move(callback));
  return absl::OkStatus();
}

void EventLoop::Remove(int fd) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  watched_.erase(fd);
}

void EventLoop::Post(std::function<void()> task) {
  {
    MutexLock lock(mutex_);
    posted_.push_back(std::move(task));
  }
  wake_.Set();
}

void EventLoop::After(uint32_t milliseconds, std::function<void()> callback) {
  timers_.emplace(NowMs() + milliseconds, std::move(callback));
}

void EventLoop::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  wake_.Set();
}

bool EventLoop::RunPosted() {
  const uint64_t begin = MonotonicNs();
  for (size_t done = 0; done < kMaxTasks; ++done) {
    if (taken_.empty()) {
      MutexLock lock(mutex_);
      taken_.swap(posted_);
    }
    if (taken_.empty()) return false;
    const auto task = std::move(taken_.front());
    taken_.pop_front();
    task();
    if (MonotonicNs() - begin >= kMaxTaskNs) break;
  }
  return true;  // perhaps; the next round knows
}

int EventLoop::TimeoutMs() const {
  if (timers_.empty()) return -1;
  const uint64_t now = NowMs();
  return timers_.begin()->first <= now ? 0 : static_cast<int>(timers_.begin()->first - now);
}

void EventLoop::Run() {
  std::array<epoll_event, 16> events{};
  while (true) {
    const bool more = RunPosted();
    {
      MutexLock lock(mutex_);
      if (std::exchange(stop_, false)) return;
    }
    const int count =
        epoll_wait(epoll_.get(), events.data(), events.size(), more ? 0 : TimeoutMs());
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == wake_.fd()) {
        std::ignore = wake_.Take();
        continue;
      }
      const auto it = watched_.find(events[i].data.fd);
      if (it == watched_.end()) continue;
      const auto callback = it->second;  // keeps it alive if it removes itself
      (*callback)(events[i].events);
    }
    while (!timers_.empty() && timers_.begin()->first <= NowMs()) {
      auto callback = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      callback();
    }
  }
}

}  // namespace partita
