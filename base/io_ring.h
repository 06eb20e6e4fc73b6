// One io_uring, owned by one loop thread. Nothing else in the project touches liburing.
//
// A ring is created disabled and gets IORING_REGISTER_RESTRICTIONS: only the opcodes named in
// Options and only registered files can ever be used through it, because a seccomp filter does not
// see what io_uring does. Create() may run on any thread; the thread that calls Enable() is the
// only one that may call the rest.
#ifndef PARTITA_BASE_IO_RING_H_
#define PARTITA_BASE_IO_RING_H_

#include <liburing.h>

#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"

namespace partita {

class IoRing {
 public:
  // An operation in flight. OnComplete gets the kernel's result (negative errno on failure) and may
  // queue more operations; the object must stay alive until then.
  class Op {
   public:
    virtual void OnComplete(int32_t result, uint32_t flags) = 0;

   protected:
    ~Op() = default;
  };

  struct Options {
    unsigned entries = 512;            // submission slots; completions get four times as many
    std::span<const int> files;        // become fixed files 0..n-1
    std::span<const uint8_t> opcodes;  // IORING_OP_* this ring may run
    bool links = false;                // hard links between operations are allowed
  };

  static absl::StatusOr<std::unique_ptr<IoRing>> Create(const Options& options);
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  absl::Status Enable();

  // A zeroed submission entry bound to `op` and marked as using a fixed file; the caller fills
  // opcode and operands itself (liburing's prep helpers would clear both). Submits what is queued
  // when the ring is full; null only if that makes no room.
  io_uring_sqe* Prepare(Op* op);
  // Submits everything queued and waits until `wait_for` completions are there (0: does not wait).
  // `timeout_ns` > 0 bounds the wait. Returns a negative errno only for errors other than time-out
  // and interruption.
  int Submit(unsigned wait_for, int64_t timeout_ns = 0);
  // Runs OnComplete for every completion that is there; returns how many.
  unsigned Reap();

  // Submission slots that are free.
  [[nodiscard]] unsigned space() { return io_uring_sq_space_left(&ring_); }
  [[nodiscard]] unsigned queued() { return io_uring_sq_ready(&ring_); }
  [[nodiscard]] uint64_t system_calls() const { return system_calls_; }

 private:
  IoRing() = default;
  io_uring ring_{};
  bool live_ = false;
  uint64_t system_calls_ = 0;
};

}  // namespace partita

#endif  // PARTITA_BASE_IO_RING_H_
