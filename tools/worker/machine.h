// A worker's machine: the partition, its SynIC, VMBus and VSPs, wired together, and its life:
// start, guest reset (everything but RAM and descriptors is rebuilt), end. Control thread only.
#ifndef PARTITA_TOOLS_WORKER_MACHINE_H_
#define PARTITA_TOOLS_WORKER_MACHINE_H_

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "partition/partition.h"
#include "synic/synic.h"
#include "tools/control/control.pb.h"
#include "tools/worker/console.h"
#include "vmbus/server/vmbus_server.h"
#include "vsp/integration/services.h"
#include "vsp/network/network_vsp.h"
#include "vsp/storage/storage_vsp.h"

namespace partita {

class Machine {
 public:
  struct Events {
    std::function<void(int status, std::string reason)> ended;
    std::function<void(std::string notice)> notice;
  };
  // `descriptors` are those that came with `start`; taken over.
  Machine(EventLoop& loop, control::Start start, std::vector<UniqueFd> descriptors, Events events);
  ~Machine();

  absl::Status Start();
  // Stops VPs, finishes I/O, flushes disks, then reports `ended`.
  void Stop(int status, std::string reason);
  void DescribeTo(StatSink& sink) const;
  // Does what a request says, one of those that are answered; `reply` is called once, perhaps
  // later.
  void Handle(const control::Request& request, const std::function<void(control::Reply)>& reply);

 private:
  // The integration services of one incarnation.
  struct Services {
    Services(EventLoop& loop, const Clock& clock)
        : heartbeat(loop), shutdown(loop), time(loop, clock), key_values(loop) {}
    integration::HeartbeatService heartbeat;
    integration::ShutdownService shutdown;
    integration::TimeSyncService time;
    integration::KeyValueService key_values;
    [[nodiscard]] std::array<integration::IntegrationService*, 4> all() {
      return {&heartbeat, &shutdown, &time, &key_values};
    }
  };

  // Passes guest messages on to the VMBus of this incarnation.
  class MessageRelay : public GuestMessageSink {
   public:
    explicit MessageRelay(vmbus::VmbusServer& server) : server_(server) {}
    hv::Status OnGuestMessage(uint32_t connection_id, uint32_t type,
                              std::span<const std::byte> payload) override {
      return server_.OnGuestMessage(connection_id, type, payload);
    }

   private:
    vmbus::VmbusServer& server_;
  };

  absl::Status OpenDisks();
  absl::Status OpenAdapters();
  absl::Status Build();
  // Tears the incarnation down in order, then calls `then`.
  void TearDown(std::function<void()> then);
  void OnEnd(EndReason reason, const std::string& detail);
  void OnCrash(const CrashReport& report);
  void OnSpace(bool full);
  // Pauses or resumes the VPs according to the reasons there are.
  void ApplyPause();
  void Describe(control::Reply& reply) const;
  void HandleKeyValues(const control::KeyValues& request,
                       const std::function<void(control::Reply)>& reply);
  void Restart();
  // Counters of the partition, SynIC and VMBus that live now.
  void DescribeIncarnation(StatSink& sink) const;
  [[nodiscard]] int Descriptor(int32_t index) const;

  EventLoop& loop_;
  const control::Start start_;
  std::vector<UniqueFd> descriptors_;
  const Events events_;
  Console console_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<storage::StorageVsp> storage_;
  std::vector<std::unique_ptr<network::NetworkVsp>> adapters_;
  // One incarnation; destroyed in reverse order.
  std::unique_ptr<Partition> partition_;
  std::unique_ptr<Synic> synic_;
  std::unique_ptr<Services> services_;
  std::unique_ptr<vmbus::VmbusServer> vmbus_;
  std::unique_ptr<MessageRelay> relay_;
  std::shared_ptr<bool> incarnation_;  // events of an earlier one are ignored
  StatSink retired_;                   // counters of incarnations that are gone
  bool tearing_down_ = false;
  bool paused_by_user_ = false, paused_by_space_ = false, paused_ = false;
  bool ended_ = false;
  std::deque<uint64_t> resets_;  // times of recent resets, CLOCK_MONOTONIC milliseconds
  uint64_t reset_count_ = 0;
  uint64_t first_entry_us_ = 0;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_WORKER_MACHINE_H_
