#include "synic/synic.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/mutex.h"

namespace partita {
namespace {

constexpr uint64_t kSintStride = 256;

// Fields of a message slot that guest and host both touch.
std::atomic_ref<uint32_t> SlotType(std::byte* slot) {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(slot));
}
std::atomic_ref<uint8_t> SlotFlags(std::byte* slot) {
  return std::atomic_ref<uint8_t>(*reinterpret_cast<uint8_t*>(slot + offsetof(hv::Message, flags)));
}

}  // namespace

hv::Message Synic::MakeMessage(uint32_t type, std::span<const std::byte> payload) {
  hv::Message message{};
  message.type = type;
  message.payload_size = static_cast<uint8_t>(payload.size());
  if (!payload.empty()) std::memcpy(message.payload, payload.data(), payload.size());
  return message;
}

bool Synic::PageOf(uint64_t value, std::byte** page) {
  *page = nullptr;
  if ((value & hv::kMsrPageEnable) == 0) return true;
  *page = memory_.Range(value & hv::kMsrPageMask, kPageSize);
  if (*page == nullptr) rejected_.Add();
  return *page != nullptr;
}

bool Synic::SetMessagePage(Vp& vp, uint64_t value) {
  const std::byte* before = vp.messages;
  vp.messages_gpa = value & hv::kMsrPageMask;
  const bool ok = PageOf(value, &vp.messages);
  if (vp.messages != nullptr && vp.messages != before) {
    for (uint64_t sint = 0; sint < hv::kSintCount; ++sint) {
      SlotType(vp.messages + sint * kSintStride).store(0);
    }
    memory_.MarkDirty(vp.messages_gpa, kPageSize);
  }
  return ok;
}

bool Synic::SetFlagPage(Vp& vp, uint64_t value) {
  vp.flags_gpa = value & hv::kMsrPageMask;
  return PageOf(value, &vp.flags);
}

void Synic::SetEventFlag(uint32_t index, uint32_t sint, uint32_t flag) {
  Vp* vp = FindVp(index);
  if (vp == nullptr || sint >= hv::kSintCount || flag >= hv::kEventFlagsPerSint) {
    rejected_.Add();
    return;
  }
  MutexLock lock(vp->mutex);
  if (!vp->enabled || vp->flags == nullptr) {
    lost_events_.Add();  // the guest moves its channels before it takes a VP offline
    return;
  }
  const uint64_t offset = sint * kSintStride + uint64_t{flag / 64} * 8;
  auto& word = *reinterpret_cast<uint64_t*>(vp->flags + offset);
  const uint64_t bit = uint64_t{1} << (flag % 64);
  events_.Add();
  if ((std::atomic_ref<uint64_t>(word).fetch_or(bit) & bit) == 0) {
    memory_.MarkDirty(vp->flags_gpa + offset, 8);
    Raise(*vp, sint);
  }
}

bool Synic::Enqueue(Vp& vp, uint32_t sint, const hv::Message& message) {
  if (vp.queue.size() >= kMaxQueued) {
    rejected_.Add();
    return false;
  }
  vp.queue.push_back({sint, message});
  Deliver(vp);
  return true;
}

bool Synic::PostMessage(uint32_t index, uint32_t sint, uint32_t type,
                        std::span<const std::byte> payload) {
  Vp* vp = FindVp(index);
  if (vp == nullptr || sint >= hv::kSintCount || type == 0 ||
      payload.size() > hv::kMessagePayload) {
    rejected_.Add();
    return false;
  }
  MutexLock lock(vp->mutex);
  return Enqueue(*vp, sint, MakeMessage(type, payload));
}

bool Synic::Publish(std::byte* slot, const hv::Message& message) {
  constexpr size_t kType = sizeof(message.type);
  std::memcpy(slot + kType, reinterpret_cast<const std::byte*>(&message) + kType,
              sizeof(message) - kType);
  uint32_t empty = 0;
  return SlotType(slot).compare_exchange_strong(empty, message.type);
}

bool Synic::PutOrAskForEnd(std::byte* slot, const hv::Message& message) {
  for (bool asked = false;;) {
    if (SlotType(slot).load() == 0) {
      if (Publish(slot, message)) return true;
      asked = false;  // its flags were overwritten
    }
    // Busy. Ask for EOM, then look again: the guest may have emptied it without seeing the flag.
    if (asked) return false;
    SlotFlags(slot).fetch_or(hv::kMessagePending);
    asked = true;
  }
}

void Synic::Deliver(Vp& vp) {
  const bool was_waiting = !vp.queue.empty();
  // In order per SINT: once a slot is busy, later messages for the same SINT wait too.
  uint32_t busy = 0;
  for (auto it = vp.queue.begin(); it != vp.queue.end();) {
    const uint32_t sint = it->sint;
    if (!vp.enabled || vp.messages == nullptr) break;
    if ((busy & (1u << sint)) != 0) {
      ++it;
      continue;
    }
    std::byte* slot = vp.messages + sint * kSintStride;
    const auto more = std::any_of(std::next(it), vp.queue.end(),
                                  [&](const QueuedMessage& m) { return m.sint == sint; });
    hv::Message message = it->message;
    message.flags = more ? hv::kMessagePending : 0;
    if (!PutOrAskForEnd(slot, message)) {
      message_retries_.Add();
      busy |= 1u << sint;
      ++it;
      continue;
    }
    memory_.MarkDirty(vp.messages_gpa + sint * kSintStride, sizeof(message));
    messages_.Add();
    it = vp.queue.erase(it);
    Raise(vp, sint);
  }
  if (was_waiting || !vp.queue.empty()) QueueChanged(vp);
}

void Synic::DropMessages() {
  for (const auto& vp : vps_) {
    MutexLock lock(vp->mutex);
    vp->queue.clear();
    QueueChanged(*vp);
  }
}

bool Synic::UsesPage(uint64_t pfn) const {
  for (const auto& vp : vps_) {
    MutexLock lock(vp->mutex);
    if ((vp->messages != nullptr && vp->messages_gpa >> kPageShift == pfn) ||
        (vp->flags != nullptr && vp->flags_gpa >> kPageShift == pfn)) {
      return true;
    }
  }
  return false;
}

void Synic::DescribeTo(StatSink& sink) const {
  sink.Add("synic.messages", messages_);
  sink.Add("synic.message_retries", message_retries_);
  sink.Add("synic.events", events_);
  sink.Add("synic.interrupts", interrupts_);
  sink.Add("synic.rejected", rejected_);
  sink.Add("synic.lost_events", lost_events_);
}

}  // namespace partita
