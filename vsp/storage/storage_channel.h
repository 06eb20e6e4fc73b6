// One channel of the SCSI controller and its loop thread. See storage_vsp.h.
#ifndef PARTITA_VSP_STORAGE_STORAGE_CHANNEL_H_
#define PARTITA_VSP_STORAGE_STORAGE_CHANNEL_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/io_ring.h"
#include "vmbus/protocol/storage_protocol.h"
#include "vmbus/server/server_channel.h"
#include "vsp/burst_scheduling.h"
#include "vsp/loop_events.h"
#include "vsp/reply_queue.h"
#include "vsp/storage/storage_vsp.h"

namespace partita::storage {

class StorageChannel final : public BlockOwner {
 public:
  static absl::StatusOr<std::unique_ptr<StorageChannel>> Start(
      StorageVsp& controller, std::shared_ptr<vmbus::ServerChannel> channel, uint32_t primary);
  ~StorageChannel();

  // Finishes or drops what is in flight, then ends the thread; `done` is called from it. Any
  // thread.
  void Stop(std::function<void()> done);

  // Makes the loop look at the controller again. Any thread.
  void Wake() { inbox_.Wake(); }
  // Any thread.
  void CountPages(std::shared_ptr<vmbus::PageCensus> census);

  void OnBlockDone(BlockRequest& block, int error) override;

 private:
  // A command in flight. Reused; grows no further than one transfer needs.
  struct Request : BlockRequest {
    uint64_t transaction = 0;
    uint64_t started_ns = 0;
    vmbus::storage::Packet packet{};
    std::vector<iovec> buffer;   // the guest's buffer, adjacent pages merged
    std::vector<uint64_t> pfns;  // the same, for MarkDirty
    uint32_t buffer_offset = 0;  // into the first page
    uint32_t buffer_length = 0;
    std::vector<iovec> trimmed;      // what of it a shorter transfer uses
    std::vector<BlockRange> ranges;  // of a command with several operations
    size_t next_range = 0;
    std::vector<std::byte> scratch;  // VERIFY reads into it, piece by piece
    iovec scratch_iovec{};
    uint64_t verify_left = 0;  // bytes of a VERIFY, this piece included; 0: no VERIFY
    uint64_t verified = 0;
    uint32_t lun = 0;
    bool held = false;  // waits for room on the host's disk
  };
  struct Lun {
    std::unique_ptr<BlockQueue> queue;
    uint32_t in_flight = 0;
    std::deque<Request*> waiting;  // over this disk's share
  };

  StorageChannel(StorageVsp& controller, std::shared_ptr<vmbus::ServerChannel> channel,
                 uint32_t primary, EventFd wake);
  absl::Status Prepare();
  void ThreadMain();
  static void Check(int result);
  // Reads packets while requests are free; false when the ring is empty or broken.
  bool DrainRing();
  void HandlePacket(const vmbus::Packet& packet);
  void HandleControl(const vmbus::storage::Packet& packet, uint64_t transaction);
  void HandleSrb(const vmbus::Packet& packet, const vmbus::storage::Packet& body);
  bool MapBuffer(const vmbus::Packet& packet, Request& request);
  void Run(Request& request, const ScsiDisk& disk);
  void StartBlock(Request& request);
  void StartNextRange(Request& request);
  void StartVerifyPiece(Request& request);
  void OnVerifyPiece(Request& request);
  void Dispatch(Request& request);
  void Reset(uint64_t transaction);
  void FinishReset();

  void Answer(Request& request, std::span<const uint8_t> data);
  void CheckCondition(Request& request, Sense sense);
  void Complete(Request& request, uint8_t scsi_status, uint8_t srb_status, uint32_t transferred);
  [[nodiscard]] int64_t NsToRetry() const;
  void RetryParked();
  void AbortHeld();
  void Unhold(Request& request);
  Request* TakeRequest();
  void Release(Request& request);
  // Nothing starts until a reset is answered, and answers that wait go first.
  [[nodiscard]] bool CanTakePacket() const {
    return resets_.empty() && replies_.empty() &&
           (!free_.empty() || requests_.size() < kRequestsRead);
  }
  [[nodiscard]] uint32_t FairShare() const;

  StorageVsp& controller_;
  const PerLoop<StorageCounters>::Lease counters_;
  std::shared_ptr<vmbus::ServerChannel> channel_;
  const uint32_t primary_;
  LoopInbox inbox_;
  std::unique_ptr<IoRing> ring_;
  std::vector<Lun> luns_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<Request*> free_;
  uint32_t in_flight_ = 0;
  std::vector<Request*> parked_;  // writes that found the host's disk full
  uint64_t retry_at_ns_ = 0;      // when they are tried again, on the monotonic clock
  ReplyQueue<vmbus::storage::Packet> replies_;
  bool ring_open_ = true;  // false after corruption: nothing more is read
  bool stopping_ = false;
  bool told_removal_ = false;
  bool granted_subchannels_ = false;
  BurstScheduling scheduling_;
  uint32_t packets_of_wake_ = 0;
  std::vector<uint64_t> resets_;  // transactions waiting for in-flight commands to end
  EventRead doorbell_;
  std::function<void()> done_;
  std::thread thread_;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_STORAGE_CHANNEL_H_
