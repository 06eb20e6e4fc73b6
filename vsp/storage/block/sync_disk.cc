#include "vsp/storage/block/sync_disk.h"

#include <cerrno>
#include <utility>
#include <vector>

namespace partita::storage {

absl::StatusOr<std::unique_ptr<SyncDisk>> SyncDisk::Open(BlockBackend& disk) {
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  std::unique_ptr<SyncDisk> self(new SyncDisk(std::move(wake)));
  std::vector<int> files = {self->inbox_.fd()};
  for (const int fd : disk.files()) files.push_back(fd);
  std::vector<uint8_t> opcodes = disk.opcodes();
  opcodes.push_back(IORING_OP_READ);
  ASSIGN_OR_RETURN(self->ring_, IoRing::Create({.files = files, .opcodes = opcodes}));
  SyncDisk* raw = self.get();
  ASSIGN_OR_RETURN(self->queue_, disk.OpenQueue(*self->ring_, 1, [raw](std::function<void()> task) {
    raw->inbox_.Post(std::move(task));
  }));
  RETURN_IF_ERROR(self->ring_->Enable());
  return self;
}

SyncDisk::~SyncDisk() {
  static_cast<void>(Finish());
  queue_.reset();
  ring_.reset();  // the inbox's read is armed in it
  inbox_.Close();
}

void SyncDisk::OnBlockDone(BlockRequest&, int error) {
  --in_flight_;
  if (error_ == 0) error_ = error;
}

void SyncDisk::Start(BlockRequest& request) {
  request.owner = this;
  request.done = 0;
  ++in_flight_;
  BlockRequest* one = &request;
  queue_->Submit(std::span(&one, 1));
}

int SyncDisk::Finish() {
  while (in_flight_ > 0) {
    inbox_.Arm(*ring_);
    if (const int result = ring_->Submit(1); result < 0) return -result;
    ring_->Reap();
  }
  return std::exchange(error_, 0);
}

int SyncDisk::Run(BlockRequest request) {
  Start(request);
  return Finish();
}

int SyncDisk::Read(uint64_t offset, std::span<std::byte> bytes) {
  const iovec buffer = {.iov_base = bytes.data(), .iov_len = bytes.size()};
  return Run({.op = BlockOp::kRead,
              .offset = offset,
              .length = bytes.size(),
              .iovecs = std::span(&buffer, 1)});
}

int SyncDisk::Write(uint64_t offset, std::span<const std::byte> bytes, bool fua) {
  const iovec buffer = {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  return Run({.op = BlockOp::kWrite,
              .fua = fua,
              .offset = offset,
              .length = bytes.size(),
              .iovecs = std::span(&buffer, 1)});
}

int SyncDisk::Zero(BlockOp op, uint64_t offset, uint64_t length) {
  return Run({.op = op, .offset = offset, .length = length, .iovecs = {}});
}

int SyncDisk::Flush() { return Run({.op = BlockOp::kFlush, .iovecs = {}}); }

}  // namespace partita::storage
