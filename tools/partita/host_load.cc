#include "tools/partita/host_load.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <memory>
#include <vector>

#include "base/counters.h"
#include "base/io_ring.h"
#include "base/monotonic.h"
#include "base/unique_fd.h"

namespace partita {
namespace {

class Load;
struct Slot final : IoRing::Op {
  void OnComplete(int32_t result, uint32_t flags) override;
  Load* load = nullptr;
  std::byte* buffer = nullptr;
  uint64_t started = 0;
};

class Load {
 public:
  explicit Load(const HostLoad& options)
      : options_(options),
        slots_of_disk_(options.bytes / options.block_size),
        state_(options.seed),
        slots_(options.depth) {}

  absl::StatusOr<LoadResult> Run() {
    // As guest RAM is: anonymous, aligned, huge where the host allows it.
    constexpr size_t kHugePage = 2 << 20;
    const size_t size = size_t{options_.depth} * options_.block_size;
    const size_t whole = (size + kHugePage - 1) / kHugePage * kHugePage;
    ASSIGN_OR_RETURN(buffers_, Mapping::Map(whole + kHugePage, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1));
    buffers_.Trim(kHugePage, whole);
    madvise(buffers_.data(), whole, MADV_HUGEPAGE);
    const int files[] = {options_.fd};
    const uint8_t opcodes[] = {IORING_OP_READ, IORING_OP_WRITE};
    ASSIGN_OR_RETURN(ring_, IoRing::Create({.entries = 512, .files = files, .opcodes = opcodes}));
    RETURN_IF_ERROR(ring_->Enable());
    const double cpu = CpuSeconds(RUSAGE_THREAD);
    const uint64_t start = MonotonicNs();
    deadline_ = start + options_.milliseconds * 1'000'000;
    for (uint32_t i = 0; i < options_.depth; ++i) {
      slots_[i].load = this;
      slots_[i].buffer = buffers_.data() + size_t{i} * options_.block_size;
      Submit(slots_[i], start);
    }
    while (in_flight_ > 0) {
      if (const int error = ring_->Submit(1); error < 0) {
        return SystemError("running the host's load", -error);
      }
      now_ = MonotonicNs();
      ring_->Reap();
    }
    result_.nanoseconds = MonotonicNs() - start;
    result_.cpu_seconds = CpuSeconds(RUSAGE_THREAD) - cpu;
    result_.p50_ns = latency_.Quantile(0.5);
    result_.p99_ns = latency_.Quantile(0.99);
    result_.p999_ns = latency_.Quantile(0.999);
    return result_;
  }

  void OnDone(Slot& slot, int32_t result) {
    --in_flight_;
    ++result_.ios;
    if (result != static_cast<int32_t>(options_.block_size)) ++result_.errors;
    latency_.Record(now_ - slot.started);
    if (now_ < deadline_) Submit(slot, now_);
  }

 private:
  void Submit(Slot& slot, uint64_t now) {
    slot.started = now;
    ++in_flight_;
    io_uring_sqe* sqe = ring_->Prepare(&slot);
    sqe->opcode = options_.write ? IORING_OP_WRITE : IORING_OP_READ;
    sqe->fd = 0;
    sqe->addr = reinterpret_cast<uintptr_t>(slot.buffer);
    sqe->len = options_.block_size;
    sqe->off = Next() * options_.block_size;
  }
  uint64_t Next() {  // xorshift64, as in the guest
    if (!options_.random) return sequence_++ % slots_of_disk_;
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ % slots_of_disk_;
  }

  const HostLoad options_;
  const uint64_t slots_of_disk_;
  uint64_t state_, sequence_ = 0;
  std::vector<Slot> slots_;
  Mapping buffers_;
  std::unique_ptr<IoRing> ring_;
  Histogram latency_;
  LoadResult result_;
  uint64_t deadline_ = 0, now_ = 0;
  uint32_t in_flight_ = 0;
};

void Slot::OnComplete(int32_t result, uint32_t) { load->OnDone(*this, result); }

}  // namespace

double CpuSeconds(int who) {
  rusage usage{};
  getrusage(who, &usage);
  auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

absl::StatusOr<LoadResult> RunHostLoad(const HostLoad& load) {
  return std::make_unique<Load>(load)->Run();
}

}  // namespace partita
