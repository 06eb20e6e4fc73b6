#include "vmbus/server/channel_state_machine.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace partita::vmbus {
namespace {

template <typename T>
T As(std::span<const std::byte> message) {
  T value;
  std::memcpy(&value, message.data(), sizeof(T));
  return value;
}

bool SupportedVersion(uint32_t version, uint32_t ceiling) {
  constexpr uint32_t kKnown[] = {kVersion3_0, kVersion4_0, kVersion4_1, kVersion5_0,
                                 kVersion5_1, kVersion5_2, kVersion5_3};
  return version <= ceiling &&
         std::find(std::begin(kKnown), std::end(kKnown), version) != std::end(kKnown);
}

}  // namespace

// The catalogue of messages. Direction is data: a message only the host may send has no handler
// here and can never reach one.
struct ChannelStateMachine::Row {
  MessageType type;
  void (ChannelStateMachine::*handler)(std::span<const std::byte>);  // null: host to guest
  uint32_t min_version = 0;
  size_t min_size = 0;
  bool needs_connection = true;
};

const ChannelStateMachine::Row ChannelStateMachine::kTable[] = {
    {kOfferChannel, nullptr},
    {kRescindChannelOffer, nullptr},
    {kRequestOffers, &ChannelStateMachine::HandleRequestOffers, 0, sizeof(Header)},
    {kAllOffersDelivered, nullptr},
    {kOpenChannel, &ChannelStateMachine::HandleOpenChannel, 0, sizeof(OpenChannel)},
    {kOpenChannelResult, nullptr},
    {kCloseChannel, &ChannelStateMachine::HandleCloseChannel, 0, sizeof(RelidMessage)},
    {kGpadlHeader, &ChannelStateMachine::HandleGpadlHeader, 0, sizeof(GpadlHeader)},
    {kGpadlBody, &ChannelStateMachine::HandleGpadlBody, 0, sizeof(GpadlBody)},
    {kGpadlCreated, nullptr},
    {kGpadlTeardown, &ChannelStateMachine::HandleGpadlTeardown, 0, sizeof(GpadlTeardown)},
    {kGpadlTorndown, nullptr},
    {kRelidReleased, &ChannelStateMachine::HandleRelidReleased, 0, sizeof(RelidMessage)},
    {kInitiateContact, &ChannelStateMachine::HandleInitiateContact, 0, sizeof(InitiateContact),
     false},
    {kVersionResponse, nullptr},
    {kUnload, &ChannelStateMachine::HandleUnload, kVersion3_0, sizeof(Header)},
    {kUnloadResponse, nullptr},
    {kTlConnectRequest, &ChannelStateMachine::HandleTlConnect, kVersion4_0, sizeof(Header) + 32},
    {kModifyChannel, &ChannelStateMachine::HandleModifyChannel, kVersion4_1, sizeof(ModifyChannel)},
    {kTlConnectResult, nullptr},
    {kModifyChannelResponse, nullptr},
};

void ChannelStateMachine::OnMessage(std::span<const std::byte> message) {
  counters_.messages.Add();
  if (message.size() < sizeof(Header) || message.size() > kMaxMessage) {
    return counters_.wrong_size.Add();
  }
  const auto type = As<Header>(message).type;
  const auto* row = std::find_if(std::begin(kTable), std::end(kTable),
                                 [&](const Row& r) { return r.type == type; });
  if (row == std::end(kTable)) return counters_.unknown.Add();
  if (row->handler == nullptr) return counters_.wrong_direction.Add();
  if (message.size() < row->min_size) return counters_.wrong_size.Add();
  if (row->needs_connection) {
    if (!connected()) return counters_.wrong_state.Add();
    if (version_ < row->min_version) return counters_.wrong_version.Add();
  }
  (this->*row->handler)(message);
}

// --- connection ---

void ChannelStateMachine::HandleInitiateContact(std::span<const std::byte> message) {
  const auto contact = As<InitiateContact>(message);
  if (connection_ == Connection::kDisconnected) return Connect(contact);
  // Contact on a live connection (kexec, a crash kernel): everything old stops before the answer.
  BeginDisconnect([this, contact] { Connect(contact); });
}

void ChannelStateMachine::Connect(const InitiateContact& contact) {
  actions_.DropMessages();
  connect_vp_ = contact.target_vp;
  const bool supported = SupportedVersion(contact.version, limits_.max_version);
  if (supported) {
    connection_ = Connection::kConnected;
    version_ = contact.version;
  }
  VersionResponse response{};
  response.header.type = kVersionResponse;
  response.supported = supported ? 1 : 0;
  response.message_connection =
      contact.version >= kVersion5_0 ? kMessageConnection : contact.version;
  Send(response);
}

void ChannelStateMachine::HandleUnload(std::span<const std::byte>) {
  BeginDisconnect([this] {
    Header response{};
    response.type = kUnloadResponse;
    Send(response);
  });
}

void ChannelStateMachine::BeginDisconnect(std::function<void()> then) {
  // A second contact replaces one that still waits: only the newest is answered.
  after_disconnect_ = std::move(then);
  if (connection_ == Connection::kConnected) {
    connection_ = Connection::kDisconnecting;
    for (auto& [relid, channel] : channels_) {
      channel.reopen.reset();
      if (channel.state == State::kOpen) StartClose(relid, channel);
      if (channel.state == State::kOpening) channel.close_after_open = true;
    }
  }
  ContinueDisconnect();
}

void ChannelStateMachine::ContinueDisconnect() {
  if (connection_ != Connection::kDisconnecting) return;
  for (const auto& [relid, channel] : channels_) {
    if (channel.state != State::kClosed) return;
  }
  gpadls_.Clear();
  std::vector<uint32_t> gone;
  for (auto& [relid, channel] : channels_) {
    channel.offered = false;
    channel.owed_subchannels = 0;
    if (channel.primary != 0 || channel.removing || channel.rescinded) gone.push_back(relid);
  }
  for (const uint32_t relid : gone) EraseChannel(relid);
  connection_ = Connection::kDisconnected;
  offers_sent_ = false;
  if (auto then = std::exchange(after_disconnect_, nullptr)) then();
}

// --- offers ---

uint32_t ChannelStateMachine::AllocateRelid() const {
  for (uint32_t relid = 1; relid <= kMaxRelid; ++relid) {
    if (!channels_.contains(relid)) return relid;
  }
  return 0;
}

uint32_t ChannelStateMachine::AddChannel(const OfferParameters& parameters) {
  const uint32_t relid = AllocateRelid();
  if (relid == 0) return 0;
  Channel& channel = channels_[relid];
  channel.parameters = parameters;
  if (connected() && offers_sent_) SendOffer(relid, channel);
  return relid;
}

uint32_t ChannelStateMachine::AddSubChannels(uint32_t primary, uint32_t count) {
  Channel* parent = FindChannel(primary);
  if (parent == nullptr || parent->primary != 0 || parent->removing ||
      parent->state != State::kOpen || !connected()) {
    return 0;
  }
  uint32_t live = parent->owed_subchannels;
  for (const uint32_t id : SubChannelsOf(primary)) {
    if (!channels_.at(id).rescinded) ++live;
  }
  const uint32_t most = parent->parameters.max_subchannels;
  const uint32_t granted = std::min(count, most - std::min(most, live));
  if (granted < count) counters_.over_limit.Add();
  parent->owed_subchannels += granted;
  OfferSubChannels(primary);
  return granted;
}

// As many relids again as a device has sub-channels may be with a guest that has not released them.
void ChannelStateMachine::OfferSubChannels(uint32_t primary) {
  Channel* parent = FindChannel(primary);
  if (parent == nullptr || parent->owed_subchannels == 0 || parent->state != State::kOpen) return;
  const std::vector<uint32_t> existing = SubChannelsOf(primary);
  size_t room = size_t{2} * parent->parameters.max_subchannels;
  room -= std::min(room, existing.size());
  std::set<uint16_t> taken;
  for (const uint32_t id : existing) {
    const Channel& other = channels_.at(id);
    if (!other.rescinded) taken.insert(other.subchannel_index);
  }
  uint16_t index = 1;
  for (; parent->owed_subchannels > 0 && room > 0; --room) {
    while (taken.contains(index)) ++index;
    const uint32_t relid = AllocateRelid();
    if (relid == 0) return;
    --parent->owed_subchannels;
    Channel& channel = channels_[relid];
    channel.parameters = parent->parameters;
    channel.primary = primary;
    channel.subchannel_index = index++;
    SendOffer(relid, channel);
  }
}

void ChannelStateMachine::HandleRequestOffers(std::span<const std::byte>) {
  if (offers_sent_) return counters_.wrong_state.Add();
  for (auto& [relid, channel] : channels_) SendOffer(relid, channel);
  offers_sent_ = true;
  Header done{};
  done.type = kAllOffersDelivered;
  Send(done);
}

void ChannelStateMachine::SendOffer(uint32_t relid, Channel& channel) {
  if (channel.removing) return;
  Offer offer{};
  offer.header.type = kOfferChannel;
  offer.interface_type = channel.parameters.type;
  offer.instance = channel.parameters.instance;
  offer.flags = channel.parameters.flags;
  offer.mmio_megabytes = channel.parameters.mmio_megabytes;
  std::copy(channel.parameters.user_data.begin(), channel.parameters.user_data.end(),
            offer.user_data);
  offer.subchannel_index = channel.subchannel_index;
  offer.relid = relid;
  offer.dedicated_interrupt = 1;
  offer.connection_id = kChannelConnectionBase + relid;
  channel.offered = true;
  Send(offer);
}

void ChannelStateMachine::Rescind(uint32_t relid, Channel& channel) {
  if (!channel.offered) return EraseChannel(relid);
  if (channel.rescinded) return;
  channel.rescinded = true;
  RelidMessage rescind{};
  rescind.header.type = kRescindChannelOffer;
  rescind.relid = relid;
  Send(rescind);
}

std::vector<uint32_t> ChannelStateMachine::SubChannelsOf(uint32_t primary) const {
  std::vector<uint32_t> subchannels;
  for (const auto& [id, other] : channels_) {
    if (other.primary == primary) subchannels.push_back(id);
  }
  return subchannels;
}

void ChannelStateMachine::RemoveChannel(uint32_t relid) {
  Channel* channel = FindChannel(relid);
  if (channel == nullptr || channel->removing) return;
  // Sub-channels first: stock Linux does not survive the other order.
  for (const uint32_t id : SubChannelsOf(relid)) RemoveChannel(id);
  channel->removing = true;
  channel->owed_subchannels = 0;
  channel->reopen.reset();
  if (channel->state == State::kOpening) channel->close_after_open = true;
  Rescind(relid, *channel);
}

void ChannelStateMachine::DropSubChannels(uint32_t primary) {
  channels_.at(primary).owed_subchannels = 0;
  for (const uint32_t id : SubChannelsOf(primary)) {
    RemoveChannel(id);
    Channel* channel = FindChannel(id);  // gone, if it was never offered
    if (channel != nullptr && channel->state == State::kOpen) StartClose(id, *channel);
  }
}

void ChannelStateMachine::HandleRelidReleased(std::span<const std::byte> message) {
  const uint32_t relid = As<RelidMessage>(message).relid;
  Channel* channel = FindChannel(relid);
  if (channel == nullptr || !channel->offered) return counters_.bad_relid.Add();
  // It may come right behind CLOSECHANNEL, while the device is still letting go.
  if (channel->state == State::kClosing) {
    channel->release_after_close = true;
    return;
  }
  if (channel->state != State::kClosed) return counters_.wrong_state.Add();
  Release(relid, *channel);
}

void ChannelStateMachine::Release(uint32_t relid, Channel& channel) {
  gpadls_.EraseOf(relid);
  if (channel.rescinded || channel.removing || channel.primary != 0) return EraseChannel(relid);
  channel.offered = false;  // the guest gave up an offer of a device that still exists
}

void ChannelStateMachine::EraseChannel(uint32_t relid) {
  gpadls_.EraseOf(relid);
  const uint32_t primary = channels_.at(relid).primary;
  channels_.erase(relid);
  actions_.Removed(relid);
  if (primary != 0) OfferSubChannels(primary);
}

// --- open and close ---

ChannelStateMachine::Channel* ChannelStateMachine::FindChannel(uint32_t relid) {
  const auto it = channels_.find(relid);
  return it == channels_.end() ? nullptr : &it->second;
}

void ChannelStateMachine::HandleOpenChannel(std::span<const std::byte> message) {
  const auto request = As<OpenChannel>(message);
  Channel* channel = FindChannel(request.relid);
  if (channel == nullptr || !channel->offered) return counters_.bad_relid.Add();
  if (channel->rescinded || channel->removing) return;  // crossed on the way: the guest knows
  switch (channel->state) {
    case State::kClosed:
      return StartOpen(request.relid, *channel, request);
    case State::kClosing:
      channel->reopen = request;
      return;
    case State::kOpening:
    case State::kOpen:
      return counters_.wrong_state.Add();
  }
}

void ChannelStateMachine::StartOpen(uint32_t relid, Channel& channel, const OpenChannel& request) {
  channel.open_id = request.open_id;
  channel.ring_gpadl = request.gpadl;
  auto ring = FindGpadl(relid, request.gpadl);
  // Each direction needs its control page and at least one page of data.
  const bool valid = ring != nullptr && ring->byte_offset == 0 &&
                     ring->byte_count % kRingPage == 0 && request.downstream_page_offset >= 2 &&
                     ring->pfns.size() >= 2 &&
                     request.downstream_page_offset <= ring->pfns.size() - 2;
  if (!valid) {
    counters_.bad_gpadl.Add();
    return SendOpenResult(channel, relid, kStatusInvalidParameter);
  }
  channel.state = State::kOpening;
  channel.close_after_open = false;
  OpenRequest open;
  open.relid = relid;
  open.primary = channel.primary != 0 ? channel.primary : relid;
  open.subchannel_index = channel.subchannel_index;
  open.target_vp = request.target_vp;
  open.downstream_page_offset = request.downstream_page_offset;
  open.ring = std::move(ring);
  std::copy(std::begin(request.user_data), std::end(request.user_data), open.user_data.begin());
  actions_.Open(open);
}

void ChannelStateMachine::SendOpenResult(const Channel& channel, uint32_t relid, uint32_t status) {
  OpenChannelResult result{};
  result.header.type = kOpenChannelResult;
  result.relid = relid;
  result.open_id = channel.open_id;
  result.status = status;
  Send(result);
}

void ChannelStateMachine::OnOpened(uint32_t relid, bool success) {
  Channel* channel = FindChannel(relid);
  if (channel == nullptr || channel->state != State::kOpening) return;
  channel->state = success ? State::kOpen : State::kClosed;
  if (connected() && !channel->removing) {
    SendOpenResult(*channel, relid, success ? kStatusSuccess : kStatusUnsuccessful);
  }
  if (success && channel->close_after_open) return StartClose(relid, *channel);
  if (!success) FinishClose(relid, *channel);
}

void ChannelStateMachine::HandleCloseChannel(std::span<const std::byte> message) {
  const uint32_t relid = As<RelidMessage>(message).relid;
  Channel* channel = FindChannel(relid);
  if (channel == nullptr || !channel->offered) return counters_.bad_relid.Add();
  switch (channel->state) {
    case State::kOpen:
      return StartClose(relid, *channel);
    case State::kOpening:
      channel->close_after_open = true;
      return;
    case State::kClosing:
      channel->reopen.reset();
      return;
    case State::kClosed:
      return counters_.wrong_state.Add();
  }
}

void ChannelStateMachine::StartClose(uint32_t relid, Channel& channel) {
  channel.state = State::kClosing;
  actions_.Close(relid);
}

void ChannelStateMachine::OnClosed(uint32_t relid) {
  Channel* channel = FindChannel(relid);
  if (channel == nullptr || channel->state != State::kClosing) return;
  channel->state = State::kClosed;
  FinishClose(relid, *channel);
}

void ChannelStateMachine::FinishClose(uint32_t relid, Channel& channel) {
  if (connection_ == Connection::kDisconnecting) return ContinueDisconnect();
  for (const GpadlTable::Key& key : gpadls_.Due(relid)) SendTorndown(key);
  // They do not outlive their primary; the guest asks for new ones next time.
  if (channel.primary == 0) DropSubChannels(relid);
  if (std::exchange(channel.release_after_close, false)) return Release(relid, channel);
  if (channel.reopen) {
    const OpenChannel request = *channel.reopen;
    channel.reopen.reset();
    StartOpen(relid, channel, request);
  }
}

void ChannelStateMachine::HandleModifyChannel(std::span<const std::byte> message) {
  const auto request = As<ModifyChannel>(message);
  Channel* channel = FindChannel(request.relid);
  const bool valid = channel != nullptr && channel->state == State::kOpen;
  if (valid) {
    actions_.Retarget(request.relid, request.target_vp);
  } else {
    counters_.bad_relid.Add();
  }
  if (version_ >= kVersion5_3) {  // the guest waits without a time-out
    ModifyChannelResponse response{};
    response.header.type = kModifyChannelResponse;
    response.relid = request.relid;
    response.status = valid ? kStatusSuccess : kStatusInvalidParameter;
    Send(response);
  }
}

void ChannelStateMachine::HandleTlConnect(std::span<const std::byte> message) {
  const auto request = As<TlConnectRequest>(message);
  // Without a listener nothing is answered; Linux ends the connect by its own time-out.
  actions_.SocketConnect(request.guest_endpoint, request.host_service);
}

size_t ChannelStateMachine::open_channels() const {
  return static_cast<size_t>(std::count_if(channels_.begin(), channels_.end(), [](const auto& c) {
    return c.second.state != State::kClosed;
  }));
}

// --- GPADLs ---

void ChannelStateMachine::GpadlReturned(uint32_t relid, uint32_t handle, uint64_t loan) {
  const GpadlTable::Key key = {relid, handle};
  if (gpadls_.Return(key, loan) && connected() && !RingInUse(key)) SendTorndown(key);
}

bool ChannelStateMachine::RingInUse(const GpadlTable::Key& key) const {
  const auto it = channels_.find(key.relid);
  if (it == channels_.end() || it->second.state == State::kClosed) return false;
  return it->second.ring_gpadl == key.handle;
}

void ChannelStateMachine::SendGpadlCreated(const GpadlTable::Key& key, uint32_t status) {
  GpadlCreated created{};
  created.header.type = kGpadlCreated;
  created.relid = key.relid;
  created.gpadl = key.handle;
  created.status = status;
  Send(created);
}

void ChannelStateMachine::AnswerGpadl(const GpadlTable::Key& key, GpadlTable::Added result) {
  switch (result) {
    case GpadlTable::Added::kMore:
      return;
    case GpadlTable::Added::kComplete:
      return SendGpadlCreated(key, kStatusSuccess);
    case GpadlTable::Added::kInvalid:
      counters_.bad_gpadl.Add();
      return SendGpadlCreated(key, kStatusInvalidParameter);
    case GpadlTable::Added::kOverLimit:
      counters_.over_limit.Add();
      return SendGpadlCreated(key, kStatusInsufficientResources);
  }
}

void ChannelStateMachine::HandleGpadlHeader(std::span<const std::byte> message) {
  const auto header = As<GpadlHeader>(message);
  const GpadlTable::Key key = {header.relid, header.gpadl};
  const Channel* channel = FindChannel(header.relid);
  if (channel == nullptr || !channel->offered) {
    counters_.bad_relid.Add();
    return SendGpadlCreated(key, kStatusInvalidParameter);
  }
  AnswerGpadl(key, gpadls_.Begin(header, message.subspan(sizeof(GpadlHeader))));
}

void ChannelStateMachine::HandleGpadlBody(std::span<const std::byte> message) {
  const auto piece =
      gpadls_.Continue(As<GpadlBody>(message).gpadl, message.subspan(sizeof(GpadlBody)));
  // A body names no channel, so there is nobody to answer.
  if (piece.result == GpadlTable::Added::kInvalid) return counters_.bad_gpadl.Add();
  AnswerGpadl(piece.key, piece.result);
}

void ChannelStateMachine::HandleGpadlTeardown(std::span<const std::byte> message) {
  const auto request = As<GpadlTeardown>(message);
  const GpadlTable::Key key = {request.relid, request.gpadl};
  if (!gpadls_.Contains(key)) {
    counters_.bad_gpadl.Add();
    return SendTorndown(key);  // the guest waits without a time-out
  }
  const bool ring = RingInUse(key);
  // While closing this is the ordinary order; on an open channel it is a violation.
  if (ring && channels_.at(key.relid).state != State::kClosing) return counters_.wrong_state.Add();
  // A guest below VMBus 4.0 gives its buffers up first and closes then: reads into them may still
  // be on their way back.
  if (gpadls_.WantBack(key, ring)) SendTorndown(key);
}

void ChannelStateMachine::SendTorndown(const GpadlTable::Key& key) {
  gpadls_.Erase(key);
  GpadlTorndown torndown{};
  torndown.header.type = kGpadlTorndown;
  torndown.gpadl = key.handle;
  Send(torndown);
}

void ChannelStateMachine::DescribeTo(StatSink& sink) const {
  sink.Add("vmbus.messages", counters_.messages);
  sink.Add("vmbus.rejected.unknown", counters_.unknown);
  sink.Add("vmbus.rejected.direction", counters_.wrong_direction);
  sink.Add("vmbus.rejected.size", counters_.wrong_size);
  sink.Add("vmbus.rejected.version", counters_.wrong_version);
  sink.Add("vmbus.rejected.state", counters_.wrong_state);
  sink.Add("vmbus.rejected.relid", counters_.bad_relid);
  sink.Add("vmbus.rejected.gpadl", counters_.bad_gpadl);
  sink.Add("vmbus.rejected.limit", counters_.over_limit);
  sink.Add("vmbus.gpadl_pages", gpadls_.pages());
  sink.Add("vmbus.channels", channels_.size());
}

}  // namespace partita::vmbus
