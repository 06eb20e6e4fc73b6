// A disk whose blocks lie somewhere in a chain of files: what the formats with a table of blocks
// have in common. The format says where a part of the disk lies and what has to become durable in
// which order; here a request is split at the borders of such parts, each part goes straight
// between the guest's memory and the file, and flushes of all loops are combined into one commit at
// a time.
//
// A part that is allocated costs one look at the format's table and no lock. Flushes, and the first
// write after opening, wait for a commit: a list of writes and flushes that one loop runs for all
// that wait (vsp/storage/flush_combiner.h). The files are backends themselves, so that what is done
// about short transfers, bounce buffers and failed flushes stands in one place.
#ifndef PARTITA_VSP_STORAGE_BLOCK_MAPPED_DISK_H_
#define PARTITA_VSP_STORAGE_BLOCK_MAPPED_DISK_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "vsp/storage/block/aligned_bytes.h"
#include "vsp/storage/block/image_file.h"
#include "vsp/storage/block_backend.h"
#include "vsp/storage/flush_combiner.h"

namespace partita::storage {

// One file of a chain: for opening, growing and closing it, and for a guest's I/O. Both are the
// same file; `image` may refer to `data`, which outlives it.
struct MappedFile {
  std::unique_ptr<BlockBackend> data;
  std::unique_ptr<ImageFile> image;
};

class MappedDisk : public BlockBackend {
 public:
  [[nodiscard]] const BlockProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files() const override;
  [[nodiscard]] std::vector<uint8_t> opcodes() const override;
  absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing& ring, int first_file,
                                                        LoopPoster post) override;
  [[nodiscard]] absl::Status Sync() override;
  void DescribeTo(StatSink& sink) const override;

 protected:
  // Where a part of the disk lies.
  struct Piece {
    enum class Kind : uint8_t { kData, kZeroes } kind = Kind::kZeroes;
    bool tell = false;    // the format wants to hear of its end: Wrote
    size_t layer = 0;     // of the chain; 0 is the disk itself
    uint64_t offset = 0;  // in that layer's file
    uint64_t length = 0;  // at most what was asked for, never 0
  };
  // A step of a commit. Steps are done in order.
  struct Step {
    uint64_t offset = 0;  // in the disk's own file
    AlignedBytes bytes;   // none: a flush
  };

  MappedDisk(std::vector<MappedFile> chain, const BlockProperties& properties)
      : properties_(properties), chain_(std::move(chain)) {}

  // The format. Offsets are the disk's, parts lie within it and are whole sectors. Any loop unless
  // it says otherwise; errors are errnos.
  [[nodiscard]] virtual Piece MapRead(uint64_t offset, uint64_t length) const = 0;
  // Finds a place first where there is none.
  [[nodiscard]] virtual int MapWrite(uint64_t offset, uint64_t length, Piece* piece) = 0;
  // Data pieces are to be zeroed by the file's own means; the others are zeroes already.
  [[nodiscard]] virtual int MapZeroes(BlockOp op, uint64_t offset, uint64_t length,
                                      Piece* piece) = 0;
  virtual void Wrote(BlockOp op, uint64_t offset, uint64_t length) = 0;
  // Whether changes may begin. If not, RequestWritable, and a commit makes it so.
  [[nodiscard]] virtual bool writable() const = 0;
  virtual void RequestWritable() = 0;
  // One commit at a time: what it has to do, and how that ended. Everything that was told by Wrote
  // or done by Map* before BeginCommit is durable after EndCommit(0).
  [[nodiscard]] virtual std::vector<Step> BeginCommit() = 0;
  virtual void EndCommit(int error) = 0;
  virtual void DescribeFormatTo(StatSink& sink) const = 0;

  BlockProperties properties_;
  std::vector<MappedFile> chain_;
  Mutex image_mutex_;  // over chain_[0].image while queues are open; the last lock to be taken

 private:
  friend class MappedQueue;
  struct Counters {
    LoopCounter requests, splits, commits, commit_bytes, waited_for_writable;
  };
  // A commit on the caller's thread: 0 or an errno.
  int CommitHere();
  FlushCombiner commits_;
  PerLoop<Counters> counters_;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_BLOCK_MAPPED_DISK_H_
