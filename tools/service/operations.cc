#include "tools/service/operations.h"

#include <sys/random.h>

#include <cstdio>
#include <utility>

#include "tools/service/wall_time.h"

namespace partita::service {

Operations::Operations(EventLoop& loop) : loop_(loop) {
  uint32_t number = 0;
  static_cast<void>(getrandom(&number, sizeof(number), 0));
  char text[16];
  snprintf(text, sizeof(text), "%08x-", number);
  prefix_ = text;
}

std::string Operations::Begin(const std::string& kind, const std::string& vm_id, bool can_cancel) {
  std::string id = prefix_ + std::to_string(next_++);
  Operation& operation = operations_[id];
  operation.id = id;
  operation.kind = kind;
  operation.vm_id = vm_id;
  operation.started = WallTime();
  operation.can_cancel = can_cancel;
  return id;
}

void Operations::End(const std::string& id, Operation::State state, std::optional<ApiError> error) {
  const auto it = operations_.find(id);
  if (it == operations_.end() || it->second.state != Operation::State::kRunning) return;
  Operation& operation = it->second;
  operation.state = state;
  operation.error = std::move(error);
  operation.ended = WallTime();
  if (state == Operation::State::kSucceeded) operation.progress_percent = 100;
  ended_.push_back(id);
  for (const auto& [number, then] : std::exchange(operation.waiting, {})) then();
  while (ended_.size() > kKept) {
    operations_.erase(ended_.front());
    ended_.pop_front();
  }
}

bool Operations::Cancel(const std::string& id) {
  const auto it = operations_.find(id);
  if (it == operations_.end()) return false;
  if (it->second.state != Operation::State::kRunning) return true;
  if (!it->second.can_cancel) return false;
  End(id, Operation::State::kCancelled, std::nullopt);
  return true;
}

void Operations::Wait(const std::string& id, uint32_t milliseconds, std::function<void()> then) {
  const auto it = operations_.find(id);
  constexpr size_t kMostWaiting = 64;
  if (milliseconds == 0 || it == operations_.end() ||
      it->second.state != Operation::State::kRunning || it->second.waiting.size() >= kMostWaiting) {
    return then();
  }
  const uint64_t number = next_waiter_++;
  it->second.waiting[number] = std::move(then);
  loop_.After(milliseconds, [this, id, number, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    const auto late = operations_.find(id);
    if (late == operations_.end()) return;
    const auto waiter = late->second.waiting.extract(number);
    if (!waiter.empty()) waiter.mapped()();
  });
}

const Operation* Operations::Find(const std::string& id) const {
  const auto it = operations_.find(id);
  return it == operations_.end() ? nullptr : &it->second;
}

std::vector<const Operation*> Operations::All() const {
  std::vector<const Operation*> all;
  all.reserve(operations_.size());
  for (const auto& [id, operation] : operations_) all.push_back(&operation);
  return all;
}

}  // namespace partita::service
