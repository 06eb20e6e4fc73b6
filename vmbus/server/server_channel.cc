#include "vmbus/server/server_channel.h"

#include <utility>

#include "base/hyperv_abi.h"
#include "base/log.h"
#include "base/mutex.h"

namespace partita::vmbus {

void ChannelCounters::DescribeTo(StatSink& sink) const {
  sink.Add("channel.interrupts", interrupts);
  sink.Add("channel.doorbells", doorbells);
  sink.Add("channel.packets_in", packets_in);
  sink.Add("channel.packets_out", packets_out);
  sink.Add("channel.batches_in", batches_in);
  sink.Add("channel.batches_out", batches_out);
  sink.Add("channel.corrupt", corrupt);
  sink.Add("channel.ring_full", ring_full);
  sink.Add("channel.too_long", too_long);
}

std::unique_ptr<ServerChannel> ServerChannel::Create(const Identity& identity, GuestMemory& memory,
                                                     Interrupt& interrupt, Doorbell& doorbell,
                                                     std::unique_ptr<RingMapping> in,
                                                     std::unique_ptr<RingMapping> out,
                                                     uint32_t max_packet,
                                                     PerLoop<ChannelCounters>& counters) {
  auto event = EventFd::Create();
  if (!event.ok()) {
    Log(Message(event.status()));
    return nullptr;
  }
  std::unique_ptr<ServerChannel> channel(
      new ServerChannel(identity, memory, interrupt, doorbell, std::move(in), std::move(out),
                        max_packet, counters, *std::move(event)));
  const absl::Status bound =
      doorbell.Bind(kChannelConnectionBase + identity.relid, channel->doorbell_fd());
  if (!bound.ok()) {
    Log(Message(bound));
    return nullptr;
  }
  channel->bound_ = true;
  return channel;
}

ServerChannel::ServerChannel(const Identity& identity, GuestMemory& memory, Interrupt& interrupt,
                             Doorbell& doorbell, std::unique_ptr<RingMapping> in,
                             std::unique_ptr<RingMapping> out, uint32_t max_packet,
                             PerLoop<ChannelCounters>& counters, EventFd event)
    : identity_(identity),
      memory_(memory),
      interrupt_(interrupt),
      doorbell_(doorbell),
      in_(std::move(in)),
      out_(std::move(out)),
      buffer_(max_packet),
      doorbell_event_(std::move(event)),
      reader_(in_->memory(), buffer_),
      writer_(out_->memory()),
      counters_(counters),
      target_vp_(identity.target_vp) {}

ServerChannel::~ServerChannel() {
  if (bound_) doorbell_.Unbind(kChannelConnectionBase + identity_.relid, doorbell_fd());
}

RingStatus ServerChannel::Next(Packet* packet) {
  RingStatus status = reader_.Next(packet);
  if (status == RingStatus::kTooLarge) {  // the device sees it without content, and may answer
    counters_->too_long.Add();
    status = RingStatus::kOk;
  }
  if (status == RingStatus::kOk) {
    counters_->packets_in.Add();
    if (!std::exchange(batch_in_, true)) counters_->batches_in.Add();
  } else if (status == RingStatus::kCorrupt) {
    counters_->corrupt.Add();
  }
  return status;
}

RingStatus ServerChannel::Send(PacketType type, uint16_t flags, uint64_t transaction_id,
                               std::span<const std::byte> payload,
                               std::span<const std::byte> headers) {
  const RingStatus status = writer_.Write(type, flags, transaction_id, headers, payload);
  if (status == RingStatus::kOk) {
    counters_->packets_out.Add();
    if (!std::exchange(batch_out_, true)) counters_->batches_out.Add();
  } else if (status == RingStatus::kFull) {
    counters_->ring_full.Add();
  } else {
    counters_->corrupt.Add();
  }
  return status;
}

void ServerChannel::Commit() {
  bool signal = reader_.Commit();
  if (writer_.Commit()) signal = true;
  if (batch_out_)
    out_->MarkDirty(memory_, std::exchange(marked_, writer_.write_index()), writer_.write_index());
  if (batch_in_) in_->MarkDirty(memory_, 0, 0);
  batch_in_ = batch_out_ = false;
  if (signal) SignalGuest();
}

void ServerChannel::SignalGuest() {
  counters_->interrupts.Add();
  MutexLock lock(mutex_);
  interrupt_.SetEventFlag(target_vp_, hv::kVmbusSint, identity_.relid);
}

void ServerChannel::Retarget(uint32_t vp) {
  MutexLock lock(mutex_);
  target_vp_ = vp;
}

}  // namespace partita::vmbus
