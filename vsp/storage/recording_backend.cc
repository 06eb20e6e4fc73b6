#include "vsp/storage/recording_backend.h"

#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/log.h"

namespace partita::storage {

// Passes requests on through copies of its own, because their end has to come here first.
class RecordingBackend::Queue : public BlockQueue, public BlockOwner {
 public:
  Queue(RecordingBackend& backend, std::unique_ptr<BlockQueue> below)
      : backend_(backend), below_(std::move(below)) {}

  void Submit(std::span<BlockRequest* const> requests) override {
    for (BlockRequest* request : requests) {
      if (free_.empty()) {
        all_.push_back(std::make_unique<Inner>());
        free_.push_back(all_.back().get());
      }
      Inner* inner = free_.back();
      free_.pop_back();
      static_cast<BlockRequest&>(*inner) = *request;
      inner->owner = this;
      inner->outer = request;
      inner->id = request->op == BlockOp::kRead ? 0 : backend_.Begin(*request);
      BlockRequest* one = inner;
      below_->Submit(std::span(&one, 1));
    }
  }

  void OnBlockDone(BlockRequest& request, int error) override {
    auto& inner = static_cast<Inner&>(request);
    if (inner.id != 0) backend_.Done(inner, inner.id, error);
    BlockRequest& outer = *inner.outer;
    outer.done = inner.done;
    outer.not_durable = inner.not_durable;
    free_.push_back(&inner);
    outer.owner->OnBlockDone(outer, error);
  }

 private:
  struct Inner : BlockRequest {
    BlockRequest* outer = nullptr;
    uint64_t id = 0;
  };
  RecordingBackend& backend_;
  std::unique_ptr<BlockQueue> below_;
  std::vector<std::unique_ptr<Inner>> all_;
  std::vector<Inner*> free_;
};

absl::StatusOr<std::unique_ptr<BlockQueue>> RecordingBackend::OpenQueue(IoRing& ring,
                                                                        int first_file,
                                                                        LoopPoster post) {
  ASSIGN_OR_RETURN(auto queue, below_->OpenQueue(ring, first_file, std::move(post)));
  return std::make_unique<Queue>(*this, std::move(queue));
}

absl::Status RecordingBackend::Sync() {
  BlockRequest flush;
  flush.op = BlockOp::kFlush;
  const uint64_t id = Begin(flush);
  absl::Status status = below_->Sync();
  Done(flush, id, status.ok() ? 0 : EIO);
  return status;
}

uint64_t RecordingBackend::Begin(const BlockRequest& request) {
  const bool write = request.op == BlockOp::kWrite;
  MutexLock lock(mutex_);
  const uint64_t id = next_id_++;
  Append({.op = static_cast<uint8_t>(request.op),
          .flags = static_cast<uint8_t>(request.fua ? kRecordFua : 0),
          .reserved = 0,
          .length = static_cast<uint32_t>(request.length),
          .offset = request.offset,
          .id = id},
         write ? request.iovecs : std::span<const iovec>());
  return id;
}

void RecordingBackend::Done(const BlockRequest& request, uint64_t id, int error) {
  MutexLock lock(mutex_);
  Append({.op = static_cast<uint8_t>(request.op),
          .flags = static_cast<uint8_t>(kRecordDone | (request.fua ? kRecordFua : 0) |
                                        (error != 0 ? kRecordFailed : 0)),
          .reserved = 0,
          .length = static_cast<uint32_t>(request.length),
          .offset = request.offset,
          .id = id},
         {});
}

void RecordingBackend::Append(const RecordHeader& header, std::span<const iovec> data) {
  Put(&header, sizeof(header));
  for (const iovec& v : data) Put(v.iov_base, v.iov_len);
}

void RecordingBackend::Put(const void* bytes, size_t size) {
  const auto* at = static_cast<const char*>(bytes);
  while (size > 0 && record_.valid()) {
    const ssize_t written = write(record_.get(), at, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      Log(std::string("the disk's record ends here: ") + strerror(errno));
      record_.Reset();
      return;
    }
    at += written;
    size -= static_cast<size_t>(written);
  }
}

}  // namespace partita::storage
