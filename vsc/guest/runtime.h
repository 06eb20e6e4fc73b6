// Ring 3 of the enlightened guest: output, memory, time, and the transport to the parent.
#ifndef PARTITA_VSC_GUEST_RUNTIME_H_
#define PARTITA_VSC_GUEST_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/hyperv_abi.h"
#include "vmbus/client/connection.h"
#include "vsc/guest/guest_abi.h"

namespace partita::guest {

extern SystemInfo system_info;

void Print(std::string_view text);
// One JSON object a line.
class JsonLine {
 public:
  explicit JsonLine(std::string_view event) { Text("event", event); }
  ~JsonLine();
  JsonLine& Number(std::string_view key, uint64_t value);
  JsonLine& Text(std::string_view key, std::string_view value);

 private:
  void Key(std::string_view key);
  bool first_ = true;
};
// Says why and powers off; the harness sees an "error" event.
[[noreturn]] void Fail(std::string_view why);
[[noreturn]] void PowerOff();

// Page-aligned memory behind the image; never given back.
std::byte* Allocate(size_t bytes);

// "key=value" of the command line; empty if absent.
std::string_view Argument(std::string_view key);
uint64_t NumberArgument(std::string_view key, uint64_t otherwise);

inline uint64_t Tsc() {
  uint32_t low = 0, high = 0;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return (uint64_t{high} << 32) | low;
}
uint64_t TscHz();

// Interrupt count of a VP, as its ring 0 keeps it.
uint64_t Interrupts(uint32_t vp);
// Halts VP `vp` (the caller's own) until its interrupt count differs from `seen`.
void WaitForInterrupt(uint64_t seen);

class GuestTransport final : public vmbus::client::Transport {
 public:
  explicit GuestTransport(uint32_t vp);
  uint16_t Post(uint32_t connection_id, const void* payload, size_t size) override;
  void Signal(uint32_t connection_id) override;
  bool Receive(std::byte* out) override;
  bool Wait() override;
  uint64_t PfnOf(const void* page) override { return reinterpret_cast<uintptr_t>(page) >> 12; }

  // Takes this VP's event flag of a channel; true if it was set.
  bool TakeEvent(uint32_t relid);
  // All of this VP's event flags.
  void ClearEvents();

 private:
  uint64_t Hypercall(uint64_t control, uint64_t input, uint64_t output);
  const uint32_t vp_;
  bool ring0_only_ = false;  // the page is KVM's, whose instruction faults in ring 3
  uint64_t seen_ = 0;
  hv::PostMessageInput* input_;
};

}  // namespace partita::guest

#endif  // PARTITA_VSC_GUEST_RUNTIME_H_
