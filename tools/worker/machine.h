// A worker's machine: the partition, its SynIC, VMBus and VSPs, wired together, and its life:
// start, guest reset (everything but RAM and descriptors is rebuilt), end. Control thread only.
#ifndef PARTITA_TOOLS_WORKER_MACHINE_H_
#define PARTITA_TOOLS_WORKER_MACHINE_H_

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "partition/partition.h"
#include "synic/synic.h"
#include "tools/control/control.pb.h"
#include "tools/worker/console.h"
#include "vmbus/server/vmbus_server.h"
#include "vsp/integration/dynamic_memory.h"
#include "vsp/integration/file_services.h"
#include "vsp/integration/keyboard.h"
#include "vsp/integration/services.h"
#include "vsp/network/network_vsp.h"
#include "vsp/socket/socket_hub.h"
#include "vsp/storage/storage_vsp.h"

namespace partita {

class Machine {
 public:
  struct Events {
    std::function<void(int status, std::string reason)> ended;
    std::function<void(std::string notice)> notice;
    std::function<void(uint32_t port, uint64_t id)> socket_wanted;
    std::function<void(bool paused, bool waiting_for_space)> condition;
  };
  // `descriptors` are those that came with `start`; taken over.
  Machine(EventLoop& loop, control::Start start, std::vector<UniqueFd> descriptors, Events events);
  ~Machine();

  absl::Status Start();
  // Stops VPs, finishes I/O, flushes disks, then reports `ended`.
  void Stop(int status, std::string reason);
  void DescribeTo(StatSink& sink) const;
  // Tells `condition` as it is, though nothing changed.
  void TellCondition() const { events_.condition(paused_, waiting_for_space_ > 0); }
  // Does what a request says, one of those that are answered; `reply` is called once, perhaps
  // later.
  // `descriptors` came with it.
  void Handle(const control::Request& request, std::vector<UniqueFd> descriptors,
              const std::function<void(control::Reply)>& reply);

 private:
  // The integration services of one incarnation.
  struct Services {
    Services(EventLoop& loop, const Clock& clock, integration::DynamicMemory::Host host)
        : heartbeat(loop),
          shutdown(loop),
          time(loop, clock),
          key_values(loop),
          snapshot(loop),
          file_copy(loop),
          memory(loop, std::move(host)),
          keyboard(loop) {}
    integration::HeartbeatService heartbeat;
    integration::ShutdownService shutdown;
    integration::TimeSyncService time;
    integration::KeyValueService key_values;
    integration::SnapshotService snapshot;
    integration::FileCopyService file_copy;
    integration::DynamicMemory memory;
    integration::Keyboard keyboard;
    struct Offered {
      uint32_t relid = 0;  // 0: switched off
      bool leaving = false;
    };
    std::map<integration::MessageChannel*, Offered> offered;
    [[nodiscard]] std::array<integration::IntegrationService*, 6> all() {
      return {&heartbeat, &shutdown, &time, &key_values, &snapshot, &file_copy};
    }
  };
  // A disk or an adapter that can come and go. The controller of the first disks is no such.
  struct Device {
    std::string id;
    uint8_t position = 0;  // in its instance GUID
    std::unique_ptr<storage::StorageVsp> disk;
    std::unique_ptr<network::NetworkVsp> adapter;
    uint32_t relid = 0;
    bool leaving = false;
    [[nodiscard]] vmbus::ChannelDevice& channel_device() const {
      return disk != nullptr ? static_cast<vmbus::ChannelDevice&>(*disk) : *adapter;
    }
    void DescribeTo(StatSink& sink) const {
      if (disk != nullptr) disk->DescribeTo(sink);
      if (adapter != nullptr) adapter->DescribeTo(sink);
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
  using Answer = std::function<void(const absl::Status&)>;
  using Replier = std::function<void(control::Reply)>;
  [[nodiscard]] std::unique_ptr<storage::StorageVsp> NewController(uint8_t position,
                                                                   const std::string& name);
  absl::Status AddDiskTo(storage::StorageVsp& controller, const control::Disk& disk, UniqueFd fd,
                         UniqueFd record);
  absl::Status AddAdapter(const control::Adapter& adapter, std::vector<UniqueFd> fds);
  absl::Status OfferDevice(Device& device);
  [[nodiscard]] Device* FindDevice(const std::string& id);
  [[nodiscard]] uint8_t FreePosition(uint8_t first) const;
  void ForgetLeaving();
  void HandleAddDisk(const control::Disk& disk, std::vector<UniqueFd> fds, const Replier& reply);
  void HandleAddAdapter(const control::Adapter& adapter, std::vector<UniqueFd> fds,
                        const Replier& reply);
  void Rescind(Device* device, const Answer& once);
  [[nodiscard]] Answer WithPatience(const Answer& answer, const std::string& late);
  [[nodiscard]] Replier WithLimit(const Replier& reply);
  void HandleRemove(const std::string& id, const Answer& answer);
  void HandleAddresses(const control::Addresses& request, const Replier& reply);
  void ListAddresses(std::vector<std::string> ids, control::Reply so_far, const Replier& reply);
  void HandleSwitch(const control::SwitchService& request, const Answer& answer);
  [[nodiscard]] integration::DynamicMemory::Host MemoryHost();
  absl::Status Build();
  // Tears the incarnation down in order, then ends or builds the next one: whatever is wanted by
  // then, for a stop may come while a reset is under way.
  void TearDown();
  void AfterTearDown();
  void OnEnd(EndReason reason, const std::string& detail);
  void OnCrash(const CrashReport& report);
  // A controller's first write began to wait for space, or its last one has it.
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
  [[nodiscard]] UniqueFd Duplicate(int32_t index) const;
  absl::Status OfferService(integration::MessageChannel& service);
  // Flushes controllers whose loops have ended; `done` comes on the control thread.
  void SyncDisks(std::vector<storage::StorageVsp*> controllers,
                 std::function<void(absl::Status)> done);
  void SyncLeaving(std::function<void()> then);
  void NoteSync(const absl::Status& status);
  // With a disk behind them: all, or those on their way out.
  [[nodiscard]] std::vector<storage::StorageVsp*> Controllers(bool leaving_only) const;

  EventLoop& loop_;
  const control::Start start_;
  std::vector<UniqueFd> descriptors_;
  const Events events_;
  Console console_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<storage::StorageVsp> storage_;
  std::vector<std::unique_ptr<Device>> devices_;
  uint32_t next_disk_ = 1, next_adapter_ = 0;
  std::unique_ptr<socket::SocketHub> sockets_;
  // One incarnation; destroyed in reverse order.
  std::unique_ptr<Partition> partition_;
  std::unique_ptr<Synic> synic_;
  std::unique_ptr<Services> services_;
  std::unique_ptr<vmbus::VmbusServer> vmbus_;
  std::unique_ptr<MessageRelay> relay_;
  std::shared_ptr<bool> incarnation_;   // events of an earlier one are ignored
  std::set<std::string> services_off_;  // by name; outlives a reset of the guest
  StatSink retired_;                    // counters of incarnations that are gone
  bool tearing_down_ = false;
  int syncs_ = 0;                                   // threads that flush
  std::vector<std::function<void()>> after_syncs_;  // run when none is left
  bool flush_failed_ = false;                       // of a disk that has left
  bool paused_by_user_ = false, paused_ = false;
  int waiting_for_space_ = 0;  // controllers, of all incarnations
  struct Ending {
    int status = 0;
    std::string reason;
  };
  std::optional<Ending> ending_;  // set once: the first reason to end counts
  std::deque<uint64_t> resets_;   // times of recent resets, CLOCK_MONOTONIC milliseconds
  uint64_t reset_count_ = 0;
  uint64_t first_entry_us_ = 0;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_WORKER_MACHINE_H_
