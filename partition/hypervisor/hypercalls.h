// Hypercalls that reach user space: posted messages, and signals that no eventfd took. One table of
// codes and handlers. Inputs come from the guest; the memory-based form is copied once. Called on
// VP threads; must not block.
#ifndef PARTITA_PARTITION_HYPERVISOR_HYPERCALLS_H_
#define PARTITA_PARTITION_HYPERVISOR_HYPERCALLS_H_

#include <cstdint>
#include <functional>
#include <span>

#include "base/counters.h"
#include "base/guest_memory.h"
#include "base/hyperv_abi.h"

namespace partita {

// The guest's control-plane messages, copied. Called on VP threads.
class GuestMessageSink {
 public:
  virtual ~GuestMessageSink() = default;
  virtual hv::Status OnGuestMessage(uint32_t connection_id, uint32_t type,
                                    std::span<const std::byte> payload) = 0;
};

class Hypercalls {
 public:
  Hypercalls(GuestMemory& memory, GuestMessageSink& sink) : memory_(memory), sink_(sink) {}

  // Registers RCX, RDX, R8 of the call; returns RAX.
  uint64_t Call(uint64_t control, uint64_t input, uint64_t output);
  void DescribeTo(StatSink& sink) const;

 private:
  struct Row;
  static const Row kTable[];
  hv::Status PostMessage(bool fast, uint64_t input);
  hv::Status SignalEvent(bool fast, uint64_t input);

  GuestMemory& memory_;
  GuestMessageSink& sink_;
  Counter messages_, signals_in_user_space_, rejected_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_HYPERCALLS_H_
