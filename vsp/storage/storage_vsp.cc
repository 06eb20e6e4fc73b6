#include "vsp/storage/storage_vsp.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/monotonic.h"
#include "vsp/storage/storage_channel.h"

namespace partita::storage {

void StorageCounters::DescribeTo(StatSink& sink) const {
  sink.Add("storage.commands", commands);
  sink.Add("storage.check_conditions", check_conditions);
  sink.Add("storage.resets", resets);
  sink.Add("storage.parked", parked);
  sink.Add("storage.rejected.packets", bad_packets);
  sink.Add("storage.rejected.ranges", bad_ranges);
  sink.Add("storage.rejected.state", wrong_state);
  sink.Add("storage.system_calls", system_calls);
  sink.Add("storage.loop_wakes", loop_wakes);
}

StorageVsp::StorageVsp(Options options, Events events)
    : options_(options), events_(std::move(events)) {}

StorageVsp::~StorageVsp() = default;

vmbus::OfferParameters StorageVsp::offer() const {
  vmbus::OfferParameters parameters;
  parameters.type = vmbus::kScsiClass;
  parameters.instance = options_.instance;
  parameters.max_subchannels = options_.subchannels;
  return parameters;
}

uint32_t StorageVsp::max_packet() const {
  constexpr uint32_t kPages = kMaxTransfer / kPageSize + 2;
  return sizeof(vmbus::PacketDescriptor) + sizeof(vmbus::GpaDirectHeader) +
         sizeof(vmbus::GpaRange) + kPages * sizeof(uint64_t) + sizeof(vmbus::storage::Packet) + 64;
}

bool StorageVsp::OnOpen(const vmbus::OpenRequest& request,
                        std::shared_ptr<vmbus::ServerChannel> channel) {
  if (request.subchannel_index == 0) initialized_.store(false);
  auto started = StorageChannel::Start(*this, std::move(channel), request.primary);
  if (!started.ok()) {
    Log("storage: a channel cannot open: " + std::string(Message(started.status())));
    return false;
  }
  channels_[request.relid] = *std::move(started);
  return true;
}

void StorageVsp::OnClose(uint32_t relid, std::function<void()> done) {
  const auto it = channels_.find(relid);
  if (it == channels_.end()) return done();
  it->second->Stop(std::move(done));
}

void StorageVsp::OnLetGo(uint32_t relid) { channels_.erase(relid); }

void StorageVsp::CountPages(const std::shared_ptr<vmbus::PageCensus>& census) {
  for (const auto& [relid, channel] : channels_) channel->CountPages(census);
}

void StorageVsp::RequestSubChannels(uint32_t primary, uint32_t count) {
  if (server_ != nullptr) server_->RequestSubChannels(primary, count);
}

void StorageVsp::SpaceWaiters(int change) {
  const int before = space_waiters_.fetch_add(change);
  if (before == 0 && change > 0) events_.space(true);
  if (before + change == 0 && change < 0) events_.space(false);
}

void StorageVsp::BeginRemoval() {
  removing_.store(true);
  for (const auto& [relid, channel] : channels_) channel->Wake();
}

bool StorageVsp::Removable() const {
  constexpr uint64_t kQuietNs = 1'000'000'000;
  if (!initialized_.load()) return true;
  const uint64_t last = last_command_ns_.load();
  return last != 0 && MonotonicNs() - last > kQuietNs;
}

void StorageVsp::NoteCommandWhileRemoving(bool found_out) {
  if (found_out || last_command_ns_.load() != 0) last_command_ns_.store(MonotonicNs());
}

absl::Status StorageVsp::Sync() const {
  absl::Status first;
  for (const auto& disk : disks_) {
    if (absl::Status status = disk->Sync(); !status.ok() && first.ok()) first = std::move(status);
  }
  return first;
}

bool StorageVsp::any_poisoned() const {
  return std::any_of(disks_.begin(), disks_.end(), [](const auto& d) { return d->poisoned(); });
}

void StorageVsp::DescribeTo(StatSink& sink) const {
  Histogram latency_ns;
  counters_.ForEach([&](const StorageCounters& counters) {
    counters.DescribeTo(sink);
    latency_ns.Merge(counters.latency_ns);
  });
  sink.Add("storage.latency_ns.p50", latency_ns.Quantile(0.5));
  sink.Add("storage.latency_ns.p99", latency_ns.Quantile(0.99));
  for (const auto& disk : disks_) disk->backend().DescribeTo(sink);
}

}  // namespace partita::storage
