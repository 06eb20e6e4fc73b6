// The GPADLs of one connection: lists of guest pages that arrive in pieces, are used by rings and
// devices, and end when the guest wants them back and nobody uses them any more. Pure: no messages
// are sent from here, no clock, no threads. Every number in it is the guest's; Limits bound it.
#ifndef PARTITA_VMBUS_SERVER_GPADL_TABLE_H_
#define PARTITA_VMBUS_SERVER_GPADL_TABLE_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "vmbus/protocol/vmbus_protocol.h"

namespace partita::vmbus {

// A complete GPADL: one range of guest pages.
struct Gpadl {
  uint32_t byte_count = 0;
  uint32_t byte_offset = 0;
  std::vector<uint64_t> pfns;
};

class GpadlTable {
 public:
  struct Limits {
    size_t gpadls = 4096;
    size_t pages = 262144;  // of all GPADLs together: 1 GiB described in 2 MiB of memory
  };
  struct Key {
    uint32_t relid = 0, handle = 0;
    auto operator<=>(const Key&) const = default;
  };
  enum class Added : uint8_t {
    kMore,       // pages are missing
    kComplete,   // it may be used now
    kInvalid,    // contradicts itself or the table
    kOverLimit,  // nothing wrong with it but its size
  };
  struct Piece {
    Key key;
    Added result = Added::kInvalid;
  };

  explicit GpadlTable(Limits limits) : limits_(limits) {}

  // GPADL_HEADER: begins a GPADL; `pfns`: what follows the header in the message.
  [[nodiscard]] Added Begin(const GpadlHeader& header, std::span<const std::byte> pfns);
  // GPADL_BODY: more pages for the one with this handle that is still incomplete; kInvalid if there
  // is none. Pages beyond what the header announced are dropped.
  [[nodiscard]] Piece Continue(uint32_t handle, std::span<const std::byte> pfns);

  [[nodiscard]] bool Contains(const Key& key) const { return entries_.contains(key); }
  // Null unless it is complete.
  [[nodiscard]] std::shared_ptr<const Gpadl> Find(const Key& key) const;

  // A device uses a complete GPADL until it returns the loan. 0: there is none to be lent.
  [[nodiscard]] uint64_t Lend(const Key& key);
  // Returns whether its end was asked for and waited for this user, the last one. A loan of a GPADL
  // that has gone with its channel is nobody's: another may have its handle by now.
  [[nodiscard]] bool Return(const Key& key, uint64_t loan);

  // The guest wants an existing GPADL back. Returns whether it can have it now; if not it is
  // remembered (Return, Due), and nobody can borrow it any more. `ring`: a channel uses it.
  [[nodiscard]] bool WantBack(const Key& key, bool ring);
  // Those of a channel that are wanted back and have no user.
  [[nodiscard]] std::vector<Key> Due(uint32_t relid) const;

  void Erase(const Key& key);
  void EraseOf(uint32_t relid);
  void Clear();

  [[nodiscard]] size_t pages() const { return pages_; }
  // The pages of all GPADLs, in order.
  [[nodiscard]] std::vector<uint64_t> SharedPages() const;

 private:
  struct Entry {
    std::shared_ptr<Gpadl> gpadl;
    size_t expected = 0;  // pages
    bool complete = false;
    bool wanted_back = false;
    uint64_t loan = 0;   // tells it from others that had the same handle
    uint32_t users = 0;  // loans that are not returned
  };
  Added Append(const Key& key, Entry& entry, std::span<const std::byte> pfns);

  const Limits limits_;
  std::map<Key, Entry> entries_;
  std::map<uint32_t, Key> collecting_;  // handle -> GPADL whose bodies are still coming
  size_t pages_ = 0;
  uint64_t loans_ = 0;
};

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_SERVER_GPADL_TABLE_H_
