// A layer that injects faults into another backend: errors by kind of operation, a full disk,
// requests held back. For tests; switches may be turned from any thread.
#ifndef PARTITA_VSP_STORAGE_FAULT_BACKEND_H_
#define PARTITA_VSP_STORAGE_FAULT_BACKEND_H_

#include <array>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "vsp/storage/block_backend.h"

namespace partita::storage {

// What to do to requests; shared by the test and the backend.
struct FaultPlan {
  static constexpr size_t kOps = 5;
  // errno for each kind of operation; 0 passes it on.
  std::array<std::atomic<int>, kOps> error{};
  void Fail(BlockOp op, int value) { error[static_cast<size_t>(op)].store(value); }
  [[nodiscard]] int ErrorOf(BlockOp op) const { return error[static_cast<size_t>(op)].load(); }
  // Requests that arrive while this is set wait; they go on at the next request or flush after it
  // is cleared.
  std::atomic<bool> hold = false;
  std::atomic<uint64_t> held = 0, seen = 0;
};

class FaultBackend : public BlockBackend {
 public:
  FaultBackend(std::unique_ptr<BlockBackend> below, std::shared_ptr<FaultPlan> plan)
      : below_(std::move(below)), plan_(std::move(plan)) {}

  [[nodiscard]] const BlockProperties& properties() const override { return below_->properties(); }
  [[nodiscard]] std::vector<int> files() const override { return below_->files(); }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return below_->opcodes(); }
  absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing& ring, int first_file,
                                                        LoopPoster post) override {
    ASSIGN_OR_RETURN(auto queue, below_->OpenQueue(ring, first_file, std::move(post)));
    return std::make_unique<Queue>(std::move(queue), *plan_);
  }
  [[nodiscard]] absl::Status Sync() override {
    if (const int error = plan_->ErrorOf(BlockOp::kFlush); error != 0) {
      return SystemError("flushing a disk", error);
    }
    return below_->Sync();
  }
  void DescribeTo(StatSink& sink) const override { below_->DescribeTo(sink); }

 private:
  class Queue : public BlockQueue {
   public:
    Queue(std::unique_ptr<BlockQueue> below, FaultPlan& plan)
        : below_(std::move(below)), plan_(plan) {}
    void Submit(std::span<BlockRequest* const> requests) override {
      if (!plan_.hold.load() && !held_.empty()) {
        const auto released = std::exchange(held_, {});
        plan_.held.fetch_sub(released.size());
        below_->Submit(released);
      }
      for (BlockRequest* request : requests) {
        plan_.seen.fetch_add(1);
        if (plan_.hold.load()) {
          held_.push_back(request);
          plan_.held.fetch_add(1);
        } else if (const int error = plan_.ErrorOf(request->op); error != 0) {
          request->owner->OnBlockDone(*request, error);
        } else {
          below_->Submit(std::span(&request, 1));
        }
      }
    }

   private:
    std::unique_ptr<BlockQueue> below_;
    FaultPlan& plan_;
    std::vector<BlockRequest*> held_;
  };

  std::unique_ptr<BlockBackend> below_;
  std::shared_ptr<FaultPlan> plan_;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_FAULT_BACKEND_H_
