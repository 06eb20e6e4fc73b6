#include "base/io_ring.h"

#include <array>
#include <vector>

namespace partita {

absl::StatusOr<std::unique_ptr<IoRing>> IoRing::Create(const Options& options) {
  std::unique_ptr<IoRing> ring(new IoRing);
  io_uring_params params{};
  params.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
                 IORING_SETUP_DEFER_TASKRUN;
  params.cq_entries = options.entries * 4;
  int result = io_uring_queue_init_params(options.entries, &ring->ring_, &params);
  if (result == -EINVAL) {  // before Linux 6.1
    params = {};
    params.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE;
    params.cq_entries = options.entries * 4;
    result = io_uring_queue_init_params(options.entries, &ring->ring_, &params);
  }
  if (result < 0) return SystemError("creating an io_uring", -result);
  ring->live_ = true;
  result = io_uring_register_files(&ring->ring_, options.files.data(),
                                   static_cast<unsigned>(options.files.size()));
  if (result < 0) return SystemError("registering files with io_uring", -result);

  std::vector<io_uring_restriction> restrictions;
  for (const uint8_t opcode : options.opcodes) {
    io_uring_restriction& entry = restrictions.emplace_back();
    entry.opcode = IORING_RESTRICTION_SQE_OP;
    entry.sqe_op = opcode;
  }
  io_uring_restriction& allowed = restrictions.emplace_back();
  allowed.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  allowed.sqe_flags = IOSQE_FIXED_FILE | (options.links ? IOSQE_IO_HARDLINK : 0);
  io_uring_restriction& required = restrictions.emplace_back();
  required.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  required.sqe_flags = IOSQE_FIXED_FILE;
  result = io_uring_register_restrictions(&ring->ring_, restrictions.data(),
                                          static_cast<unsigned>(restrictions.size()));
  if (result < 0) return SystemError("restricting an io_uring", -result);
  return ring;
}

IoRing::~IoRing() {
  if (live_) io_uring_queue_exit(&ring_);
}

absl::Status IoRing::Enable() {
  const int result = io_uring_enable_rings(&ring_);
  return result < 0 ? SystemError("enabling an io_uring", -result) : absl::OkStatus();
}

io_uring_sqe* IoRing::Prepare(Op* op) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    Submit(0);
    sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return nullptr;
  }
  // Callers fill the fields themselves: liburing's prep helpers would clear these two again.
  *sqe = {};
  sqe->flags = IOSQE_FIXED_FILE;
  sqe->user_data = reinterpret_cast<uintptr_t>(op);
  return sqe;
}

int IoRing::Submit(unsigned wait_for, int64_t timeout_ns) {
  ++system_calls_;
  int result = 0;
  if (wait_for > 0 && timeout_ns > 0) {
    __kernel_timespec timeout{.tv_sec = timeout_ns / 1000000000,
                              .tv_nsec = timeout_ns % 1000000000};
    io_uring_cqe* cqe = nullptr;
    result = io_uring_submit_and_wait_timeout(&ring_, &cqe, wait_for, &timeout, nullptr);
  } else if (wait_for > 0) {
    result = io_uring_submit_and_wait(&ring_, wait_for);
  } else {
    result = io_uring_submit_and_get_events(&ring_);
  }
  if (result == -ETIME || result == -EINTR || result == -EAGAIN || result == -EBUSY) return 0;
  return result < 0 ? result : 0;
}

unsigned IoRing::Reap() {
  std::array<io_uring_cqe*, 64> batch{};
  unsigned total = 0;
  while (true) {
    const unsigned count = io_uring_peek_batch_cqe(&ring_, batch.data(), batch.size());
    if (count == 0) return total;
    // Results are copied out and the slots given back first: a callback may submit.
    struct Done {
      Op* op;
      int32_t result;
      uint32_t flags;
    };
    std::array<Done, 64> done{};
    for (unsigned i = 0; i < count; ++i) {
      done[i] = {reinterpret_cast<Op*>(static_cast<uintptr_t>(batch[i]->user_data)), batch[i]->res,
                 batch[i]->flags};
    }
    io_uring_cq_advance(&ring_, count);
    total += count;
    for (unsigned i = 0; i < count; ++i) {
      if (done[i].op != nullptr) done[i].op->OnComplete(done[i].result, done[i].flags);
    }
  }
}

}  // namespace partita
