#include "vsp/storage/block/mapped_disk.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <set>
#include <thread>
#include <utility>

namespace partita::storage {
namespace {

// Of one request at a time. A chain whose layers alternate sector by sector makes many.
constexpr unsigned kMostPieces = 64;

}  // namespace

class MappedQueue final : public BlockQueue, public FlushCombiner::Loop {
  using Piece = MappedDisk::Piece;

  // A request on its way.
  struct Outer {
    BlockRequest* request = nullptr;
    uint64_t at = 0;        // bytes of it that were started
    size_t iovec = 0;       // where that is in its iovecs
    size_t iovec_from = 0;  // and in that one
    unsigned pieces = 0;    // in flight
    int error = 0;
    bool starting = false;
  };
  struct Inner final : BlockRequest {
    Outer* outer = nullptr;
    bool tell = false;
    uint64_t disk_offset = 0;
    std::vector<iovec> slice;
  };

 public:
  MappedQueue(MappedDisk& disk, std::vector<std::unique_ptr<BlockQueue>> files, LoopPoster post)
      : disk_(disk),
        files_(std::move(files)),
        post_(std::move(post)),
        thread_(std::this_thread::get_id()),
        counters_(disk.counters_) {}

  void Submit(std::span<BlockRequest* const> requests) override {
    for (BlockRequest* request : requests) Start(*request);
  }

  // FlushCombiner::Loop; see RawFileQueue.
  void Lead() override {
    if (!OnLoop()) return post_([this] { RunCommit(); });
    RunCommit();
  }
  void Flushed(void* waiter, int error) override {
    auto* outer = static_cast<Outer*>(waiter);
    if (!OnLoop()) return post_([this, outer, error] { EndWait(outer, error); });
    EndWait(outer, error);
  }

 private:
  // The steps of the commit that this loop runs.
  struct CommitOwner final : BlockOwner {
    explicit CommitOwner(MappedQueue& q) : queue(q) {}
    void OnBlockDone(BlockRequest&, int error) override { queue.StepDone(error); }
    MappedQueue& queue;
  };
  struct PieceOwner final : BlockOwner {
    explicit PieceOwner(MappedQueue& q) : queue(q) {}
    void OnBlockDone(BlockRequest& request, int error) override {
      queue.PieceDone(static_cast<Inner&>(request), error);
    }
    MappedQueue& queue;
  };

  [[nodiscard]] bool OnLoop() const {
    return std::this_thread::get_id() == thread_.load(std::memory_order_relaxed);
  }
  // `outer`: whose request waits; null: those that wait until the disk is writable.
  void Join(Outer* outer) {
    thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    disk_.commits_.Join(*this, outer);
  }

  // --- requests ---

  void Start(BlockRequest& request) {
    counters_->requests.Add();
    const bool changes = request.op != BlockOp::kRead && request.op != BlockOp::kFlush;
    if (changes && !disk_.writable()) {
      if (disk_.properties_.read_only) return request.owner->OnBlockDone(request, EROFS);
      counters_->waited_for_writable.Add();
      waiting_.push_back(&request);
      if (waiting_.size() > 1) return;
      disk_.RequestWritable();
      return Join(nullptr);
    }
    Outer& outer = TakeOuter();
    outer.request = &request;
    if (request.op == BlockOp::kFlush) return Join(&outer);
    Continue(outer);
  }

  // Starts pieces until all of the request is under way or enough are.
  void Continue(Outer& outer) {
    BlockRequest& request = *outer.request;
    outer.starting = true;
    while (outer.at < request.length && outer.pieces < kMostPieces && outer.error == 0) {
      Piece piece;
      outer.error = Map(request, request.offset + outer.at, request.length - outer.at, &piece);
      if (outer.error != 0) break;
      StartPiece(outer, piece);
    }
    outer.starting = false;
    if (outer.pieces == 0 && (outer.at == request.length || outer.error != 0)) Finish(outer);
  }

  int Map(const BlockRequest& request, uint64_t offset, uint64_t length, Piece* piece) {
    switch (request.op) {
      case BlockOp::kRead:
        *piece = disk_.MapRead(offset, length);
        return 0;
      case BlockOp::kWrite:
        return disk_.MapWrite(offset, length, piece);
      case BlockOp::kFlush:
      case BlockOp::kDiscard:
      case BlockOp::kWriteZeroes:
        break;
    }
    return disk_.MapZeroes(request.op, offset, length, piece);
  }

  void StartPiece(Outer& outer, const Piece& piece) {
    const BlockRequest& request = *outer.request;
    const uint64_t disk_offset = request.offset + outer.at;
    outer.at += piece.length;
    const bool transfer = request.op == BlockOp::kRead || request.op == BlockOp::kWrite;
    if (piece.kind == Piece::Kind::kZeroes) {
      if (transfer) {
        EachIovec(outer, piece.length,
                  [](const iovec& v) { std::memset(v.iov_base, 0, v.iov_len); });
      }
      return;
    }
    Inner& inner = TakeInner();
    inner.outer = &outer;
    inner.op = request.op;
    inner.offset = piece.offset;
    inner.length = piece.length;
    inner.done = 0;
    inner.not_durable = false;
    inner.tell = piece.tell;
    inner.disk_offset = disk_offset;
    inner.iovecs = {};
    if (transfer && piece.length == request.length) {
      inner.iovecs = request.iovecs;
    } else if (transfer) {
      counters_->splits.Add();
      inner.slice.clear();
      EachIovec(outer, piece.length, [&](const iovec& v) { inner.slice.push_back(v); });
      inner.iovecs = inner.slice;
    }
    ++outer.pieces;
    BlockRequest* one = &inner;
    files_[piece.layer]->Submit(std::span(&one, 1));
  }

  // The next `length` bytes of the request's buffer.
  template <typename Use>
  static void EachIovec(Outer& outer, uint64_t length, Use use) {
    while (length > 0) {
      const iovec& v = outer.request->iovecs[outer.iovec];
      const size_t chunk = std::min<uint64_t>(length, v.iov_len - outer.iovec_from);
      if (chunk > 0) use(iovec{static_cast<std::byte*>(v.iov_base) + outer.iovec_from, chunk});
      length -= chunk;
      outer.iovec_from += chunk;
      if (outer.iovec_from == v.iov_len) {
        ++outer.iovec;
        outer.iovec_from = 0;
      }
    }
  }

  void PieceDone(Inner& inner, int error) {
    Outer& outer = *inner.outer;
    if (error == 0 && inner.tell) {
      disk_.Wrote(outer.request->op, inner.disk_offset, inner.length);
    }
    if (error != 0 && outer.error == 0) outer.error = error;
    --outer.pieces;
    free_inner_.push_back(&inner);
    if (!outer.starting) Continue(outer);
  }

  void Finish(Outer& outer) {
    const BlockRequest& request = *outer.request;
    if (outer.error == 0 && request.fua && request.op == BlockOp::kWrite) return Join(&outer);
    End(outer, outer.error);
  }

  void End(Outer& outer, int error) {
    BlockRequest& request = *outer.request;
    // A request that failed is begun anew when it comes again: its pieces ended in any order.
    request.done = error == 0 ? request.length : 0;
    free_outer_.push_back(&outer);
    request.owner->OnBlockDone(request, error);
  }

  void EndWait(Outer* outer, int error) {
    if (outer != nullptr) {
      outer->request->not_durable = error != 0;
      return End(*outer, error);
    }
    for (BlockRequest* request : std::exchange(waiting_, {})) {
      if (error == 0) {
        Start(*request);
      } else {
        request->not_durable = true;
        request->owner->OnBlockDone(*request, error);
      }
    }
  }

  // --- commits ---

  void RunCommit() {
    counters_->commits.Add();
    steps_ = disk_.BeginCommit();
    next_step_ = 0;
    StepDone(0);
  }

  void StepDone(int error) {
    if (in_step_) {  // inside Submit: the loop below goes on
      step_error_ = error;
      step_done_ = true;
      return;
    }
    while (error == 0 && next_step_ < steps_.size()) {
      if (!StartStep(steps_[next_step_++])) return;
      error = step_error_;
    }
    steps_.clear();
    disk_.EndCommit(error);
    disk_.commits_.Finish(error);
  }

  // True if it has ended already; step_error_ says how.
  bool StartStep(const MappedDisk::Step& step) {
    const std::span<std::byte> bytes = step.bytes.span();
    counters_->commit_bytes.Add(bytes.size());
    commit_iovec_ = {.iov_base = bytes.data(), .iov_len = bytes.size()};
    commit_ = BlockRequest{};
    commit_.owner = &commit_owner_;
    commit_.op = bytes.empty() ? BlockOp::kFlush : BlockOp::kWrite;
    commit_.offset = step.offset;
    commit_.length = bytes.size();
    if (!bytes.empty()) commit_.iovecs = std::span(&commit_iovec_, 1);
    BlockRequest* one = &commit_;
    in_step_ = true;
    step_done_ = false;
    files_[0]->Submit(std::span(&one, 1));
    in_step_ = false;
    return step_done_;
  }

  // --- pools ---

  Outer& TakeOuter() {
    if (free_outer_.empty()) {
      outers_.push_back(std::make_unique<Outer>());
      free_outer_.push_back(outers_.back().get());
    }
    Outer& outer = *free_outer_.back();
    free_outer_.pop_back();
    outer = Outer{};
    return outer;
  }
  Inner& TakeInner() {
    if (free_inner_.empty()) {
      inners_.push_back(std::make_unique<Inner>());
      inners_.back()->owner = &piece_owner_;
      free_inner_.push_back(inners_.back().get());
    }
    Inner& inner = *free_inner_.back();
    free_inner_.pop_back();
    return inner;
  }

  MappedDisk& disk_;
  const std::vector<std::unique_ptr<BlockQueue>> files_;  // one for each layer
  const LoopPoster post_;
  std::atomic<std::thread::id> thread_;  // of the loop; Join says which
  const PerLoop<MappedDisk::Counters>::Lease counters_;
  PieceOwner piece_owner_{*this};
  CommitOwner commit_owner_{*this};
  std::vector<BlockRequest*> waiting_;  // until the disk is writable
  std::vector<MappedDisk::Step> steps_;
  size_t next_step_ = 0;
  bool in_step_ = false, step_done_ = false;
  int step_error_ = 0;
  BlockRequest commit_;
  iovec commit_iovec_{};
  std::vector<std::unique_ptr<Outer>> outers_;
  std::vector<Outer*> free_outer_;
  std::vector<std::unique_ptr<Inner>> inners_;
  std::vector<Inner*> free_inner_;
};

std::vector<int> MappedDisk::files() const {
  std::vector<int> all;
  for (const MappedFile& file : chain_) {
    const std::vector<int> of_file = file.data->files();
    all.insert(all.end(), of_file.begin(), of_file.end());
  }
  return all;
}

std::vector<uint8_t> MappedDisk::opcodes() const {
  std::set<uint8_t> all;
  for (const MappedFile& file : chain_) {
    for (const uint8_t opcode : file.data->opcodes()) all.insert(opcode);
  }
  return {all.begin(), all.end()};
}

absl::StatusOr<std::unique_ptr<BlockQueue>> MappedDisk::OpenQueue(IoRing& ring, int first_file,
                                                                  LoopPoster post) {
  std::vector<std::unique_ptr<BlockQueue>> queues;
  for (const MappedFile& file : chain_) {
    ASSIGN_OR_RETURN(queues.emplace_back(), file.data->OpenQueue(ring, first_file, post));
    first_file += static_cast<int>(file.data->files().size());
  }
  return std::make_unique<MappedQueue>(*this, std::move(queues), std::move(post));
}

int MappedDisk::CommitHere() {
  int error = 0;
  for (const Step& step : BeginCommit()) {
    const std::span<const std::byte> bytes = step.bytes.span();
    absl::Status done;
    if (bytes.empty()) {
      done = chain_[0].data->Sync();
    } else {
      MutexLock lock(image_mutex_);
      done = chain_[0].image->Write(step.offset, bytes);
    }
    if (done.ok()) continue;
    error = absl::IsResourceExhausted(done) ? ENOSPC : EIO;
    break;
  }
  EndCommit(error);
  return error;
}

absl::Status MappedDisk::Sync() {
  if (properties_.read_only) return absl::OkStatus();
  const int error = commits_.Run([this] { return CommitHere(); });
  return error == 0 ? absl::OkStatus() : SystemError("flushing a disk", error);
}

void MappedDisk::DescribeTo(StatSink& sink) const {
  counters_.ForEach([&](const Counters& counters) {
    sink.Add("image.requests", counters.requests);
    sink.Add("image.splits", counters.splits);
    sink.Add("image.commits", counters.commits);
    sink.Add("image.commit_bytes", counters.commit_bytes);
    sink.Add("image.waited_for_writable", counters.waited_for_writable);
  });
  DescribeFormatTo(sink);
  for (const MappedFile& file : chain_) file.data->DescribeTo(sink);
}

}  // namespace partita::storage
