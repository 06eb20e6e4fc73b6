// A partition without a hypervisor: RAM in a memfd, a VMBus server on its own control thread, and
// the guest's transport as plain calls. The guest's end is the very vsc code that runs inside a
// real guest.
#ifndef PARTITA_TESTS_FAKES_HOSTED_PARTITION_H_
#define PARTITA_TESTS_FAKES_HOSTED_PARTITION_H_

#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "partition/memory/guest_ram.h"
#include "vmbus/client/connection.h"
#include "vmbus/server/vmbus_server.h"

namespace partita::testing_support {

class HostedPartition : public Interrupt, public Doorbell {
 public:
  explicit HostedPartition(vmbus::ChannelStateMachine::Limits limits = {}) {
    ram_ = *GuestRam::Create(64 << 20, PageKind::kSmall);
    loop_ = *EventLoop::Create();
    server_ = std::make_unique<vmbus::VmbusServer>(*loop_, ram_->memory(), *this, *this, limits);
    thread_ = std::thread([this] { loop_->Run(); });
  }
  ~HostedPartition() override {
    Shutdown();
    loop_->Stop();
    thread_.join();
    server_.reset();
  }

  // Closes every channel and waits; devices may be destroyed afterwards.
  void Shutdown() {
    std::promise<void> done;
    OnControl([&] { server_->Shutdown([&] { done.set_value(); }); });
    done.get_future().wait();
  }
  // Runs `task` on the control thread and waits for it.
  void OnControl(const std::function<void()>& task) {
    std::promise<void> done;
    loop_->Post([&] {
      task();
      done.set_value();
    });
    done.get_future().wait();
  }

  [[nodiscard]] vmbus::VmbusServer& server() { return *server_; }
  [[nodiscard]] EventLoop& loop() { return *loop_; }
  [[nodiscard]] GuestMemory& memory() { return ram_->memory(); }
  // Page-aligned guest memory; never given back.
  std::byte* Allocate(size_t bytes) {
    std::byte* at = memory().regions()[0].host + next_;
    next_ += (bytes + 4095) & ~size_t{4095};
    return at;
  }
  [[nodiscard]] uint64_t Pfn(const void* page) {
    return static_cast<uint64_t>(static_cast<const std::byte*>(page) -
                                 memory().regions()[0].host) >>
           kPageShift;
  }
  // The pages that transfers of a device use now.
  std::vector<uint64_t> PagesInFlight(vmbus::ChannelDevice& device) {
    std::promise<std::vector<uint64_t>> found;
    OnControl([&] {
      device.CountPages(std::make_shared<vmbus::PageCensus>(
          *loop_, [&](std::vector<uint64_t> pfns) { found.set_value(std::move(pfns)); }));
    });
    return found.get_future().get();
  }
  std::map<std::string, uint64_t> Stats() {
    StatSink sink;
    OnControl([&] { server_->DescribeTo(sink); });
    return sink.values();
  }

  // Interrupt
  void SetEventFlag(uint32_t, uint32_t, uint32_t flag) override {
    MutexLock lock(mutex_);
    ++events_[flag];
    ++activity_;
  }
  bool PostMessage(uint32_t vp, uint32_t, uint32_t, std::span<const std::byte> payload) override {
    MutexLock lock(mutex_);
    if (vp >= vp_count_ || messages_.size() >= message_limit_) return false;
    messages_.emplace_back(payload.begin(), payload.end());
    ++activity_;
    return true;
  }
  void DropMessages() override {
    MutexLock lock(mutex_);
    messages_.clear();
  }
  // Doorbell
  absl::Status Bind(uint32_t connection_id, int event_fd) override {
    MutexLock lock(mutex_);
    doorbells_[connection_id] = event_fd;
    return absl::OkStatus();
  }
  void Unbind(uint32_t connection_id, int) override {
    MutexLock lock(mutex_);
    doorbells_.erase(connection_id);
  }

  // The guest's side.
  class GuestTransport final : public vmbus::client::Transport {
   public:
    explicit GuestTransport(HostedPartition& partition) : partition_(partition) {}
    uint16_t Post(uint32_t connection_id, const void* payload, size_t size) override {
      return partition_.server().OnGuestMessage(
          connection_id, 1, std::span(static_cast<const std::byte*>(payload), size));
    }
    void Signal(uint32_t connection_id) override {
      MutexLock lock(partition_.mutex_);
      const auto it = partition_.doorbells_.find(connection_id);
      if (it == partition_.doorbells_.end()) return;
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = write(it->second, &one, sizeof(one));
    }
    bool Receive(std::byte* out) override {
      MutexLock lock(partition_.mutex_);
      if (partition_.messages_.empty()) return false;
      std::memset(out, 0, vmbus::kMaxMessage);
      std::memcpy(out, partition_.messages_.front().data(), partition_.messages_.front().size());
      partition_.messages_.pop_front();
      return true;
    }
    bool Wait() override {
      MutexLock lock(partition_.mutex_);
      auto changed = [this] { return partition_.activity_ != seen_; };
      const bool ok = partition_.mutex_.AwaitFor(std::chrono::seconds(20), changed);
      seen_ = partition_.activity_;
      return ok;
    }
    uint64_t PfnOf(const void* page) override { return partition_.Pfn(page); }

   private:
    HostedPartition& partition_;
    uint64_t seen_ = 0;
  };

  void LimitMessages(size_t limit) {
    MutexLock lock(mutex_);
    message_limit_ = limit;
  }
  // That the guest has not received yet.
  [[nodiscard]] size_t messages() {
    MutexLock lock(mutex_);
    return messages_.size();
  }
  [[nodiscard]] uint64_t Events(uint32_t relid) {
    MutexLock lock(mutex_);
    return events_[relid];
  }

 private:
  static constexpr uint32_t vp_count_ = 8;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<vmbus::VmbusServer> server_;
  std::thread thread_;
  size_t next_ = 1 << 20;
  Mutex mutex_;
  std::deque<std::vector<std::byte>> messages_;
  size_t message_limit_ = 4096;
  std::map<uint32_t, int> doorbells_;
  std::map<uint32_t, uint64_t> events_;
  uint64_t activity_ = 0;
};

// A guest that reads no answers: writes packets by `write` until the ring has been full for a
// while, or `most` of them. How many went in.
template <typename Write>
size_t FillRing(vmbus::client::Channel& channel, size_t most, Write write) {
  size_t sent = 0;
  for (int full = 0; full < 100 && sent < most;) {
    if (write(sent) == vmbus::RingStatus::kOk) {
      ++sent;
      full = 0;
    } else {
      ++full;
      usleep(1000);
    }
    channel.Commit();
  }
  return sent;
}

}  // namespace partita::testing_support

#endif  // PARTITA_TESTS_FAKES_HOSTED_PARTITION_H_
