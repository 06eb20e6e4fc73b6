// A VHDX image as a guest's disk: fixed, dynamic or differencing, with a log of our own.
//
// What is written where, and when. New blocks are taken at the end of the file, which reads as
// zeroes, so a block may be named by the table before its data is durable. The table and the sector
// bitmaps change in memory at once and in the file at the guest's next flush: their changed pages
// go into the log, one flush makes the log and all data durable, then the pages are written in
// their places. Sector bits of a differencing disk may name only data that is durable already: such
// a commit flushes once more before. A discarded block reads as zeroes and keeps its place for as
// long as the disk is open, so that nothing which is still in flight can meet another block's data.
//
// The first change gives the file a new FileWriteGuid and DataWriteGuid and starts a log; closing
// it in order ends the log. A file whose log was not ended is replayed when it is opened: into the
// file, or into memory if it is opened read-only.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_DISK_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_DISK_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/counters.h"
#include "base/mutex.h"
#include "vsp/storage/block/mapped_disk.h"
#include "vsp/storage/block/vhdx/block_map.h"
#include "vsp/storage/block/vhdx/log_ring.h"

namespace partita::vhdx {

class VhdxDisk final : public storage::MappedDisk {
 public:
  // The most files that a chain may have.
  static constexpr size_t kMaxChain = 64;

  // `chain` begins with the disk's own file; each file's parent follows it, and parents are only
  // read. Blocks. INVALID_ARGUMENT for what is damaged, FAILED_PRECONDITION where a parent is
  // missing or is not the one that the child was made from.
  static absl::StatusOr<std::unique_ptr<VhdxDisk>> Open(std::vector<storage::MappedFile> chain,
                                                        bool read_only);
  // Closes in order: everything durable, no log. Blocks. No queue is open any more.
  ~VhdxDisk() override;

  [[nodiscard]] const Layout& layout() const { return top().layout(); }

 private:
  // What the first change gives the file.
  struct Identities {
    Guid file_write{}, data_write{}, log{};
  };
  VhdxDisk(std::vector<storage::MappedFile> chain, const storage::BlockProperties& properties,
           const Identities& identities, std::vector<std::unique_ptr<BlockMap>> maps);

  [[nodiscard]] Piece MapRead(uint64_t offset, uint64_t length) const override;
  [[nodiscard]] int MapWrite(uint64_t offset, uint64_t length, Piece* piece) override;
  [[nodiscard]] int MapZeroes(storage::BlockOp op, uint64_t offset, uint64_t length,
                              Piece* piece) override;
  void Wrote(storage::BlockOp op, uint64_t offset, uint64_t length) override;
  [[nodiscard]] bool writable() const override { return writable_.load(std::memory_order_acquire); }
  void RequestWritable() override;
  [[nodiscard]] std::vector<Step> BeginCommit() override;
  void EndCommit(int error) override;
  void DescribeFormatTo(StatSink& sink) const override;

  [[nodiscard]] BlockMap& top() const { return *maps_[0]; }
  [[nodiscard]] bool WholeBlock(uint64_t offset, uint64_t length) const;
  // Gives a block a place: 0 or an errno.
  int Allocate(uint64_t block);
  int MakeBitmap(uint64_t block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Room at the end of the file.
  int Take(uint64_t length, uint64_t* offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Put(uint64_t entry, const BatEntry& value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkWritten(uint64_t offset, uint64_t length);
  void StartLog(std::vector<Step>& steps) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LogChanges(std::vector<Step>& steps) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Close();

  const Identities identities_;
  std::vector<std::unique_ptr<BlockMap>> maps_;  // of each layer
  std::vector<uint64_t> file_sizes_;             // of the parents, which do not change

  std::atomic<bool> writable_ = false;
  mutable Mutex mutex_;
  bool want_writable_ ABSL_GUARDED_BY(mutex_) = false;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;  // a commit: the log is left as it is
  CurrentHeader header_ ABSL_GUARDED_BY(mutex_);
  CurrentHeader next_header_ ABSL_GUARDED_BY(mutex_);  // of the commit under way
  std::unique_ptr<LogRing> log_ ABSL_GUARDED_BY(mutex_);
  uint64_t end_ ABSL_GUARDED_BY(mutex_) = 0;          // of the file, whole MiB
  uint64_t durable_end_ ABSL_GUARDED_BY(mutex_) = 0;  // as the last commit left it
  uint64_t commit_end_ ABSL_GUARDED_BY(mutex_) = 0;   // as the commit under way began
  std::set<uint64_t> changed_table_pages_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> changed_bitmap_pages_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint64_t> kept_places_ ABSL_GUARDED_BY(mutex_);  // of discarded blocks
  Counter allocated_, discarded_, filled_, log_rounds_;
};

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_DISK_H_
