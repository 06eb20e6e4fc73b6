// What happened: a bounded log on disk, one JSON object a line, and the newest of it in memory for
// whoever asks or follows. One thread.
#ifndef PARTITA_TOOLS_SERVICE_EVENT_LOG_H_
#define PARTITA_TOOLS_SERVICE_EVENT_LOG_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace partita::service {

class EventLog {
 public:
  static constexpr size_t kInMemory = 4096;
  static constexpr size_t kMaxFile = 2 << 20;  // then it becomes the old one; there are two

  // Numbers go on behind those that are there. A log that cannot be read is begun anew.
  static std::unique_ptr<EventLog> Open(const std::string& directory);

  void Add(std::string_view type, std::string_view vm_id, std::string_view vm_name,
           std::string_view message);
  // Lines of the events behind `since`, up to a bounded size; `*next` becomes the last one's
  // number.
  [[nodiscard]] std::string After(uint64_t since, uint64_t* next) const;
  [[nodiscard]] uint64_t last() const { return next_ - 1; }
  [[nodiscard]] uint64_t lost() const { return lost_; }

  // `wake` is called when there is something new, until Unfollow.
  uint64_t Follow(std::function<void()> wake);
  void Unfollow(uint64_t number) { followers_.erase(number); }

 private:
  struct Entry {
    uint64_t seq;
    std::string line;
  };
  explicit EventLog(std::string path) : path_(std::move(path)) {}
  void Read(const std::string& path);
  void Write(std::string_view line);

  const std::string path_;
  UniqueFd file_;
  size_t size_ = 0;
  std::deque<Entry> entries_;
  uint64_t next_ = 1;
  uint64_t lost_ = 0;  // not on disk
  std::map<uint64_t, std::function<void()>> followers_;
  uint64_t next_follower_ = 1;
};

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_EVENT_LOG_H_
