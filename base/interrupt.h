// How the parent reaches a guest's virtual processors: SynIC event flags (data plane) and SynIC
// messages (control plane). VP indices may come from the guest; unknown ones are counted and
// ignored. Any thread may call.
#ifndef PARTITA_BASE_INTERRUPT_H_
#define PARTITA_BASE_INTERRUPT_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace partita {

class Interrupt {
 public:
  virtual ~Interrupt() = default;
  // Sets event flag `flag` of `sint` on VP `vp`; interrupts the VP if the flag was clear.
  virtual void SetEventFlag(uint32_t vp, uint32_t sint, uint32_t flag) = 0;
  // Queues a message of `type` (non-zero) with up to 240 bytes; in order per (vp, sint). False when
  // the VP or SINT does not exist or its bounded queue is full.
  [[nodiscard]] virtual bool PostMessage(uint32_t vp, uint32_t sint, uint32_t type,
                                         std::span<const std::byte> payload) = 0;
  // Forgets messages queued for every VP (a new VMBus connection starts).
  virtual void DropMessages() = 0;
};

}  // namespace partita

#endif  // PARTITA_BASE_INTERRUPT_H_
