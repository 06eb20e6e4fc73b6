#include "vsp/network/network_vsp.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "vsp/network/network_channel.h"

namespace partita::network {
namespace {

constexpr uint32_t kBeforeTheGuest = 0xD;  // directed, multicast, broadcast

}  // namespace

void NetworkCounters::DescribeTo(StatSink& sink) const {
  sink.Add("network.sent", sent);
  sink.Add("network.sent_bytes", sent_bytes);
  sink.Add("network.sent_large", large_sent);
  sink.Add("network.send_errors", send_errors);
  sink.Add("network.received", received);
  sink.Add("network.received_bytes", received_bytes);
  sink.Add("network.received_large", large_received);
  sink.Add("network.dropped.no_sections", no_sections);
  sink.Add("network.dropped.unwanted", unwanted);
  sink.Add("network.dropped.oversize", oversize);
  sink.Add("network.dropped.vlan", wrong_vlan);
  sink.Add("network.dropped.source_address", foreign_source);
  sink.Add("network.dropped.reserved_group", reserved_group);
  sink.Add("network.dropped.dhcp_server", dhcp_server);
  sink.Add("network.dropped.router", router);
  sink.Add("network.control.waited", control_waited);
  sink.Add("network.control.lost", control_lost);
  sink.Add("network.rejected.packets", bad_packets);
  sink.Add("network.rejected.frames", bad_frames);
  sink.Add("network.rejected.offloads", bad_offloads);
  sink.Add("network.rejected.state", wrong_state);
  sink.Add("network.rejected.completions", bad_completions);
  sink.Add("network.system_calls", system_calls);
  sink.Add("network.loop_wakes", loop_wakes);
  control.DescribeTo(sink);
}

NetworkVsp::NetworkVsp(Options options, std::unique_ptr<NetBackend> backend)
    : options_(std::move(options)),
      backend_(std::move(backend)),
      // What comes before a guest is there waits for it, if it is for the guest at all.
      packet_filter_(kBeforeTheGuest),
      own_(options_.mac) {
  backend_->OnDown([this](const std::string& why) { OnWireGone(why); });
  MutexLock lock(mutex_);
  Changed();  // the link is up: nothing gets in without a filter
}

NetworkVsp::~NetworkVsp() {
  decltype(channels_) channels;
  MutexLock lock(mutex_);
  channels_.swap(channels);
}

vmbus::OfferParameters NetworkVsp::offer() const {
  vmbus::OfferParameters parameters;
  parameters.type = vmbus::kNetworkClass;
  parameters.instance = options_.instance;
  parameters.max_subchannels = options_.queues - 1;
  return parameters;
}

uint32_t NetworkVsp::max_packet() const {
  // A 64 KiB frame in pieces of any size, with room to spare; Linux sends at most 19 ranges.
  constexpr uint32_t kPages = 64;
  return sizeof(vmbus::PacketDescriptor) + sizeof(vmbus::GpaDirectHeader) +
         kPages * (sizeof(vmbus::GpaRange) + sizeof(uint64_t)) + sizeof(vmbus::network::Nvsp);
}

bool NetworkVsp::OnOpen(const vmbus::OpenRequest& request,
                        std::shared_ptr<vmbus::ServerChannel> channel) {
  const uint32_t queue = request.subchannel_index;
  if (queue >= options_.queues) return false;
  if (queue == 0) {
    StopFlow();
    SetSession(nullptr);
  }
  auto started = NetworkChannel::Start(*this, std::move(channel), request.primary);
  if (!started.ok()) {
    Log("network: a channel cannot open: " + std::string(Message(started.status())));
    return false;
  }
  std::unique_ptr<NetworkChannel> old;
  MutexLock lock(mutex_);
  old = std::exchange(channels_[request.relid], *std::move(started));
  return true;
}

void NetworkVsp::OnClose(uint32_t relid, std::function<void()> done) {
  NetworkChannel* channel = nullptr;
  {
    MutexLock lock(mutex_);
    const auto it = channels_.find(relid);
    if (it != channels_.end()) channel = it->second.get();
  }
  if (channel == nullptr) return done();
  channel->Stop(std::move(done));
}

void NetworkVsp::OnLetGo(uint32_t relid) {
  std::unique_ptr<NetworkChannel> gone;  // waits for its thread's end without the lock
  MutexLock lock(mutex_);
  const auto it = channels_.find(relid);
  if (it == channels_.end()) return;
  gone = std::move(it->second);
  channels_.erase(it);
}

void NetworkVsp::CountPages(const std::shared_ptr<vmbus::PageCensus>& census) {
  MutexLock lock(mutex_);
  for (const auto& [relid, channel] : channels_) channel->CountPages(census);
}

AdapterFeatures NetworkVsp::features() const {
  const NetProperties& p = backend_->properties();
  return {.mac = options_.mac,
          .mtu = 1500,
          .queues = options_.queues,
          .checksum = p.checksum,
          .large_send = p.large_send,
          .coalesced = p.coalesced,
          .any_address = options_.port.spoof,
          .link_speed = p.link_speed};
}

AdapterTotals NetworkVsp::totals() const {
  return {.sent = counters_.sent.value(),
          .received = counters_.received.value(),
          .send_errors = counters_.send_errors.value(),
          .receive_errors = counters_.unwanted.value(),
          .no_buffer = counters_.no_sections.value()};
}

void NetworkVsp::RequestSubChannels(uint32_t primary, uint32_t count) {
  if (server_ != nullptr) server_->RequestSubChannels(primary, count);
}

void NetworkVsp::FindGpadl(uint32_t relid, uint32_t handle,
                           std::function<void(std::shared_ptr<const vmbus::Gpadl>)> found) {
  server_->FindGpadl(relid, handle, std::move(found));
}

NetworkVsp::Flow NetworkVsp::flow() {
  MutexLock lock(mutex_);
  return {.generation = generation_.load(),
          .link_up = link_up(),
          .coalesced = coalesced_,
          .filter = filter_,
          .session = session_};
}

void NetworkVsp::SetSession(std::shared_ptr<const Session> session) {
  MutexLock lock(mutex_);
  if (session_ == session) return;
  session_.swap(session);  // the old one ends after the lock
  Changed();
}

void NetworkVsp::SetFlow(uint32_t packet_filter, bool coalesced, const MacAddress& own) {
  MutexLock lock(mutex_);
  const bool same = packet_filter_ == packet_filter && own_ == own;
  if (std::exchange(coalesced_, coalesced) == coalesced && same) return;
  packet_filter_ = packet_filter;
  own_ = own;
  Changed();
}

void NetworkVsp::OnWireGone(const std::string& why) {
  {
    MutexLock lock(mutex_);
    wire_gone_ = true;
  }
  SetLink(false);
  if (options_.notice) options_.notice(options_.name + ": " + why + "; its link is down");
}

void NetworkVsp::SetLink(bool up) {
  MutexLock lock(mutex_);
  up = up && !wire_gone_;
  if (link_up_.exchange(up) == up) return;
  Changed();
}

void NetworkVsp::Changed() {
  const ReceiveFilter wanted =
      MakeReceiveFilter(options_.port, own_, options_.vlan, packet_filter_, link_up());
  if (std::exchange(filter_, wanted) != wanted) backend_->SetFilter(wanted);
  generation_.fetch_add(1);
  for (const auto& [relid, channel] : channels_) channel->Wake();
}

void NetworkVsp::DescribeTo(StatSink& sink) const { counters_.DescribeTo(sink); }

}  // namespace partita::network
