#include "vsp/storage/raw_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <utility>

#include "base/file_lock.h"

namespace partita::storage {
namespace {

constexpr size_t kBounceBuffers = 16;       // per queue; a request that finds none waits
constexpr size_t kBounceSize = 512u << 10;  // a whole transfer
constexpr size_t kBounceAlignment = 4096;

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
using BounceBuffer = std::unique_ptr<std::byte, FreeDeleter>;

void CopyIovecs(std::span<const iovec> iovecs, uint64_t skip, std::byte* buffer, uint64_t length,
                bool to_guest) {
  for (const iovec& v : iovecs) {
    if (length == 0) return;
    if (skip >= v.iov_len) {
      skip -= v.iov_len;
      continue;
    }
    const uint64_t chunk = std::min<uint64_t>(v.iov_len - skip, length);
    auto* guest = static_cast<std::byte*>(v.iov_base) + skip;
    if (to_guest) {
      std::memcpy(guest, buffer, chunk);
    } else {
      std::memcpy(buffer, guest, chunk);
    }
    buffer += chunk;
    length -= chunk;
    skip = 0;
  }
}

struct DirectAlignment {
  uint32_t memory = 4096, offset = 4096;
};

// What O_DIRECT wants of this descriptor. Where the kernel does not say (before Linux 6.1, or the
// file system does not), a read of one 512-byte sector tells.
DirectAlignment AlignmentOf(int fd) {
  struct statx info {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0 && info.stx_dio_offset_align != 0) {
    return {.memory = info.stx_dio_mem_align, .offset = info.stx_dio_offset_align};
  }
  constexpr size_t kSector = 512;
  const std::unique_ptr<std::byte, FreeDeleter> sector(
      static_cast<std::byte*>(std::aligned_alloc(kBounceAlignment, kBounceAlignment)));
  if (pread(fd, sector.get(), kSector, kSector) < 0) return {};
  return {.memory = kSector, .offset = kSector};
}

}  // namespace

class RawFileQueue final : public BlockQueue, public FlushCombiner::Loop {
  struct Slot;

 public:
  RawFileQueue(RawFile& file, IoRing& ring, int fixed_file, LoopPoster post)
      : file_(file),
        ring_(ring),
        fixed_file_(fixed_file),
        post_(std::move(post)),
        thread_(std::this_thread::get_id()),
        counters_(file.counters_) {}

  void Submit(std::span<BlockRequest* const> requests) override {
    for (BlockRequest* request : requests) Start(*request);
  }

  // FlushCombiner::Loop. In Join and Finish of this loop they come at once, else by way of its
  // inbox.
  void Lead() override {
    if (std::this_thread::get_id() != thread_.load(std::memory_order_relaxed))
      return post_([this] { IssueFlush(); });
    IssueFlush();
  }
  void Flushed(void* waiter, int error) override {
    auto* slot = static_cast<Slot*>(waiter);
    if (std::this_thread::get_id() != thread_.load(std::memory_order_relaxed)) {
      return post_([this, slot, error] { EndFlush(*slot, error); });
    }
    EndFlush(*slot, error);
  }

 private:
  // The fdatasync that this loop leads; at most one of a disk is under way.
  struct FlushOp final : IoRing::Op {
    explicit FlushOp(RawFileQueue& q) : queue(q) {}
    // An interrupted one may have taken the error with it: anything but 0 has failed.
    void OnComplete(int32_t result, uint32_t) override {
      queue.file_.flushes_.Finish(result < 0 ? -result : 0);
    }
    RawFileQueue& queue;
  };

  void IssueFlush() {
    io_uring_sqe* sqe = ring_.Prepare(&flush_);
    if (sqe == nullptr) return file_.flushes_.Finish(EAGAIN);
    sqe->opcode = IORING_OP_FSYNC;
    sqe->fd = fixed_file_;
    sqe->fsync_flags = IORING_FSYNC_DATASYNC;
  }

  void Join(Slot& slot) {
    thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    file_.flushes_.Join(*this, &slot);
  }

  void EndFlush(Slot& slot, int error) {
    slot.request->not_durable = error != 0;
    End(slot, error);
  }

  // One request at the kernel.
  struct Slot final : IoRing::Op {
    explicit Slot(RawFileQueue& q) : queue(q) {}
    void OnComplete(int32_t result, uint32_t) override { queue.Finish(*this, result); }
    RawFileQueue& queue;
    BlockRequest* request = nullptr;
    BounceBuffer bounce;
    iovec single{};
    std::vector<iovec> rest;  // what is left after a short transfer
  };

  void Start(BlockRequest& request) {
    if (free_.empty()) {
      slots_.push_back(std::make_unique<Slot>(*this));
      free_.push_back(slots_.back().get());
    }
    Slot* slot = free_.back();
    if (NeedsBounce(request) && !slot->bounce) {
      if (bounce_free_.empty() && bounce_made_ == kBounceBuffers) {
        waiting_.push_back(&request);
        return;
      }
      if (bounce_free_.empty()) {
        ++bounce_made_;
        bounce_free_.emplace_back(
            static_cast<std::byte*>(std::aligned_alloc(kBounceAlignment, kBounceSize)));
      }
      slot->bounce = std::move(bounce_free_.back());
      bounce_free_.pop_back();
      counters_->bounced.Add();
    }
    free_.pop_back();
    slot->request = &request;
    Issue(*slot);
  }

  [[nodiscard]] bool NeedsBounce(const BlockRequest& request) const {
    if (!file_.direct_ || (request.op != BlockOp::kRead && request.op != BlockOp::kWrite)) {
      return false;
    }
    const uintptr_t mask = file_.properties_.memory_alignment - 1;
    return std::any_of(request.iovecs.begin(), request.iovecs.end(), [&](const iovec& v) {
      return ((reinterpret_cast<uintptr_t>(v.iov_base) | v.iov_len) & mask) != 0;
    });
  }

  void Issue(Slot& slot) {
    BlockRequest& request = *slot.request;
    if (request.op == BlockOp::kFlush) return Join(slot);
    io_uring_sqe* sqe = ring_.Prepare(&slot);
    if (sqe == nullptr) return End(slot, EAGAIN);
    sqe->fd = fixed_file_;
    const uint64_t left = request.length - request.done;
    switch (request.op) {
      case BlockOp::kRead:
      case BlockOp::kWrite: {
        const bool write = request.op == BlockOp::kWrite;
        std::span<const iovec> iovecs = request.iovecs;
        if (slot.bounce) {
          const uint64_t chunk = std::min<uint64_t>(left, kBounceSize);
          if (write) CopyIovecs(request.iovecs, request.done, slot.bounce.get(), chunk, false);
          slot.single = {.iov_base = slot.bounce.get(), .iov_len = chunk};
          iovecs = std::span(&slot.single, 1);
        } else if (request.done != 0) {
          Skip(request, slot.rest);
          iovecs = slot.rest;
        }
        if (iovecs.size() == 1) {
          sqe->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
          sqe->addr = reinterpret_cast<uintptr_t>(iovecs[0].iov_base);
          sqe->len = static_cast<uint32_t>(iovecs[0].iov_len);
        } else {
          sqe->opcode = write ? IORING_OP_WRITEV : IORING_OP_READV;
          sqe->addr = reinterpret_cast<uintptr_t>(iovecs.data());
          sqe->len = static_cast<uint32_t>(iovecs.size());
        }
        sqe->off = request.offset + request.done;
        break;
      }
      case BlockOp::kFlush:
        break;  // not here
      case BlockOp::kDiscard:
      case BlockOp::kWriteZeroes:
        sqe->opcode = IORING_OP_FALLOCATE;
        sqe->off = request.offset;
        sqe->addr = request.length;
        sqe->len = FALLOC_FL_KEEP_SIZE |
                   (request.op == BlockOp::kDiscard ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
        break;
    }
  }

  static void Skip(const BlockRequest& request, std::vector<iovec>& rest) {
    rest.clear();
    uint64_t skip = request.done;
    for (const iovec& v : request.iovecs) {
      if (skip >= v.iov_len) {
        skip -= v.iov_len;
        continue;
      }
      rest.push_back({static_cast<std::byte*>(v.iov_base) + skip, v.iov_len - skip});
      skip = 0;
    }
  }

  void Finish(Slot& slot, int32_t result) {
    BlockRequest& request = *slot.request;
    const bool transfer = request.op == BlockOp::kRead || request.op == BlockOp::kWrite;
    if (result == -EINTR || result == -EAGAIN) return Issue(slot);
    if (result < 0) {
      // A file system without zero ranges: punching a hole reads as zeroes too.
      if (request.op == BlockOp::kWriteZeroes && result == -EOPNOTSUPP) {
        request.op = BlockOp::kDiscard;
        return Issue(slot);
      }
      return End(slot, -result);
    }
    if (!transfer) {
      request.done = request.length;
      return End(slot, 0);
    }
    if (result == 0) return End(slot, EIO);  // the file became shorter behind our back
    if (slot.bounce && request.op == BlockOp::kRead) {
      CopyIovecs(request.iovecs, request.done, slot.bounce.get(), static_cast<uint64_t>(result),
                 true);
    }
    request.done += static_cast<uint64_t>(result);
    if (request.done < request.length) {
      counters_->short_transfers.Add();
      return Issue(slot);
    }
    // FUA: a plain write, then the flush that everybody's durability goes through.
    if (request.fua && request.op == BlockOp::kWrite) return Join(slot);
    End(slot, 0);
  }

  void Count(const BlockRequest& request, int error) {
    auto& c = *counters_;
    if (error != 0) return c.errors.Add();
    switch (request.op) {
      case BlockOp::kRead:
        c.reads.Add();
        return c.read_bytes.Add(request.length);
      case BlockOp::kWrite:
        c.writes.Add();
        return c.written_bytes.Add(request.length);
      case BlockOp::kFlush:
        return c.flushes.Add();
      case BlockOp::kDiscard:
        return c.discards.Add();
      case BlockOp::kWriteZeroes:
        return c.zeroes.Add();
    }
  }

  void End(Slot& slot, int error) {
    BlockRequest& request = *std::exchange(slot.request, nullptr);
    if (slot.bounce) bounce_free_.push_back(std::move(slot.bounce));
    free_.push_back(&slot);
    Count(request, error);
    request.owner->OnBlockDone(request, error);
    if (!waiting_.empty() && !bounce_free_.empty()) {
      BlockRequest* next = waiting_.front();
      waiting_.pop_front();
      Start(*next);
    }
  }

  RawFile& file_;
  IoRing& ring_;
  const int fixed_file_;
  const LoopPoster post_;
  std::atomic<std::thread::id> thread_;  // of the loop; Join says which
  const PerLoop<RawFile::Counters>::Lease counters_;
  FlushOp flush_{*this};
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_;
  std::vector<BounceBuffer> bounce_free_;
  size_t bounce_made_ = 0;
  std::deque<BlockRequest*> waiting_;  // for a bounce buffer
};

absl::StatusOr<std::unique_ptr<RawFile>> RawFile::Create(UniqueFd fd, const Options& options) {
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return SystemError("reading the disk's size");
  BlockProperties properties;
  properties.read_only = options.read_only;
  properties.logical_block = options.logical_block;
  properties.discard = !options.read_only;
  if (S_ISBLK(info.st_mode)) {
    if (ioctl(fd.get(), BLKGETSIZE64, &properties.size) != 0) {
      return SystemError("reading the block device's size");
    }
    unsigned physical = 0;
    if (ioctl(fd.get(), BLKPBSZGET, &physical) == 0) properties.physical_block = physical;
  } else if (S_ISREG(info.st_mode)) {
    properties.size = static_cast<uint64_t>(info.st_size);
  } else {
    return InvalidArgument("a disk must be a regular file or a block device");
  }
  if (!options.any_size && (properties.size == 0 || properties.size % options.logical_block != 0)) {
    return InvalidArgument("the disk's size of " + std::to_string(properties.size) +
                           " bytes is not a positive multiple of its sector size of " +
                           std::to_string(options.logical_block));
  }
  if (options.direct) {
    const DirectAlignment alignment = AlignmentOf(fd.get());
    properties.memory_alignment = alignment.memory;
    if (alignment.offset > options.logical_block) {
      return InvalidArgument(
          "direct I/O (cache=none) works in units of " + std::to_string(alignment.offset) +
          " bytes here: give the disk logical=" + std::to_string(alignment.offset) +
          ", or cache it");
    }
  }
  return std::unique_ptr<RawFile>(new RawFile(std::move(fd), properties, options.direct));
}

RawFile::~RawFile() { ReleaseFileLock(fd_.get()); }

std::vector<uint8_t> RawFile::opcodes() const {
  return {IORING_OP_READ,   IORING_OP_READV, IORING_OP_WRITE,
          IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
}

absl::StatusOr<std::unique_ptr<BlockQueue>> RawFile::OpenQueue(IoRing& ring, int first_file,
                                                               LoopPoster post) {
  return std::make_unique<RawFileQueue>(*this, ring, first_file, std::move(post));
}

absl::Status RawFile::Sync() {
  if (properties_.read_only) return absl::OkStatus();
  const int error = flushes_.Run([this] { return fdatasync(fd_.get()) == 0 ? 0 : errno; });
  return error == 0 ? absl::OkStatus() : SystemError("flushing a disk", error);
}

void RawFile::Counters::DescribeTo(StatSink& sink) const {
  sink.Add("disk.reads", reads);
  sink.Add("disk.writes", writes);
  sink.Add("disk.flushes", flushes);
  sink.Add("disk.discards", discards);
  sink.Add("disk.zeroes", zeroes);
  sink.Add("disk.read_bytes", read_bytes);
  sink.Add("disk.written_bytes", written_bytes);
  sink.Add("disk.short_transfers", short_transfers);
  sink.Add("disk.bounced", bounced);
  sink.Add("disk.errors", errors);
}

void RawFile::DescribeTo(StatSink& sink) const {
  counters_.ForEach([&](const Counters& counters) { counters.DescribeTo(sink); });
}

}  // namespace partita::storage
