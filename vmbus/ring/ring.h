// One direction of a VMBus channel: a ring buffer in memory shared with a peer that may be hostile.
//
// Both ends of the project use this file: the VSPs in the parent and the VSCs inside a guest. It is
// freestanding. A Reader or Writer belongs to one thread.
//
// The peer can change every byte at any time. So: our own index is kept here and never read back;
// the peer's index is read once per batch and checked; a packet is copied whole, once, into private
// memory before anything in it is looked at. A ring that breaks the rules stops (kCorrupt, for
// good).
//
// Cursor and commit: any number of packets is read or written against cached indices, published by
// one Commit(), which says whether the peer has to be signalled. Indices use sequentially
// consistent operations; there are no stand-alone fences.
#ifndef PARTITA_VMBUS_RING_RING_H_
#define PARTITA_VMBUS_RING_RING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "vmbus/protocol/vmbus_protocol.h"

// The interleaving test switches threads before each access to a shared field.
#ifndef PARTITA_RING_YIELD
#define PARTITA_RING_YIELD() static_cast<void>(0)
#endif

namespace partita::vmbus {

// How a ring is reached: its control page, a list of data pages, and where the data area lies in a
// row somewhere, that as well: `linear_size` is twice the ring's size where it lies there twice, so
// that nothing ever wraps, or the size itself, so that the copies at the end go page by page.
// Pointers are borrowed.
struct RingMemory {
  RingControl* control = nullptr;
  std::byte* linear = nullptr;
  std::span<std::byte* const> pages;
  uint32_t size = 0;  // bytes of data area, a multiple of 4096
  uint32_t linear_size = 0;

  void CopyIn(uint32_t index, const void* from, uint32_t length) const;
  void CopyOut(uint32_t index, void* to, uint32_t length) const;
};

enum class RingStatus : uint8_t {
  kOk,
  kEmpty,
  kFull,
  kCorrupt,   // the peer broke the protocol; the ring is unusable
  kTooLarge,  // the packet does not fit the caller's buffer, or could never fit the ring
};

// A packet in private memory.
struct Packet {
  PacketDescriptor descriptor;
  std::span<const std::byte> headers;  // between descriptor and payload (GPA ranges)
  std::span<const std::byte> payload;
};

class RingReader {
 public:
  // `buffer` receives packets. Starts at index 0.
  RingReader(const RingMemory& memory, std::span<std::byte> buffer)
      : memory_(memory), buffer_(buffer) {}

  // Copies the next packet. A longer one than `buffer` is passed by: kTooLarge, with its descriptor
  // and nothing else. The views in `packet` are valid until the next call.
  [[nodiscard]] RingStatus Next(Packet* packet);
  // Publishes everything read so far. True: the writer waits for this much room, signal it.
  [[nodiscard]] bool Commit();
  // While draining the writer need not signal.
  void MaskInterrupts() { Shared(memory_.control->interrupt_mask).store(1); }
  [[nodiscard]] bool masked() { return Shared(memory_.control->interrupt_mask).load() != 0; }
  // Whether something unread is there.
  [[nodiscard]] bool Available() { return Shared(memory_.control->write_index).load() != read_; }
  // Before sleeping. True: something arrived meanwhile (and the mask is set again).
  [[nodiscard]] bool UnmaskAndCheck();
  // Offset of the next unread byte (tests, and state that is saved).
  [[nodiscard]] uint32_t read_index() const { return read_; }

 private:
  static std::atomic_ref<uint32_t> Shared(uint32_t& field) {
    PARTITA_RING_YIELD();
    return std::atomic_ref<uint32_t>(field);
  }
  RingMemory memory_;
  std::span<std::byte> buffer_;
  uint32_t read_ = 0;       // ours
  uint32_t committed_ = 0;  // what the peer was told
  uint32_t write_ = 0;      // the peer's, as of the last look
  bool corrupt_ = false;
};

class RingWriter {
 public:
  explicit RingWriter(const RingMemory& memory) : memory_(memory) {}

  // Appends one packet: descriptor, then `headers`, then `payload`, padded to 8 bytes.
  [[nodiscard]] RingStatus Write(PacketType type, uint16_t flags, uint64_t transaction_id,
                                 std::span<const std::byte> headers,
                                 std::span<const std::byte> payload);
  // Publishes everything written so far. True: the reader was idle, signal it.
  [[nodiscard]] bool Commit();
  // After kFull: asks the reader for a signal once a packet of `bytes` (payload and headers) fits;
  // the next successful Write takes the request back. False: there is room already, write again.
  [[nodiscard]] bool RequestRoom(uint32_t bytes);
  [[nodiscard]] uint32_t write_index() const { return write_; }
  // Bytes a packet takes in the ring.
  [[nodiscard]] static uint64_t Footprint(uint64_t headers, uint64_t payload) {
    return ((sizeof(PacketDescriptor) + headers + payload + 7) & ~uint64_t{7}) + kTrailer;
  }

 private:
  static std::atomic_ref<uint32_t> Shared(uint32_t& field) {
    PARTITA_RING_YIELD();
    return std::atomic_ref<uint32_t>(field);
  }
  [[nodiscard]] uint32_t Free() const {
    const uint32_t used = write_ >= read_ ? write_ - read_ : write_ + memory_.size - read_;
    return memory_.size - used;
  }
  // Reads the peer's index again; false if it is nonsense.
  bool Refresh();

  RingMemory memory_;
  uint32_t write_ = 0;      // ours
  uint32_t committed_ = 0;  // what the peer was told
  uint32_t read_ = 0;       // the peer's, as of the last look
  bool corrupt_ = false;
  bool room_requested_ = false;
};

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_RING_RING_H_
