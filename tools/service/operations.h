// Long work that somebody asked for: started with an answer of 202, looked at and waited for by its
// id. Ended ones are kept for a while, the oldest go first. One thread.
#ifndef PARTITA_TOOLS_SERVICE_OPERATIONS_H_
#define PARTITA_TOOLS_SERVICE_OPERATIONS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "tools/service/api_error.h"

namespace partita::service {

struct Operation {
  enum class State : uint8_t { kRunning, kSucceeded, kFailed, kCancelled };
  std::string id, kind, vm_id;
  State state = State::kRunning;
  uint32_t progress_percent = 0;
  std::optional<ApiError> error;
  std::string started, ended;
  bool can_cancel = false;
  std::map<uint64_t, std::function<void()>> waiting;  // by the number of who waits
};

class Operations {
 public:
  static constexpr size_t kKept = 256;  // ended ones
  explicit Operations(EventLoop& loop);

  // The id of a new one.
  std::string Begin(const std::string& kind, const std::string& vm_id, bool can_cancel = false);
  // Nothing happens to one that has ended.
  void Succeed(const std::string& id) { End(id, Operation::State::kSucceeded, std::nullopt); }
  void Fail(const std::string& id, ApiError error) {
    End(id, Operation::State::kFailed, std::move(error));
  }
  // Gives up waiting; what was asked of a guest may still happen. False: it cannot be given up.
  bool Cancel(const std::string& id);
  // `then` is called once: when it has ended, or after `milliseconds`.
  void Wait(const std::string& id, uint32_t milliseconds, std::function<void()> then);

  [[nodiscard]] const Operation* Find(const std::string& id) const;
  [[nodiscard]] std::vector<const Operation*> All() const;

 private:
  void End(const std::string& id, Operation::State state, std::optional<ApiError> error);
  EventLoop& loop_;
  std::string prefix_;  // ids of another run of the service are other ones
  uint64_t next_ = 1, next_waiter_ = 1;
  std::map<std::string, Operation> operations_;
  std::deque<std::string> ended_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_OPERATIONS_H_
