#include "tools/service/event_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <utility>
#include <vector>

#include "tools/control/definition_json.h"
#include "tools/service/wall_time.h"

namespace partita::service {

std::unique_ptr<EventLog> EventLog::Open(const std::string& directory) {
  std::unique_ptr<EventLog> log(new EventLog(directory + "/events.jsonl"));
  log->Read(log->path_ + ".old");
  log->Read(log->path_);
  log->file_ = UniqueFd(
      open(log->path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat info {};
  if (log->file_.valid() && fstat(log->file_.get(), &info) == 0) {
    log->size_ = static_cast<size_t>(info.st_size);
  }
  return log;
}

// A line that a crash cut short is no event; the next one begins a line of its own.
void EventLog::Read(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.empty() || line.size() > kMaxFile) continue;
    const auto json = ParseJson(line);
    if (!json.ok() || !json->is_object() || !json->contains("seq") ||
        !(*json)["seq"].is_number_unsigned()) {
      continue;
    }
    const auto seq = (*json)["seq"].get<uint64_t>();
    if (seq < next_ || seq == UINT64_MAX) continue;
    next_ = seq + 1;
    entries_.push_back({.seq = seq, .line = line + "\n"});
    if (entries_.size() > kInMemory) entries_.pop_front();
  }
}

void EventLog::Write(std::string_view line) {
  if (size_ + line.size() > kMaxFile && rename(path_.c_str(), (path_ + ".old").c_str()) == 0) {
    file_ =
        UniqueFd(open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
    size_ = 0;
  }
  if (file_.valid() &&
      write(file_.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size())) {
    size_ += line.size();
  } else {
    ++lost_;
  }
}

void EventLog::Add(std::string_view type, std::string_view vm_id, std::string_view vm_name,
                   std::string_view message) {
  constexpr size_t kMaxMessage = 4096;
  Json json;
  json["seq"] = next_;
  json["time"] = WallTime();
  json["type"] = type;
  json["vm_id"] = vm_id;
  json["vm_name"] = vm_name;
  json["message"] = message.substr(0, kMaxMessage);
  std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  Write(line);
  entries_.push_back({.seq = next_++, .line = std::move(line)});
  if (entries_.size() > kInMemory) entries_.pop_front();
  // A follower may leave while it is called.
  std::vector<uint64_t> numbers;
  for (const auto& [number, wake] : followers_) numbers.push_back(number);
  for (const uint64_t number : numbers) {
    const auto it = followers_.find(number);
    if (it != followers_.end()) it->second();
  }
}

std::string EventLog::After(uint64_t since, uint64_t* next) const {
  constexpr size_t kMaxText = 256 << 10;
  std::string text;
  *next = since;
  for (const Entry& entry : entries_) {
    if (entry.seq <= since) continue;
    if (text.size() > kMaxText) break;
    text += entry.line;
    *next = entry.seq;
  }
  return text;
}

uint64_t EventLog::Follow(std::function<void()> wake) {
  followers_[next_follower_] = std::move(wake);
  return next_follower_++;
}

}  // namespace partita::service
