// Where a disk's blocks live. A backend is shared by all channel loops; each loop opens its own
// queue on its own io_uring, submits in batches and gets completions on that loop. Nothing above
// this interface knows of descriptors. Layers (fault injection, formats) implement the same
// interface over another backend.
#ifndef PARTITA_VSP_STORAGE_BLOCK_BACKEND_H_
#define PARTITA_VSP_STORAGE_BLOCK_BACKEND_H_

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/counters.h"
#include "base/io_ring.h"
#include "base/status.h"

namespace partita::storage {

enum class BlockOp : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

struct BlockRequest;

// Gets the end of a request: 0 or a positive errno. Runs on the loop that submitted it and may
// submit.
class BlockOwner {
 public:
  virtual void OnBlockDone(BlockRequest& request, int error) = 0;

 protected:
  ~BlockOwner() = default;
};

// One request; the owner keeps it alive and unchanged until OnBlockDone.
struct BlockRequest {
  BlockOwner* owner = nullptr;
  BlockOp op = BlockOp::kRead;
  bool fua = false;               // a write is durable when done
  uint64_t offset = 0;            // bytes
  uint64_t length = 0;            // bytes; the sum of the iovecs for reads and writes
  std::span<const iovec> iovecs;  // in guest memory
  bool not_durable = false;       // set by the backend: it failed as a flush, not as a transfer
  uint64_t done = 0;              // bytes finished so far; a resubmitted request goes on from here
};

struct BlockProperties {
  uint64_t size = 0;               // bytes
  uint32_t logical_block = 512;    // unit of addressing
  uint32_t physical_block = 4096;  // unit that is written without read-modify-write
  uint32_t memory_alignment = 1;   // of iovec bases and lengths (O_DIRECT); else data is bounced
  bool read_only = false;
  bool discard = false;
  bool volatile_cache = true;  // a flush is needed for durability
};

class BlockQueue {
 public:
  virtual ~BlockQueue() = default;
  // Never blocks. Every request ends in exactly one OnBlockDone, at the earliest on the next Reap
  // of the loop's ring, or inside Submit when it could not be started.
  virtual void Submit(std::span<BlockRequest* const> requests) = 0;
};

// Runs a task on the loop of a queue. Any thread; the loop stays while a request is in flight.
using LoopPoster = std::function<void(std::function<void()>)>;

class BlockBackend {
 public:
  virtual ~BlockBackend() = default;
  [[nodiscard]] virtual const BlockProperties& properties() const = 0;
  // Descriptors a loop's ring must register for this backend, and opcodes it must allow.
  [[nodiscard]] virtual std::vector<int> files() const = 0;
  [[nodiscard]] virtual std::vector<uint8_t> opcodes() const = 0;
  // `first_file` is the fixed-file number of files()[0] in `ring`.
  virtual absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing& ring, int first_file,
                                                                LoopPoster post) = 0;
  // Makes everything that was written durable, as kFlush does. Blocks; any thread that may. Once a
  // flush has failed none succeeds any more, whichever way it is asked for.
  [[nodiscard]] virtual absl::Status Sync() = 0;
  virtual void DescribeTo(StatSink& sink) const = 0;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_BLOCK_BACKEND_H_
