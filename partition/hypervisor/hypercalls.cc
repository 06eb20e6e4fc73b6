#include "partition/hypervisor/hypercalls.h"

namespace partita {

struct Hypercalls::Row {
  uint16_t code;
  hv::Status (Hypercalls::*handler)(bool fast, uint64_t input);
};

// TLFS, "Inter-Partition Communication": HvCallPostMessage, HvCallSignalEvent.
const Hypercalls::Row Hypercalls::kTable[] = {
    {hv::kCallPostMessage, &Hypercalls::PostMessage},
    {hv::kCallSignalEvent, &Hypercalls::SignalEvent},
};

uint64_t Hypercalls::Call(uint64_t control, uint64_t input, uint64_t /*output*/) {
  constexpr uint64_t kCodeAndFast = 0x1FFFF;  // neither call has a variable header or reps
  const auto code = static_cast<uint16_t>(control);
  for (const Row& row : kTable) {
    if (row.code != code) continue;
    hv::Status status = hv::kInvalidInput;
    if ((control & ~kCodeAndFast) == 0) {
      status = (this->*row.handler)((control & hv::kControlFast) != 0, input);
    }
    if (status != hv::kSuccess) rejected_.Add();
    return status;
  }
  rejected_.Add();
  return hv::kInvalidCode;
}

hv::Status Hypercalls::PostMessage(bool fast, uint64_t input) {
  constexpr uint32_t kConnectionMask = 0xFFFFFF;
  constexpr uint32_t kHypervisorType = 1u << 31;
  if (fast) return hv::kInvalidInput;
  if (input % 8 != 0) return hv::kInvalidAlignment;
  const auto block = memory_.Load<hv::PostMessageInput>(input);
  if (!block) return hv::kInvalidAlignment;
  if (block->message_type == 0 || (block->message_type & kHypervisorType) != 0 ||
      block->payload_size > hv::kMessagePayload) {
    return hv::kInvalidParameter;
  }
  messages_.Add();
  return sink_.OnGuestMessage(block->connection_id & kConnectionMask, block->message_type,
                              std::as_bytes(std::span(block->payload)).first(block->payload_size));
}

// A doorbell of an open channel never comes here: the kernel turns it into an eventfd. What does
// come is for a connection nobody listens on.
hv::Status Hypercalls::SignalEvent(bool fast, uint64_t input) {
  uint64_t value = input;
  if (!fast) {
    if (input % 8 != 0) return hv::kInvalidAlignment;
    const auto loaded = memory_.Load<uint64_t>(input);
    if (!loaded) return hv::kInvalidAlignment;
    value = *loaded;
  }
  signals_in_user_space_.Add();
  return (value >> 32) != 0 ? hv::kInvalidParameter : hv::kInvalidConnectionId;
}

void Hypercalls::DescribeTo(StatSink& sink) const {
  sink.Add("hypercall.messages", messages_);
  sink.Add("hypercall.signals_in_user_space", signals_in_user_space_);
  sink.Add("hypercall.rejected", rejected_);
}

}  // namespace partita
