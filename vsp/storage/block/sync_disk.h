// A backend used from one thread, one request after another: for tools and tests. Belongs to the
// thread that made it.
#ifndef PARTITA_VSP_STORAGE_BLOCK_SYNC_DISK_H_
#define PARTITA_VSP_STORAGE_BLOCK_SYNC_DISK_H_

#include <memory>
#include <span>

#include "vsp/loop_events.h"
#include "vsp/storage/block_backend.h"

namespace partita::storage {

class SyncDisk final : private BlockOwner {
 public:
  // `disk` is borrowed and outlives this.
  static absl::StatusOr<std::unique_ptr<SyncDisk>> Open(BlockBackend& disk);
  ~SyncDisk();

  // 0 or an errno. Whole sectors within the disk.
  int Read(uint64_t offset, std::span<std::byte> bytes);
  int Write(uint64_t offset, std::span<const std::byte> bytes, bool fua = false);
  int Zero(BlockOp op, uint64_t offset, uint64_t length);  // kDiscard or kWriteZeroes
  int Flush();

  // Several at once: Start them, then Finish waits for all. The requests' owner is this.
  void Start(BlockRequest& request);
  // The first error of those that were started.
  int Finish();

 private:
  explicit SyncDisk(EventFd wake) : inbox_(std::move(wake), 0) {}
  void OnBlockDone(BlockRequest& request, int error) override;
  int Run(BlockRequest request);

  LoopInbox inbox_;
  std::unique_ptr<IoRing> ring_;
  std::unique_ptr<BlockQueue> queue_;
  size_t in_flight_ = 0;
  int error_ = 0;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_BLOCK_SYNC_DISK_H_
