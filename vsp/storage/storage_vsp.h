// The synthetic SCSI controller: up to 64 disks on path 0, target 0, and one loop thread per open
// channel. A loop drains its ring, submits to the disks' queues in one batch, reaps completions and
// answers them in one batch with at most one interrupt.
//
// Packets are guest-controlled; each is copied once before it is looked at. The controller belongs
// to the control thread, a StorageChannel to its own loop thread.
#ifndef PARTITA_VSP_STORAGE_STORAGE_VSP_H_
#define PARTITA_VSP_STORAGE_STORAGE_VSP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/counters.h"
#include "vmbus/server/vmbus_server.h"
#include "vsp/storage/scsi_disk.h"

namespace partita::storage {

class StorageChannel;

inline constexpr uint32_t kMaxDisks = 64;
inline constexpr uint32_t kRequestsPerChannel = 512;                // in flight
inline constexpr uint32_t kRequestsRead = 2 * kRequestsPerChannel;  // with those that wait

// Of one loop.
struct StorageCounters {
  LoopCounter commands, bad_packets, bad_ranges, wrong_state, check_conditions, resets, parked;
  LoopCounter system_calls, loop_wakes;
  Histogram latency_ns;
  void DescribeTo(StatSink& sink) const;
};

class StorageVsp : public vmbus::ChannelDevice {
 public:
  struct Options {
    vmbus::Guid instance{};
    uint32_t subchannels = 0;  // offered besides the primary
    // The host has no CPU left beside the VPs': loops gather a guest's burst instead of
    // interrupting it.
    bool shares_cpus = false;
  };
  struct Events {
    // A disk's host file system is full: writes are held back. Called on loop threads, once per
    // change; the partition is paused meanwhile.
    std::function<void(bool full)> space;
    // A flush failed; the disk takes no more writes.
    std::function<void(uint32_t lun)> poisoned;
  };
  StorageVsp(Options options, Events events);
  ~StorageVsp() override;

  // Before the first open. LUN = position.
  void AddDisk(std::unique_ptr<ScsiDisk> disk) { disks_.push_back(std::move(disk)); }
  void Connect(vmbus::VmbusServer& server) { server_ = &server; }

  // vmbus::ChannelDevice
  [[nodiscard]] vmbus::OfferParameters offer() const override;
  [[nodiscard]] uint32_t max_packet() const override;
  bool OnOpen(const vmbus::OpenRequest& request,
              std::shared_ptr<vmbus::ServerChannel> channel) override;
  void OnClose(uint32_t relid, std::function<void()> done) override;
  void OnLetGo(uint32_t relid) override;
  void CountPages(const std::shared_ptr<vmbus::PageCensus>& census) override;

  // Used by StorageChannel.
  [[nodiscard]] const std::vector<std::unique_ptr<ScsiDisk>>& disks() const { return disks_; }
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] const Events& events() const { return events_; }
  [[nodiscard]] PerLoop<StorageCounters>& counters() { return counters_; }
  void RequestSubChannels(uint32_t primary, uint32_t count);
  // Sub-channels carry no handshake of their own: I/O is allowed once the primary is initialised.
  std::atomic<bool>& initialized() { return initialized_; }
  // One more (or one less) loop has writes held back for lack of space.
  void SpaceWaiters(int change);

  // Has the guest let go of all disks, before the controller itself may be rescinded: stock Linux
  // asks for a rescinded controller's caches to be flushed and waits for ever. The guest is told to
  // look for its disks, finds each gone by TEST UNIT READY, and finishes with it by other commands.
  void BeginRemoval();
  // It has found that out and sent nothing for a while, or there never was a driver.
  [[nodiscard]] bool Removable() const;
  // Used by StorageChannel.
  [[nodiscard]] bool removing() const { return removing_.load(std::memory_order_relaxed); }
  void NoteCommandWhileRemoving(bool found_out);

  // Makes durable what was written, once the loops have ended; blocks, so not on the control
  // thread. Tries every disk, and returns the first error.
  [[nodiscard]] absl::Status Sync() const;
  [[nodiscard]] bool any_poisoned() const;
  void DescribeTo(StatSink& sink) const;

 private:
  const Options options_;
  const Events events_;
  vmbus::VmbusServer* server_ = nullptr;
  std::vector<std::unique_ptr<ScsiDisk>> disks_;
  PerLoop<StorageCounters> counters_;
  std::map<uint32_t, std::unique_ptr<StorageChannel>> channels_;  // by relid
  std::atomic<bool> initialized_ = false;
  std::atomic<int> space_waiters_ = 0;
  std::atomic<bool> removing_ = false;
  std::atomic<uint64_t> last_command_ns_ = 0;  // while removing; 0: the guest has not found out
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_STORAGE_VSP_H_
