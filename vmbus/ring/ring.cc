#include "vmbus/ring/ring.h"

namespace partita::vmbus {
namespace {

constexpr uint32_t kIndexAlignment = 8;

bool ValidIndex(uint32_t index, uint32_t size) {
  return index < size && index % kIndexAlignment == 0;
}
uint32_t Advance(uint32_t index, uint32_t by, uint32_t size) {
  const uint64_t next = uint64_t{index} + by;
  return static_cast<uint32_t>(next >= size ? next - size : next);
}

}  // namespace

void RingMemory::CopyIn(uint32_t index, const void* from, uint32_t length) const {
  if (length == 0) return;
  if (uint64_t{index} + length <= linear_size) {
    std::memcpy(linear + index, from, length);
    return;
  }
  const auto* source = static_cast<const std::byte*>(from);
  while (length > 0) {
    const uint32_t offset = index % kRingPage;
    const uint32_t chunk = length < kRingPage - offset ? length : kRingPage - offset;
    std::memcpy(pages[index / kRingPage] + offset, source, chunk);
    source += chunk;
    length -= chunk;
    index = Advance(index, chunk, size);
  }
}

void RingMemory::CopyOut(uint32_t index, void* to, uint32_t length) const {
  if (length == 0) return;
  if (uint64_t{index} + length <= linear_size) {
    std::memcpy(to, linear + index, length);
    return;
  }
  auto* target = static_cast<std::byte*>(to);
  while (length > 0) {
    const uint32_t offset = index % kRingPage;
    const uint32_t chunk = length < kRingPage - offset ? length : kRingPage - offset;
    std::memcpy(target, pages[index / kRingPage] + offset, chunk);
    target += chunk;
    length -= chunk;
    index = Advance(index, chunk, size);
  }
}

RingStatus RingReader::Next(Packet* packet) {
  if (corrupt_) return RingStatus::kCorrupt;
  if (read_ == write_) {
    const uint32_t seen = Shared(memory_.control->write_index).load();
    if (!ValidIndex(seen, memory_.size)) {
      corrupt_ = true;
      return RingStatus::kCorrupt;
    }
    write_ = seen;
    if (read_ == write_) return RingStatus::kEmpty;
  }
  const uint32_t available = write_ >= read_ ? write_ - read_ : write_ + memory_.size - read_;
  PacketDescriptor descriptor{};
  corrupt_ = true;  // until the packet has proved itself
  if (available < sizeof(descriptor) + kTrailer) return RingStatus::kCorrupt;
  memory_.CopyOut(read_, &descriptor, sizeof(descriptor));
  const uint32_t length = uint32_t{descriptor.length8} * 8;
  const uint32_t payload_at = uint32_t{descriptor.offset8} * 8;
  if (length < sizeof(descriptor) || payload_at < sizeof(descriptor) || payload_at > length ||
      uint64_t{length} + kTrailer > available) {
    return RingStatus::kCorrupt;
  }
  packet->descriptor = descriptor;
  if (length > buffer_.size()) {  // sound, only more than we take: passed by
    read_ = Advance(read_, length + kTrailer, memory_.size);
    corrupt_ = false;
    packet->headers = packet->payload = {};
    return RingStatus::kTooLarge;
  }
  // The descriptor was decided on, so it is not read again; only what follows it is.
  constexpr auto kHead = static_cast<uint32_t>(sizeof(descriptor));
  std::memcpy(buffer_.data(), &descriptor, sizeof(descriptor));
  memory_.CopyOut(Advance(read_, kHead, memory_.size), buffer_.data() + kHead, length - kHead);
  read_ = Advance(read_, length + kTrailer, memory_.size);
  corrupt_ = false;
  packet->headers = buffer_.subspan(kHead, payload_at - kHead);
  packet->payload = buffer_.subspan(payload_at, length - payload_at);
  return RingStatus::kOk;
}

bool RingReader::Commit() {
  if (read_ == committed_) return false;
  const uint32_t advanced =
      read_ > committed_ ? read_ - committed_ : read_ + memory_.size - committed_;
  Shared(memory_.control->read_index).store(read_);
  committed_ = read_;
  // Old guests store the ring size minus one here: the low three bits mean nothing.
  const uint32_t wanted = Shared(memory_.control->pending_send_size).load() & ~uint32_t{7};
  if (wanted == 0) return false;
  const uint32_t seen = Shared(memory_.control->write_index).load();
  if (!ValidIndex(seen, memory_.size)) return false;  // found out by the next Next()
  const uint32_t used = seen >= read_ ? seen - read_ : seen + memory_.size - read_;
  const uint32_t free_after = memory_.size - used;
  const uint32_t free_before = free_after > advanced ? free_after - advanced : 0;
  return free_before <= wanted && free_after > wanted;
}

bool RingReader::UnmaskAndCheck() {
  Shared(memory_.control->interrupt_mask).store(0);
  if (Shared(memory_.control->write_index).load() == read_) return false;
  Shared(memory_.control->interrupt_mask).store(1);
  return true;
}

bool RingWriter::Refresh() {
  const uint32_t seen = Shared(memory_.control->read_index).load();
  if (!ValidIndex(seen, memory_.size)) return false;
  read_ = seen;
  return true;
}

RingStatus RingWriter::Write(PacketType type, uint16_t flags, uint64_t transaction_id,
                             std::span<const std::byte> headers,
                             std::span<const std::byte> payload) {
  if (corrupt_) return RingStatus::kCorrupt;
  const uint64_t footprint = Footprint(headers.size(), payload.size());
  constexpr uint64_t kMaxLength8 = 0xFFFF;
  if (footprint >= memory_.size || (footprint - kTrailer) / 8 > kMaxLength8 ||
      headers.size() % 8 != 0) {
    return RingStatus::kTooLarge;
  }
  // Strictly more than needed must be free, else a full ring would look empty.
  if (Free() <= footprint) {
    if (!Refresh()) {
      corrupt_ = true;
      return RingStatus::kCorrupt;
    }
    if (Free() <= footprint) return RingStatus::kFull;
  }
  const auto padded = static_cast<uint32_t>(footprint) - kTrailer;
  const PacketDescriptor descriptor = {
      .type = type,
      .offset8 = static_cast<uint16_t>((sizeof(PacketDescriptor) + headers.size()) / 8),
      .length8 = static_cast<uint16_t>(padded / 8),
      .flags = flags,
      .transaction_id = transaction_id};
  uint32_t at = write_;
  auto append = [&](const void* from, size_t length) {
    memory_.CopyIn(at, from, static_cast<uint32_t>(length));
    at = Advance(at, static_cast<uint32_t>(length), memory_.size);
  };
  append(&descriptor, sizeof(descriptor));
  append(headers.data(), headers.size());
  append(payload.data(), payload.size());
  constexpr uint64_t kZero = 0;
  append(&kZero, padded - sizeof(descriptor) - headers.size() - payload.size());
  const uint64_t trailer = uint64_t{write_} << 32;
  append(&trailer, sizeof(trailer));
  write_ = at;
  if (room_requested_) {
    Shared(memory_.control->pending_send_size).store(0);
    room_requested_ = false;
  }
  return RingStatus::kOk;
}

bool RingWriter::Commit() {
  if (write_ == committed_) return false;
  const uint32_t old = committed_;
  Shared(memory_.control->write_index).store(write_);
  committed_ = write_;
  if (Shared(memory_.control->interrupt_mask).load() != 0) return false;
  // Only a reader that had caught up can be asleep.
  return Shared(memory_.control->read_index).load() == old;
}

bool RingWriter::RequestRoom(uint32_t bytes) {
  const uint64_t footprint = Footprint(0, bytes);
  // At least a quarter of the ring: a wake for every packet would cost more than it gains.
  const uint32_t quarter = memory_.size / 4;
  const auto wanted = static_cast<uint32_t>(footprint > quarter ? footprint : quarter);
  Shared(memory_.control->pending_send_size).store(wanted);
  room_requested_ = true;
  if (!Refresh()) {
    corrupt_ = true;
    return true;
  }
  return Free() <= wanted;
}

}  // namespace partita::vmbus
