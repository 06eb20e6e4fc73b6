// The guest's side of the VMBus control plane: contact, offers, GPADLs, opening channels.
// Freestanding: no allocation, no exceptions; runs inside the enlightened guest, in other people's
// kernels, and hosted as the other end of the VSPs' unit tests. One thread.
//
// The transport is what differs between those places. Answers of the parent are trusted no more
// than needed to stay in bounds.
#ifndef PARTITA_VMBUS_CLIENT_CONNECTION_H_
#define PARTITA_VMBUS_CLIENT_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmbus/protocol/vmbus_protocol.h"
#include "vmbus/ring/ring.h"

namespace partita::vmbus::client {

class Transport {
 public:
  // HvPostMessage; returns the hypercall status (0: posted; 0x13: try again).
  virtual uint16_t Post(uint32_t connection_id, const void* payload, size_t size) = 0;
  // HvSignalEvent for a channel.
  virtual void Signal(uint32_t connection_id) = 0;
  // Takes the next control message out of the SynIC slot, if there is one; `out` has kMaxMessage
  // bytes.
  virtual bool Receive(std::byte* out) = 0;
  // Returns when a message or event may have arrived; may return early. False: give up (time-out).
  virtual bool Wait() = 0;
  // Guest page number of a page-aligned address.
  virtual uint64_t PfnOf(const void* page) = 0;

 protected:
  ~Transport() = default;
};

enum class Result : uint8_t {
  kOk,
  kRefused,   // the parent said no
  kTimedOut,  // Transport::Wait gave up
  kNoRoom,    // a ring or table is full for now; try again when something has been taken out of it
  kInvalid,   // an argument that can never be right; nothing was sent
  kBroken,    // the ring holds what no parent writes; only closing the channel is left
};

class Connection {
 public:
  static constexpr size_t kMaxOffers = 96;

  explicit Connection(Transport& transport) : transport_(transport) {}

  // Negotiates the newest version both sides know, at most `newest`. `target_vp` gets the messages.
  [[nodiscard]] Result Connect(uint32_t newest, uint32_t target_vp);
  // Asks for all offers and waits for the last one.
  [[nodiscard]] Result RequestOffers();
  [[nodiscard]] uint32_t version() const { return version_; }
  [[nodiscard]] std::span<const Offer> offers() const { return {offers_, offer_count_}; }
  // First offer of a device class with this sub-channel index, or null.
  [[nodiscard]] const Offer* Find(const Guid& type, uint16_t subchannel_index) const;
  // Like Find, but waits for the offer to arrive (sub-channels).
  [[nodiscard]] const Offer* Await(const Guid& type, uint16_t subchannel_index);

  // Shares `pages` pages from the page-aligned `memory` with the parent.
  [[nodiscard]] Result CreateGpadl(uint32_t relid, const void* memory, size_t pages,
                                   uint32_t* handle);
  [[nodiscard]] Result TearDownGpadl(uint32_t relid, uint32_t handle);
  // Opens with a ring of `send_pages` (to the parent) and the rest of the GPADL (from it).
  [[nodiscard]] Result Open(const Offer& offer, uint32_t gpadl, uint32_t send_pages,
                            uint32_t target_vp);
  void Close(uint32_t relid);
  // Takes in what has arrived, without waiting: offers() may be longer afterwards, and TakeRescind
  // may have something. To be called now and then, or after a message interrupt, for devices that
  // come and go while the system runs.
  void Poll();
  // The relid of an offer that the parent has taken back, each once; 0: none.
  [[nodiscard]] uint32_t TakeRescind();
  // Waits until the parent takes an offer back (also one it took back while something else was
  // waited for); each is told once. 0: nothing came.
  [[nodiscard]] uint32_t AwaitRescind();
  // Lets go of an offer that was taken back; the parent may use its relid for another one.
  [[nodiscard]] Result Release(uint32_t relid);
  [[nodiscard]] Result Unload();

 private:
  // kNoRoom: the parent had no buffer for it in many tries.
  Result Post(const void* message, size_t size);
  // Handles messages until one of `type` arrives; it is left in message_.
  Result AwaitMessage(MessageType type);
  void Handle();

  Transport& transport_;
  uint32_t version_ = 0;
  uint32_t message_connection_ = kMessageConnection5;
  uint32_t next_gpadl_ = 0xE1E10;
  Offer offers_[kMaxOffers];
  size_t offer_count_ = 0;
  uint32_t rescinded_[kMaxOffers];  // oldest first
  size_t rescinded_count_ = 0;
  alignas(8) std::byte message_[kMaxMessage];
};

// An open channel: rings over one piece of page-aligned memory, and its doorbell.
class Channel {
 public:
  // `memory` holds `pages` pages, at least 4; half of them carry each direction. `pages_list` has
  // room for one pointer per page. `buffer` receives packets.
  [[nodiscard]] Result Open(Connection& connection, Transport& transport, const Offer& offer,
                            std::byte* memory, size_t pages, std::byte** page_list,
                            std::span<std::byte> buffer, uint32_t target_vp);
  [[nodiscard]] Result Close(Connection& connection);

  [[nodiscard]] RingReader& reader() { return reader_; }
  [[nodiscard]] RingWriter& writer() { return writer_; }
  // Publishes what was written and read; rings the doorbell if the parent waits for it.
  void Commit();
  // With an empty incoming ring: waits for something to arrive, also where the caller has the ring
  // masked (it is again afterwards). May return early. False: the transport gave up.
  [[nodiscard]] bool AwaitPacket();
  [[nodiscard]] uint32_t relid() const { return relid_; }
  [[nodiscard]] uint64_t doorbells() const { return doorbells_; }

 private:
  Transport* transport_ = nullptr;
  uint32_t relid_ = 0;
  uint32_t connection_id_ = 0;
  uint32_t gpadl_ = 0;
  uint64_t doorbells_ = 0;
  RingReader reader_{RingMemory{}, {}};
  RingWriter writer_{RingMemory{}};
};

}  // namespace partita::vmbus::client

#endif  // PARTITA_VMBUS_CLIENT_CONNECTION_H_
