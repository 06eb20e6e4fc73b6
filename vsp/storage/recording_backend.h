// A layer that records what a disk was asked to keep: every write with its data, every flush and
// discard, when it was begun and when it was done. From the record a test (tests/lab/power-cut)
// builds what would be left on the platter at any moment, if everything that no flush and no FUA
// had covered were lost.
//
// The record is a sequence of RecordHeader (24 bytes, little endian), each write's "begin" followed
// by its data. Recording is synchronous and slow, and ends with a message when its file is full.
#ifndef PARTITA_VSP_STORAGE_RECORDING_BACKEND_H_
#define PARTITA_VSP_STORAGE_RECORDING_BACKEND_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "vsp/storage/block_backend.h"

namespace partita::storage {

struct RecordHeader {
  uint8_t op = 0;     // BlockOp
  uint8_t flags = 0;  // of kRecord*
  uint16_t reserved = 0;
  uint32_t length = 0;  // bytes
  uint64_t offset = 0;  // bytes
  uint64_t id = 0;      // joins "begin" and "done"
};
static_assert(sizeof(RecordHeader) == 24);
inline constexpr uint8_t kRecordDone = 1;  // else: begin
inline constexpr uint8_t kRecordFua = 2;
inline constexpr uint8_t kRecordFailed = 4;  // with kRecordDone

class RecordingBackend : public BlockBackend {
 public:
  RecordingBackend(std::unique_ptr<BlockBackend> below, UniqueFd record)
      : below_(std::move(below)), record_(std::move(record)) {}

  [[nodiscard]] const BlockProperties& properties() const override { return below_->properties(); }
  [[nodiscard]] std::vector<int> files() const override { return below_->files(); }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return below_->opcodes(); }
  absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing& ring, int first_file,
                                                        LoopPoster post) override;
  [[nodiscard]] absl::Status Sync() override;
  void DescribeTo(StatSink& sink) const override { below_->DescribeTo(sink); }

 private:
  class Queue;
  // Appends one entry; returns its id. Any loop.
  uint64_t Begin(const BlockRequest& request);
  void Done(const BlockRequest& request, uint64_t id, int error);
  void Append(const RecordHeader& header, std::span<const iovec> data)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Put(const void* bytes, size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::unique_ptr<BlockBackend> below_;
  Mutex mutex_;
  UniqueFd record_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_RECORDING_BACKEND_H_
