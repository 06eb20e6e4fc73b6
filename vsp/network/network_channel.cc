#include "vsp/network/network_channel.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/thread.h"
#include "vsp/guest_buffer.h"

namespace partita::network {
namespace {

namespace proto = vmbus::network;

constexpr int kDoorbellFile = 0, kWakeFile = 1;  // the backend's follow
// In a section, which is of whole pages: RNDIS header and up to three records of per-packet
// information, then the frame. Fixed, so that the frame can be received in place before anything is
// known of it.
constexpr uint32_t kHeadroom = 96;
static_assert(kHeadroom >= sizeof(proto::RndisFrame) + 3 * sizeof(proto::PacketInfo32));
constexpr uint32_t kEthernet = 14, kTag = 4;
constexpr uint16_t kEtherVlan = 0x8100;
constexpr uint32_t kMaxMtu = 9000;
constexpr uint32_t kLargestFrame = 65535 + kEthernet + kTag;
constexpr uint32_t kSendSection = 6144;
constexpr uint64_t kMaxReceiveBuffer = 32 << 20;
constexpr uint32_t kMaxSlots = 32;

// A section for frames of up to `frame` bytes.
constexpr uint32_t WholePages(uint32_t frame) {
  constexpr auto kPage = static_cast<uint32_t>(kPageSize);
  return (kHeadroom + frame + kPage - 1) / kPage * kPage;
}

}  // namespace

NetworkChannel::NetworkChannel(NetworkVsp& adapter, std::shared_ptr<vmbus::ServerChannel> channel,
                               uint32_t primary, EventFd wake)
    : adapter_(adapter),
      counters_(adapter.counters()),
      channel_(std::move(channel)),
      primary_relid_(primary),
      inbox_(std::move(wake), kWakeFile),
      scheduling_(adapter.options().shares_cpus),
      control_(adapter.features(), adapter.counters().control),
      doorbell_(kDoorbellFile, [this](uint64_t count) { channel_->CountDoorbells(count); }) {}

absl::StatusOr<std::unique_ptr<NetworkChannel>> NetworkChannel::Start(
    NetworkVsp& adapter, std::shared_ptr<vmbus::ServerChannel> channel, uint32_t primary) {
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  std::unique_ptr<NetworkChannel> self(
      new NetworkChannel(adapter, std::move(channel), primary, std::move(wake)));
  RETURN_IF_ERROR(self->Prepare());
  ASSIGN_OR_RETURN(self->thread_,
                   StartThread("a network channel", [raw = self.get()] { raw->ThreadMain(); }));
  return self;
}

NetworkChannel::~NetworkChannel() {
  if (thread_.joinable()) thread_.join();
}

absl::Status NetworkChannel::Prepare() {
  const uint32_t index = channel_->identity().subchannel_index;
  std::vector<int> files = {channel_->doorbell_fd(), inbox_.fd()};
  const auto first = static_cast<int>(files.size());
  const std::vector<int> of_queue = adapter_.backend().files(index);
  files.insert(files.end(), of_queue.begin(), of_queue.end());
  std::vector<uint8_t> opcodes = adapter_.backend().opcodes();
  opcodes.push_back(IORING_OP_READ);
  ASSIGN_OR_RETURN(
      ring_, IoRing::Create({.entries = 256, .files = files, .opcodes = opcodes, .links = true}));
  ASSIGN_OR_RETURN(queue_, adapter_.backend().OpenQueue(*this, *ring_, index, first));
  return absl::OkStatus();
}

void NetworkChannel::Stop(std::function<void()> done) {
  inbox_.Post([this, done = std::move(done)]() mutable {
    done_ = std::move(done);
    stopping_ = true;
  });
}

void NetworkChannel::CountPages(std::shared_ptr<vmbus::PageCensus> census) {
  inbox_.Post([this, census = std::move(census)] {
    std::vector<uint64_t> pfns;
    for (const auto& frame : frames_) {
      if (frame->packet == nullptr) continue;
      // The first is the backend's, and what was copied out is no guest memory.
      for (const iovec& v : std::span(frame->iovecs).subspan(1)) {
        channel_->memory().AppendPages(v.iov_base, v.iov_len, pfns);
      }
    }
    census->Add(pfns);
  });
}

// --- the loop ---

void NetworkChannel::Check(int result) {
  if (result >= 0) return;
  LogLimited("network loop: io_uring failed: " + std::string(strerror(-result)));
}

void NetworkChannel::ThreadMain() {
  pthread_setname_np(pthread_self(), ("net" + std::to_string(channel_->identity().relid)).c_str());
  scheduling_.Start();
  prctl(PR_SET_TIMERSLACK, 1000UL);  // 50 us by default, more than what is waited for
  if (const absl::Status enabled = ring_->Enable(); !enabled.ok()) {
    Log(Message(enabled));
    ring_open_ = false;
  }
  channel_->MaskDoorbell();
  while (true) {
    inbox_.Arm(*ring_);
    Refresh();
    if (stopping_ && !std::exchange(cancelled_, true)) queue_->Cancel();
    const bool more = ring_open_ && !stopping_ && DrainRing();
    if (session_ != nullptr && !stopping_ && SettleCoalescing() && Posts()) queue_->PostReceives();
    FlushIndications();
    replies_.Flush(*channel_);
    channel_->Commit();
    if (more || ring_->queued() > 0) {
      Check(ring_->Submit(0));
      if (ring_->Reap() > 0 || more) continue;
    }
    if (stopping_ && queue_->Idle() && frames_in_flight_ == 0) break;
    // Idle. Ask for a doorbell, look once more, and only then sleep.
    if (!stopping_) doorbell_.Arm(*ring_);
    const bool can_read = ring_open_ && !stopping_ && CanTakePacket();
    scheduling_.AfterWake(std::exchange(packets_of_wake_, 0));
    const bool gather = Moderates();
    // While frames gather the guest needs no doorbell: its completions and acknowledgements are
    // found with the next frames, and each doorbell is an exit.
    if (can_read && !gather && channel_->UnmaskDoorbell()) {
      channel_->MaskDoorbell();
      continue;
    }
    Wait(gather);
    channel_->MaskDoorbell();
    ring_->Reap();
  }
  counters_.system_calls.Add(ring_->system_calls());
  if (primary()) {
    adapter_.StopFlow();
    adapter_.SetSession(nullptr);
  }
  queue_.reset();
  ring_.reset();
  inbox_.Close();
  session_.reset();
  slots_.clear();
  in_guest_.clear();
  queued_.clear();
  pending_ = {};
  unpublished_.reset();
  leaving_.clear();
  channel_.reset();
  done_();
}

// Where frames come fast one wake for each of them costs more than the frames: then this waits for
// many, but no longer than a guest would notice. A wake that brings few ends that.
bool NetworkChannel::Moderates() {
  constexpr uint32_t kMany = 4, kFew = 2;
  const uint32_t frames = std::exchange(frames_of_wake_, 0);
  if (frames >= kMany) moderating_ = true;
  if (frames < kFew) moderating_ = false;
  return moderating_ && !stopping_;
}

void NetworkChannel::Wait(bool gather_frames) {
  constexpr uint32_t kGather = 32;
  constexpr int64_t kGatherNs = 40'000;
  counters_.loop_wakes.Add();
  // No more can come than reads are posted.
  const auto gather = std::clamp<uint32_t>(static_cast<uint32_t>(slots_out_), 1, kGather);
  Check(gather_frames ? ring_->Submit(gather, kGatherNs) : ring_->Submit(1));
}

void NetworkChannel::Refresh() {
  if (adapter_.generation() == seen_generation_) return;
  NetworkVsp::Flow flow = adapter_.flow();
  seen_generation_ = flow.generation;
  // Frames may no longer be written where a read is posted for them.
  if (filter_.open && !flow.filter.open) queue_->CancelReceives();
  filter_ = flow.filter;
  if (flow.session != session_) {
    if (session_ != nullptr) queue_->CancelReceives();
    if (session_ != nullptr && frames_in_flight_ > 0) leaving_.push_back(std::move(session_));
    session_ = std::move(flow.session);
    LeaveOldSessions();
    free_sections_.clear();
    control_waiting_.clear();
  }
  wants_coalesced_ = flow.coalesced;
  if (coalesced_ != wants_coalesced_ && !std::exchange(switching_, true)) {
    queue_->CancelReceives();
  }
  if (primary() && told_link_ != flow.link_up && session_ != nullptr &&
      control_.settings().initialized) {
    told_link_ = flow.link_up;
    control_.SetLink(told_link_);
    DeliverControl(RndisControl::LinkIndication(told_link_));
  }
}

void NetworkChannel::LeaveOldSessions() {
  for (Slot* slot : free_slots_) {
    if (slot->session == session_) continue;
    slot->session.reset();
    slot->sections.clear();
  }
  // The guest may answer these or not: their sections are nobody's any more.
  for (Indication& indication : in_guest_) {
    if (indication.session == session_) continue;
    indication.session.reset();
    indication.sections.clear();
  }
}

bool NetworkChannel::SettleCoalescing() {
  if (!switching_) return true;
  if (slots_out_ > 0) return false;
  switching_ = false;
  coalesced_ = wants_coalesced_;
  queue_->SetCoalesced(coalesced_);
  return true;
}

bool NetworkChannel::DrainRing() {
  // Few at a time, so that both sides run at once; while gathering there is nothing to overlap.
  const int batch = scheduling_.gathering() ? 128 : 16;
  vmbus::Packet packet;
  for (int i = 0; i < batch; ++i) {
    if (!CanTakePacket()) return false;
    const vmbus::RingStatus status = channel_->Next(&packet);
    if (status == vmbus::RingStatus::kEmpty) return false;
    if (status != vmbus::RingStatus::kOk) {
      ring_open_ = false;
      LogLimited("network: the guest corrupted the ring of channel " +
                 std::to_string(channel_->identity().relid) + "; it is stopped");
      return false;
    }
    if (packet.descriptor.type != vmbus::kPacketCompletion) ++packets_of_wake_;
    HandlePacket(packet);
  }
  return true;
}

void NetworkChannel::HandlePacket(const vmbus::Packet& packet) {
  const uint64_t transaction = packet.descriptor.transaction_id;
  const auto type = packet.descriptor.type;
  if (type == vmbus::kPacketCompletion) return HandleCompletion(transaction);
  proto::Nvsp message{};
  if ((type != vmbus::kPacketInBand && type != vmbus::kPacketGpaDirect) ||
      packet.payload.size() < sizeof(message.type) + sizeof(uint32_t)) {
    counters_.bad_packets.Add();
    return;
  }
  std::memcpy(&message, packet.payload.data(), std::min(packet.payload.size(), sizeof(message)));
  if (message.type == proto::kSendRndisPacket) return HandleRndis(packet, message);
  HandleNvsp(message, transaction, (packet.descriptor.flags & vmbus::kCompletionRequested) != 0);
}

void NetworkChannel::HandleNvsp(const proto::Nvsp& message, uint64_t transaction, bool answer) {
  if (!primary()) {
    counters_.wrong_state.Add();
    return;
  }
  switch (message.type) {
    case proto::kInit:
      return HandleInit(message, transaction);
    case proto::kSendNdisVersion:
      return;
    case proto::kSendNdisConfig: {
      const uint32_t frame = message.body[proto::kConfigMtu];
      if (frame > kEthernet) mtu_ = std::clamp<uint32_t>(frame - kEthernet, 68, kMaxMtu);
      std::memcpy(&capabilities_, &message.body[proto::kConfigCapabilitiesLow],
                  sizeof(capabilities_));
      control_.SetMtu(mtu_);
      return;
    }
    case proto::kSendReceiveBuffer:
    case proto::kSendSendBuffer:
      return HandleBuffer(message, transaction);
    case proto::kRevokeReceiveBuffer:
    case proto::kRevokeSendBuffer:
      unpublished_.reset();
      adapter_.StopFlow();
      adapter_.SetSession(nullptr);
      return;
    case proto::kSubChannel: {
      proto::Nvsp reply{.type = proto::kSubChannel, .body = {}};
      const uint32_t most = adapter_.options().queues - 1;
      const uint32_t count = std::min(message.body[proto::kSubCount], most);
      // Once per open: a guest that needs others closes first.
      const bool valid = message.body[proto::kSubOperation] == proto::kSubChannelAllocate &&
                         !std::exchange(granted_subchannels_, true);
      if (!valid) counters_.wrong_state.Add();
      reply.body[proto::kSubOperation] = valid ? proto::kNvspSuccess : proto::kNvspFail;
      reply.body[proto::kSubCount] = valid ? count : 0;
      Answer(transaction, reply);
      // The guest waits, without limit, for as many offers as were granted.
      if (valid && count > 0) adapter_.RequestSubChannels(primary_relid_, count);
      return;
    }
    default:
      counters_.bad_packets.Add();
      if (answer) Answer(transaction, {.type = proto::kSendRndisPacketComplete, .body = {2}});
      return;
  }
}

void NetworkChannel::HandleInit(const proto::Nvsp& message, uint64_t transaction) {
  proto::Nvsp reply{.type = proto::kInitComplete, .body = {}};
  const uint32_t wanted = message.body[proto::kInitMaximum];
  const bool known = wanted == proto::kVersion1 || wanted == proto::kVersion2 ||
                     wanted == proto::kVersion4 || wanted == proto::kVersion5 ||
                     wanted == proto::kVersion6 || wanted == proto::kVersion6_1;
  if (known) {
    version_ = wanted;
    control_.Reset();
    control_.SetCoalesced(CanCoalesce());
    mtu_ = 1500;
    capabilities_ = 0;
  }
  reply.body[proto::kInitNegotiated] = wanted;
  reply.body[proto::kInitMdlLength] = 34;
  reply.body[proto::kInitStatus] = known ? proto::kNvspSuccess : proto::kNvspFail;
  Answer(transaction, reply);
}

void NetworkChannel::HandleBuffer(const proto::Nvsp& message, uint64_t transaction) {
  const bool receive = message.type == proto::kSendReceiveBuffer;
  looking_up_ = true;
  adapter_.FindGpadl(primary_relid_, message.body[proto::kBufferGpadl],
                     [this, alive = std::weak_ptr<bool>(alive_), receive,
                      transaction](const std::shared_ptr<const vmbus::Gpadl>& gpadl) {
                       if (alive.expired())
                         return;  // both this and the end of a channel are the control thread's
                       inbox_.Post([this, receive, transaction, gpadl] {
                         looking_up_ = false;
                         if (receive) {
                           UseReceiveBuffer(gpadl, transaction);
                         } else {
                           UseSendBuffer(gpadl, transaction);
                         }
                       });
                     });
}

// Every piece of a frame costs both sides more than the bytes in it. So where the guest's buffer is
// large enough (Linux gives 16 MiB), a section holds any frame that may be coalesced; where it is
// not, many sections are worth more.
uint32_t NetworkChannel::SectionSize(uint64_t buffer) const {
  constexpr uint64_t kFewest = 128, kFewestOfAChannel = 16;
  constexpr uint32_t kLarge = WholePages(kLargestFrame);
  const uint64_t fewest = std::max(kFewest, kFewestOfAChannel * adapter_.options().queues);
  if (CanCoalesce() && buffer / kLarge >= fewest) return kLarge;
  return WholePages(mtu_ + kEthernet + kTag);
}

void NetworkChannel::UseReceiveBuffer(const std::shared_ptr<const vmbus::Gpadl>& gpadl,
                                      uint64_t transaction) {
  proto::Nvsp reply{.type = proto::kSendReceiveBufferComplete, .body = {}};
  reply.body[proto::kReceiveStatus] = proto::kNvspFail;
  auto session = std::make_unique<Session>();
  session->plain_bytes = WholePages(mtu_ + kEthernet + kTag) - kHeadroom;
  if (gpadl != nullptr) session->section_size = SectionSize(gpadl->byte_count);
  if (gpadl != nullptr && version_ != 0 && gpadl->byte_offset == 0 &&
      gpadl->byte_count <= kMaxReceiveBuffer && gpadl->byte_count >= session->section_size) {
    session->receive = SharedBuffer::Create(channel_->memory(), gpadl->pfns, gpadl->byte_count);
  }
  if (session->receive == nullptr) {
    counters_.wrong_state.Add();
    return Answer(transaction, reply);
  }
  const auto count = static_cast<uint32_t>(session->receive->size() / session->section_size);
  const uint32_t useful = session->section_size - kHeadroom;
  session->sections_per_large = CanCoalesce() ? (kLargestFrame + useful - 1) / useful : 1;
  // Half of the sections may wait for frames, half be with the guest.
  const uint32_t share = count / (2 * adapter_.options().queues);
  session->slots = std::clamp<uint32_t>(share, 1, kMaxSlots);
  session->large_slots = std::clamp<uint32_t>(share / session->sections_per_large, 1, kMaxSlots);
  session->sections = std::make_unique<SectionPool>(count);
  session->receive_pages = gpadl;
  session->section_batch = std::clamp<uint32_t>(count / (8 * adapter_.options().queues), 1, 32);
  session->vlan = (capabilities_ & proto::kCapabilityVlan) != 0;
  reply.body[proto::kReceiveStatus] = proto::kNvspSuccess;
  reply.body[proto::kReceiveSections] = 1;
  reply.body[proto::kReceiveOffset] = 0;
  reply.body[proto::kReceiveSize] = session->section_size;
  reply.body[proto::kReceiveCount] = count;
  reply.body[proto::kReceiveEnd] = count * session->section_size;
  unpublished_ = std::move(session);
  Answer(transaction, reply);
}

void NetworkChannel::UseSendBuffer(const std::shared_ptr<const vmbus::Gpadl>& gpadl,
                                   uint64_t transaction) {
  proto::Nvsp reply{.type = proto::kSendSendBufferComplete, .body = {}};
  std::unique_ptr<SharedBuffer> buffer;
  if (gpadl != nullptr && unpublished_ != nullptr && gpadl->byte_offset == 0) {
    buffer = SharedBuffer::Create(channel_->memory(), gpadl->pfns, gpadl->byte_count);
  }
  if (buffer == nullptr) {
    counters_.wrong_state.Add();
    reply.body[proto::kSendStatus] = proto::kNvspFail;
  } else {
    unpublished_->send = std::move(buffer);
    unpublished_->send_pages = gpadl;
    reply.body[proto::kSendStatus] = proto::kNvspSuccess;
    reply.body[proto::kSendSectionSize] = kSendSection;
    Publish();
  }
  Answer(transaction, reply);
}

void NetworkChannel::Publish() {
  if (unpublished_ == nullptr) return;
  adapter_.SetSession(std::move(unpublished_));
  Refresh();
}

// --- from the guest ---

bool NetworkChannel::Gather(const vmbus::Packet& packet, const proto::Nvsp& message) {
  stream_.clear();
  stream_length_ = cursor_at_ = 0;
  cursor_ = 0;
  const uint32_t section = message.body[proto::kRndisSection];
  if (section != proto::kNoSection) {
    const uint32_t bytes = message.body[proto::kRndisSectionSize];
    const uint64_t offset = uint64_t{section} * kSendSection;
    if (session_ == nullptr || session_->send == nullptr || bytes > kSendSection ||
        offset > session_->send->size() || bytes > session_->send->size() - offset) {
      return false;
    }
    session_->send->AppendTo(stream_, offset, bytes);
    stream_length_ = bytes;
  }
  if (packet.descriptor.type != vmbus::kPacketGpaDirect) return stream_length_ > 0;
  GuestBufferReader reader(packet.headers);
  for (uint32_t i = 0; i < reader.ranges(); ++i) {
    vmbus::GpaRange range{};
    if (!reader.Next(&range) ||
        !reader.Map(channel_->memory(), range, range.byte_count, stream_, nullptr)) {
      return false;
    }
    stream_length_ += range.byte_count;
  }
  return stream_length_ > 0;
}

void NetworkChannel::CopyStream(uint64_t at, std::span<std::byte> out) const {
  uint64_t start = 0;
  size_t done = 0;
  for (const iovec& v : stream_) {
    if (done == out.size()) return;
    if (at + done < start + v.iov_len) {
      const uint64_t skip = at + done - start;
      const size_t part = std::min<uint64_t>(out.size() - done, v.iov_len - skip);
      std::memcpy(out.data() + done, static_cast<const std::byte*>(v.iov_base) + skip, part);
      done += part;
    }
    start += v.iov_len;
  }
}

void NetworkChannel::SliceStream(uint64_t at, uint64_t length, std::vector<iovec>& out) {
  // Frames come in order: go on from where the last one was.
  if (at < cursor_at_) cursor_at_ = cursor_ = 0;
  while (length > 0) {
    const iovec& v = stream_[cursor_];
    if (at >= cursor_at_ + v.iov_len) {
      cursor_at_ += v.iov_len;
      ++cursor_;
      continue;
    }
    const uint64_t skip = at - cursor_at_;
    const uint64_t part = std::min<uint64_t>(length, v.iov_len - skip);
    out.push_back({static_cast<std::byte*>(v.iov_base) + skip, part});
    at += part;
    length -= part;
  }
}

void NetworkChannel::HandleRndis(const vmbus::Packet& packet, const proto::Nvsp& message) {
  const uint64_t transaction = packet.descriptor.transaction_id;
  const bool answer = (packet.descriptor.flags & vmbus::kCompletionRequested) != 0;
  if (!Gather(packet, message)) {
    counters_.bad_packets.Add();
    if (answer) Answer(transaction, {.type = proto::kSendRndisPacketComplete, .body = {2}});
    return;
  }
  if (message.body[proto::kRndisChannel] == proto::kControlChannel) {
    HandleControl(transaction, answer);
  } else {
    HandleFrames(transaction, answer);
  }
}

void NetworkChannel::HandleControl(uint64_t transaction, bool answer) {
  const bool good = primary() && stream_length_ <= kMaxControlMessage;
  std::vector<std::byte> bytes(good ? stream_length_ : 0);
  CopyStream(0, bytes);
  if (answer) {
    Answer(transaction, {.type = proto::kSendRndisPacketComplete,
                         .body = {good ? proto::kNvspSuccess : proto::kNvspFail}});
  }
  if (!good) return counters_.wrong_state.Add();
  Publish();
  std::vector<std::byte> reply = control_.Handle(bytes, adapter_.totals());
  adapter_.SetFlow(control_.settings().filter, control_.settings().coalesced,
                   control_.settings().mac);
  Refresh();
  if (!reply.empty()) DeliverControl(std::move(reply));
}

void NetworkChannel::HandleFrames(uint64_t transaction, bool answer) {
  if (free_packets_.empty()) {
    packets_.push_back(std::make_unique<Outgoing>());
    free_packets_.push_back(packets_.back().get());
  }
  Outgoing& packet = *free_packets_.back();
  free_packets_.pop_back();
  // One "frame" of its own, so that it is not finished while frames are still being found.
  packet = {.transaction = transaction, .frames = 1, .ok = true, .answer = answer};
  uint64_t at = 0;
  while (stream_length_ - at >= sizeof(proto::RndisFrame)) {
    proto::RndisFrame header{};
    CopyStream(at, std::as_writable_bytes(std::span(&header, 1)));
    const auto layout = ParseFrameHeader(header, stream_length_ - at);
    if (!layout || !SendFrame(*layout, at, packet)) {
      counters_.bad_frames.Add();
      packet.ok = false;
      break;  // where the next one starts is not known for sure
    }
    at += layout->message_length;
  }
  FinishPacket(packet);
}

bool NetworkChannel::SendFrame(const FrameLayout& layout, uint64_t message_at, Outgoing& packet) {
  std::array<std::byte, kMaxPacketInfo> info;
  const auto info_bytes = std::span(info).first(layout.info_length);
  CopyStream(message_at + layout.info_offset, info_bytes);
  auto requests = ParsePacketInfo(info_bytes);
  if (!requests) return false;
  const NetProperties& properties = adapter_.backend().properties();
  const bool large = requests->large_send && proto::LargeSendMss(*requests->large_send) != 0;
  if ((large && !properties.large_send) || (requests->checksum && !properties.checksum)) {
    counters_.bad_offloads.Add();
    return false;
  }
  if (!adapter_.link_up()) return true;  // as from a wire that is not plugged in
  const uint16_t access = adapter_.options().vlan;
  if (access != 0 && requests->vlan) {
    counters_.wrong_vlan.Add();
    return true;
  }
  if (free_frames_.empty()) {
    frames_.push_back(std::make_unique<Frame>());
    free_frames_.push_back(frames_.back().get());
  }
  Frame& frame = *free_frames_.back();
  const uint64_t data = message_at + layout.data_offset;
  const bool tag = access != 0 || requests->vlan.has_value();
  frame.iovecs.resize(1);
  frame.length = layout.data_length;
  // What is decided on leaves from the copy it was decided on.
  const uint32_t decisive = DecisiveBytes(adapter_.options().port);
  const uint32_t copied = std::min(layout.data_length, large || tag ? kMaxFrameHeader : decisive);
  const auto head = std::span(frame.head).subspan(kTag, copied);
  CopyStream(data, head);
  if (!MayLeave(head)) return true;
  if (!PrepareTransmit(*requests, layout.data_length, head, &frame.header)) {
    counters_.bad_offloads.Add();
    return false;
  }
  if (tag) {
    const uint16_t tci = access != 0 ? access : proto::VlanTci(*requests->vlan);
    constexpr size_t kAddresses = 12;
    std::memmove(frame.head.data(), frame.head.data() + kTag, kAddresses);
    const uint16_t words[] = {htobe16(kEtherVlan), htobe16(tci)};
    std::memcpy(frame.head.data() + kAddresses, words, sizeof(words));
    frame.iovecs.push_back({frame.head.data(), copied + kTag});
    frame.length += kTag;
    if (frame.header.flags != 0) {
      frame.header.checksum_start = static_cast<uint16_t>(frame.header.checksum_start + kTag);
    }
    if (frame.header.gso_type != 0) {
      frame.header.header_length = static_cast<uint16_t>(frame.header.header_length + kTag);
    }
  } else {
    frame.iovecs.push_back({head.data(), head.size()});
  }
  SliceStream(data + copied, layout.data_length - copied, frame.iovecs);
  if (frame.header.gso_type != 0) counters_.large_sent.Add();
  free_frames_.pop_back();
  frame.packet = &packet;
  ++packet.frames;
  ++frames_in_flight_;
  queue_->Send(frame);
  return true;
}

bool NetworkChannel::MayLeave(std::span<const std::byte> head) {
  switch (CheckOutgoing(adapter_.options().port, filter_.own, head)) {
    case OutgoingVerdict::kPass:
      return true;
    case OutgoingVerdict::kForeignSource:
      counters_.foreign_source.Add();
      break;
    case OutgoingVerdict::kReservedGroup:
      counters_.reserved_group.Add();
      break;
    case OutgoingVerdict::kDhcpServer:
      counters_.dhcp_server.Add();
      break;
    case OutgoingVerdict::kRouter:
      counters_.router.Add();
      break;
  }
  return false;
}

void NetworkChannel::OnSent(TransmitFrame& sent, bool ok) {
  auto& frame = static_cast<Frame&>(sent);
  if (ok) {
    counters_.sent.Add();
    counters_.sent_bytes.Add(frame.length);
  } else {
    counters_.send_errors.Add();  // lost, as frames may be
  }
  if (--frames_in_flight_ == 0) leaving_.clear();
  Outgoing& packet = *std::exchange(frame.packet, nullptr);
  free_frames_.push_back(&frame);
  FinishPacket(packet);
}

void NetworkChannel::FinishPacket(Outgoing& packet) {
  if (--packet.frames > 0) return;
  if (packet.answer) {
    Answer(packet.transaction, {.type = proto::kSendRndisPacketComplete,
                                .body = {packet.ok ? proto::kNvspSuccess : proto::kNvspFail}});
  }
  free_packets_.push_back(&packet);
}

// --- to the guest ---

bool NetworkChannel::Wants(std::span<const std::byte> head) {
  // A change that this loop has yet to act on counts already.
  const bool seen = adapter_.generation() == seen_generation_;
  switch (CheckIncoming(seen ? filter_ : adapter_.flow().filter, head)) {
    case IncomingVerdict::kTake:
      return true;
    case IncomingVerdict::kUnwanted:
      counters_.unwanted.Add();
      break;
    case IncomingVerdict::kWrongVlan:
      counters_.wrong_vlan.Add();
      break;
  }
  return false;
}

// All channels share the pool and its lock: this one takes some at a time and keeps what comes
// back, but so few that idle channels together hold no more than a quarter of all.
bool NetworkChannel::TakeSections(const Session& session, uint32_t count,
                                  std::vector<uint32_t>& out) {
  if (free_sections_.size() < count) {
    session.sections->TakeSome(session.section_batch + count, free_sections_);
  }
  if (free_sections_.size() < count) return false;
  out.insert(out.end(), free_sections_.end() - count, free_sections_.end());
  free_sections_.resize(free_sections_.size() - count);
  return true;
}

void NetworkChannel::ReturnSections(const Session& session, std::span<const uint32_t> sections) {
  if (&session != session_.get()) return session.sections->Return(sections);
  free_sections_.insert(free_sections_.end(), sections.begin(), sections.end());
  if (free_sections_.size() <= 2 * session.section_batch) return;
  session.sections->Return(std::span(free_sections_).subspan(session.section_batch));
  free_sections_.resize(session.section_batch);
}

ReceiveSlot* NetworkChannel::TakeSlot() {
  if (session_ == nullptr || slots_out_ >= (coalesced_ ? session_->large_slots : session_->slots)) {
    return nullptr;
  }
  if (free_slots_.empty()) {
    slots_.push_back(std::make_unique<Slot>());
    free_slots_.push_back(slots_.back().get());
  }
  Slot& slot = *free_slots_.back();
  if (slot.session != session_) {
    slot.session = session_;
    slot.sections.clear();
  }
  // A frame mostly takes the first section of many: the rest stay with the slot.
  const uint32_t wanted = coalesced_ ? session_->sections_per_large : 1;
  if (slot.sections.size() > wanted) {
    ReturnSections(*session_, std::span(slot.sections).subspan(wanted));
    slot.sections.resize(wanted);
  }
  const auto kept = static_cast<uint32_t>(slot.sections.size());
  if (!TakeSections(*session_, wanted - kept, slot.sections)) {
    counters_.no_sections.Add();
    return nullptr;
  }
  free_slots_.pop_back();
  ++slots_out_;
  slot.iovecs.resize(1);
  const uint32_t useful = coalesced_ ? session_->section_size - kHeadroom : session_->plain_bytes;
  for (const uint32_t section : slot.sections) {
    session_->receive->AppendTo(slot.iovecs, uint64_t{section} * session_->section_size + kHeadroom,
                                useful);
  }
  slot.capacity = useful * wanted;
  return &slot;
}

void NetworkChannel::ReleaseSlot(Slot& slot, uint32_t used) {
  slot.sections.erase(slot.sections.begin(), slot.sections.begin() + used);
  if (slot.session != session_) {
    slot.session.reset();
    slot.sections.clear();
  }
  --slots_out_;
  free_slots_.push_back(&slot);
}

void NetworkChannel::OnReceived(ReceiveSlot& received, uint32_t length) {
  auto& slot = static_cast<Slot&>(received);
  // A slot holds more than any frame of the guest's MTU, or of 64 KiB: this one is longer and was
  // cut off, or was on its way when the guest switched coalescing off.
  const bool cut = length >= slot.capacity;
  length = std::min(length, slot.capacity);
  if (length < kEthernet || cut || stopping_ || slot.session != session_ || !filter_.open) {
    if (length != 0) (cut ? counters_.oversize : counters_.unwanted).Add();
    return ReleaseSlot(slot, 0);
  }
  Deliver(slot, length);
}

void NetworkChannel::Deliver(Slot& slot, uint32_t length) {
  const Session& session = *slot.session;
  const uint32_t useful = session.section_size - kHeadroom;
  const uint64_t first = uint64_t{slot.sections[0]} * session.section_size;
  std::array<std::byte, 64> head_bytes;
  auto head = std::span(head_bytes).first(std::min<uint32_t>(length, head_bytes.size()));
  session.receive->Read(first + kHeadroom, head);
  // Of what came before the backend's filter was as it is now.
  if (adapter_.backend().properties().filters && !Wants(head)) return ReleaseSlot(slot, 0);
  VnetHeader header = slot.header;

  // A tag in the frame goes beside it, or is the wire's own in access mode.
  uint32_t info[3][4];
  uint32_t records = 0;
  auto add = [&](uint32_t type, uint32_t value) {
    const uint32_t record[4] = {sizeof(proto::PacketInfo32), type, sizeof(proto::PacketInfo),
                                value};
    std::memcpy(info[records++], record, sizeof(record));
  };
  const bool tagged = length >= kEthernet + kTag && head[12] == std::byte{kEtherVlan >> 8} &&
                      head[13] == std::byte{0};
  const uint16_t access = adapter_.options().vlan;
  uint32_t skip = 0;
  if (tagged) {
    const auto tci = static_cast<uint16_t>(std::to_integer<uint16_t>(head[14]) << 8 |
                                           std::to_integer<uint16_t>(head[15]));
    if (access != 0 || session.vlan) {
      skip = kTag;
      session.receive->Write(first + kHeadroom + kTag, head.first(12));
      std::memmove(head.data() + kTag, head.data(), 12);
      head = head.subspan(kTag);
      if ((header.flags & kVnetNeedsChecksum) != 0) {
        header.checksum_start = static_cast<uint16_t>(header.checksum_start - kTag);
      }
      if (access == 0) add(proto::kInfoVlan, proto::VlanInfo(tci));
    }
  }
  bool finish = false;
  const uint32_t checksum = ReceiveChecksumInfo(header, head, &finish);
  if (checksum != 0) add(proto::kInfoChecksum, checksum);
  if (finish) {
    CompleteChecksum(std::span(slot.iovecs).subspan(1), length, header.checksum_start + skip,
                     header.checksum_offset);
  }

  const uint32_t used = (length + useful - 1) / useful;
  const bool coalesced = used > 1 || length > session.plain_bytes;
  if (coalesced) counters_.large_received.Add();
  if (pending_.session != nullptr &&
      (pending_.session != slot.session || pending_.ranges.size() + used > kRangesPerPacket)) {
    queued_.push_back(std::exchange(pending_, {}));
  }
  if (pending_.session == nullptr && !spare_.empty()) {
    pending_ = std::move(spare_.back());
    spare_.pop_back();
  }
  pending_.session = slot.session;
  uint32_t left = length;
  for (uint32_t i = 0; i < used; ++i) {
    const uint64_t section = uint64_t{slot.sections[i]} * session.section_size;
    const uint32_t part = std::min(left, useful);
    const uint32_t cut = i == 0 ? skip : 0;
    left -= part;
    // Everything known of the frame goes with its first piece.
    struct {
      proto::RndisFrame frame;
      uint32_t info[4][4];
    } message{};
    uint32_t here = 0;
    if (i == 0) {
      std::memcpy(message.info, info, sizeof(info[0]) * records);
      here = records;
    }
    if (coalesced) {
      const uint32_t record[4] = {
          sizeof(proto::PacketInfo32), proto::kInfoPacketId, sizeof(proto::PacketInfo),
          proto::kPacketIdVersion | proto::kPacketIdPart | (i == 0 ? proto::kPacketIdFirst : 0) |
              (i + 1 == used ? proto::kPacketIdLast : 0)};
      std::memcpy(message.info[here++], record, sizeof(record));
    }
    const uint32_t info_bytes = here * sizeof(proto::PacketInfo32);
    message.frame.header = {proto::kRndisPacket, kHeadroom + part};
    message.frame.data_offset = kHeadroom + cut - proto::kRndisOffsetBase;
    message.frame.data_length = part - cut;
    if (here > 0) {
      message.frame.info_offset = sizeof(proto::RndisFrame) - proto::kRndisOffsetBase;
      message.frame.info_length = info_bytes;
    }
    session.receive->Write(
        section,
        std::as_bytes(std::span(&message, 1)).first(sizeof(proto::RndisFrame) + info_bytes));
    session.receive->MarkDirty(section, kHeadroom + part);
    pending_.ranges.push_back({kHeadroom + part, static_cast<uint32_t>(section)});
    pending_.sections.push_back(slot.sections[i]);
  }
  ++frames_of_wake_;
  counters_.received.Add();
  counters_.received_bytes.Add(length);
  ReleaseSlot(slot, used);
}

// Stock hv_netvsc waits for an answer without end: none is given up while the guest behaves.
void NetworkChannel::DeliverControl(std::vector<std::byte> message) {
  constexpr size_t kMostWaiting = 64;  // more than any guest has requests under way
  if (session_ == nullptr) return counters_.wrong_state.Add();
  if (message.size() > session_->section_size || control_waiting_.size() >= kMostWaiting) {
    return counters_.control_lost.Add();
  }
  control_waiting_.push_back(std::move(message));
  SendControl();
  if (!control_waiting_.empty()) counters_.control_waited.Add();
}

void NetworkChannel::SendControl() {
  while (!control_waiting_.empty()) {
    Indication indication;
    if (!session_->sections->TakeForControl(indication.sections)) return;
    const std::vector<std::byte> message = std::move(control_waiting_.front());
    control_waiting_.pop_front();
    const uint64_t at = uint64_t{indication.sections[0]} * session_->section_size;
    session_->receive->Write(at, message);
    session_->receive->MarkDirty(at, message.size());
    indication.session = session_;
    indication.control = true;
    indication.ranges.push_back({static_cast<uint32_t>(message.size()), static_cast<uint32_t>(at)});
    // Behind the frames that came before it.
    if (pending_.session != nullptr) queued_.push_back(std::exchange(pending_, {}));
    queued_.push_back(std::move(indication));
  }
}

void NetworkChannel::FlushIndications() {
  SendControl();
  if (pending_.session != nullptr) queued_.push_back(std::exchange(pending_, {}));
  while (!queued_.empty()) {
    Indication& indication = queued_.front();
    if (indication.session != session_) {  // its buffer is not the guest's any more
      queued_.pop_front();
      continue;
    }
    std::array<std::byte, sizeof(proto::TransferPageHeader) +
                              kRangesPerPacket * sizeof(proto::TransferPageRange)>
        headers;
    const proto::TransferPageHeader header = {
        .set_id = proto::kReceiveBufferId,
        .sender_owns_set = 0,
        .reserved = 0,
        .range_count = static_cast<uint32_t>(indication.ranges.size())};
    const size_t range_bytes = indication.ranges.size() * sizeof(proto::TransferPageRange);
    std::memcpy(headers.data(), &header, sizeof(header));
    std::memcpy(headers.data() + sizeof(header), indication.ranges.data(), range_bytes);
    proto::Nvsp message{.type = proto::kSendRndisPacket, .body = {}};
    message.body[proto::kRndisChannel] =
        indication.control ? proto::kControlChannel : proto::kDataChannel;
    message.body[proto::kRndisSection] = proto::kNoSection;
    if (free_ids_.empty()) {
      in_guest_.emplace_back();
      free_ids_.push_back(static_cast<uint32_t>(in_guest_.size()));
    }
    const uint32_t id = free_ids_.back();
    const auto payload = std::as_bytes(std::span(&message, 1));
    const auto all = std::span<const std::byte>(headers).first(sizeof(header) + range_bytes);
    const auto status =
        channel_->Send(vmbus::kPacketTransferPages, vmbus::kCompletionRequested, id, payload, all);
    if (status == vmbus::RingStatus::kFull) {
      channel_->Commit();
      if (channel_->RequestRoom(static_cast<uint32_t>(payload.size() + all.size()))) return;
      continue;
    }
    if (status != vmbus::RingStatus::kOk) {
      queued_.clear();
      return;
    }
    free_ids_.pop_back();
    in_guest_[id - 1] = std::move(indication);
    in_guest_[id - 1].active = true;
    queued_.pop_front();
  }
}

void NetworkChannel::HandleCompletion(uint64_t transaction) {
  if (transaction == 0 || transaction > in_guest_.size() || !in_guest_[transaction - 1].active) {
    return counters_.bad_completions.Add();
  }
  Indication& indication = in_guest_[transaction - 1];
  if (indication.session != nullptr) {
    if (indication.control) {
      indication.session->sections->Return(indication.sections);
    } else {
      ReturnSections(*indication.session, indication.sections);
    }
  }
  // As it was, but empty: its memory serves the next one.
  indication.session.reset();
  indication.ranges.clear();
  indication.sections.clear();
  indication.control = indication.active = false;
  if (spare_.size() < kSpareIndications) spare_.push_back(std::move(indication));
  free_ids_.push_back(static_cast<uint32_t>(transaction));
}

void NetworkChannel::Answer(uint64_t transaction, const proto::Nvsp& message) {
  replies_.Send(*channel_, transaction, message);
}

}  // namespace partita::network
