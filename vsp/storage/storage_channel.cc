#include "vsp/storage/storage_channel.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "vsp/guest_buffer.h"

namespace partita::storage {
namespace {

namespace proto = vmbus::storage;

constexpr int kDoorbellFile = 0, kWakeFile = 1;  // the disks follow
constexpr uint64_t kSpaceRetryNs = 200'000'000;

}  // namespace

StorageChannel::StorageChannel(StorageVsp& controller,
                               std::shared_ptr<vmbus::ServerChannel> channel, uint32_t primary,
                               EventFd wake)
    : controller_(controller),
      counters_(controller.counters()),
      channel_(std::move(channel)),
      primary_(primary),
      inbox_(std::move(wake), kWakeFile),
      scheduling_(controller.options().shares_cpus),
      doorbell_(kDoorbellFile, [this](uint64_t count) { channel_->CountDoorbells(count); }) {}

absl::StatusOr<std::unique_ptr<StorageChannel>> StorageChannel::Start(
    StorageVsp& controller, std::shared_ptr<vmbus::ServerChannel> channel, uint32_t primary) {
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  std::unique_ptr<StorageChannel> self(
      new StorageChannel(controller, std::move(channel), primary, std::move(wake)));
  RETURN_IF_ERROR(self->Prepare());
  ASSIGN_OR_RETURN(self->thread_,
                   StartThread("a storage channel", [raw = self.get()] { raw->ThreadMain(); }));
  return self;
}

StorageChannel::~StorageChannel() {
  if (thread_.joinable()) thread_.join();
}

absl::Status StorageChannel::Prepare() {
  std::vector<int> files = {channel_->doorbell_fd(), inbox_.fd()};
  std::set<uint8_t> opcodes = {IORING_OP_READ};
  std::vector<int> first_files;
  for (const auto& disk : controller_.disks()) {
    first_files.push_back(static_cast<int>(files.size()));
    const std::vector<int> of_disk = disk->backend().files();
    files.insert(files.end(), of_disk.begin(), of_disk.end());
    for (const uint8_t opcode : disk->backend().opcodes()) opcodes.insert(opcode);
  }
  const std::vector<uint8_t> allowed(opcodes.begin(), opcodes.end());
  ASSIGN_OR_RETURN(
      ring_, IoRing::Create({.entries = kRequestsPerChannel, .files = files, .opcodes = allowed}));
  for (size_t i = 0; i < controller_.disks().size(); ++i) {
    Lun& lun = luns_.emplace_back();
    ASSIGN_OR_RETURN(lun.queue, controller_.disks()[i]->backend().OpenQueue(
                                    *ring_, first_files[i], [this](std::function<void()> task) {
                                      inbox_.Post(std::move(task));
                                    }));
  }
  return absl::OkStatus();
}

void StorageChannel::Stop(std::function<void()> done) {
  inbox_.Post([this, done = std::move(done)]() mutable {
    done_ = std::move(done);
    stopping_ = true;
  });
}

void StorageChannel::CountPages(std::shared_ptr<vmbus::PageCensus> census) {
  inbox_.Post([this, census = std::move(census)] {
    // A request that is free keeps the pages of its last transfer.
    const std::set<const Request*> idle(free_.begin(), free_.end());
    for (const auto& request : requests_) {
      if (!idle.contains(request.get())) census->Add(request->pfns);
    }
  });
}

// --- the loop ---

void StorageChannel::ThreadMain() {
  pthread_setname_np(pthread_self(), ("stor" + std::to_string(channel_->identity().relid)).c_str());
  scheduling_.Start();
  if (const absl::Status enabled = ring_->Enable(); !enabled.ok()) {
    Log(Message(enabled));
    ring_open_ = false;
  }
  channel_->MaskDoorbell();
  while (!stopping_ || in_flight_ > 0) {
    inbox_.Arm(*ring_);  // also while stopping: a flush may end on another loop
    if (controller_.removing() && channel_->identity().subchannel_index == 0 &&
        !std::exchange(told_removal_, true)) {
      proto::Packet packet{};
      packet.operation = proto::kRemoveDevice;
      const auto sent =
          channel_->Send(vmbus::kPacketInBand, 0, 0, std::as_bytes(std::span(&packet, 1)));
      if (sent != vmbus::RingStatus::kOk) counters_->bad_packets.Add();
    }
    if (stopping_) AbortHeld();
    // By the clock, however busy the other disks keep the loop.
    if (!parked_.empty() && MonotonicNs() >= retry_at_ns_) RetryParked();
    const bool more = ring_open_ && !stopping_ && DrainRing();
    replies_.Flush(*channel_);
    channel_->Commit();
    // First without sleeping and without asking for a doorbell: what the page cache answers is done
    // when this returns, and the guest meanwhile queues on without an exit.
    if (more || ring_->queued() > 0) {
      Check(ring_->Submit(0));
      if (ring_->Reap() > 0 || more) continue;
    }
    if (stopping_ && in_flight_ == 0) break;
    // Idle, or waiting for slow I/O. Ask for a doorbell, look once more, and only then sleep.
    if (!stopping_) doorbell_.Arm(*ring_);
    const bool can_read = ring_open_ && !stopping_ && CanTakePacket();
    scheduling_.AfterWake(std::exchange(packets_of_wake_, 0));
    const unsigned wait = can_read && channel_->UnmaskDoorbell() ? 0 : 1;
    counters_->loop_wakes.Add();
    Check(ring_->Submit(wait, NsToRetry()));
    channel_->MaskDoorbell();
    ring_->Reap();
  }
  counters_->system_calls.Add(ring_->system_calls());
  // The doorbell read is still armed in the ring; the ring goes before the eventfd it points at.
  luns_.clear();
  ring_.reset();
  inbox_.Close();
  channel_.reset();
  done_();
}

void StorageChannel::Check(int result) {
  if (result >= 0) return;
  LogLimited("storage loop: io_uring failed: " + std::string(strerror(-result)));
}

bool StorageChannel::DrainRing() {
  // Few at a time: what the page cache answers at once is published while the guest still works on
  // the batch before, so that both sides run at the same time instead of in turns.
  // While gathering there is nothing to overlap.
  const int batch = scheduling_.gathering() ? 64 : 8;
  vmbus::Packet packet;
  for (int i = 0; i < batch; ++i) {
    if (!CanTakePacket()) return false;
    const vmbus::RingStatus status = channel_->Next(&packet);
    if (status == vmbus::RingStatus::kEmpty) return false;
    if (status != vmbus::RingStatus::kOk) {
      ring_open_ = false;
      LogLimited("storage: the guest corrupted the ring of channel " +
                 std::to_string(channel_->identity().relid) + "; it is stopped");
      return false;
    }
    ++packets_of_wake_;
    HandlePacket(packet);
  }
  return true;
}

void StorageChannel::HandlePacket(const vmbus::Packet& packet) {
  const auto type = packet.descriptor.type;
  proto::Packet body{};
  if ((type != vmbus::kPacketInBand && type != vmbus::kPacketGpaDirect) ||
      packet.payload.size() < sizeof(body)) {
    counters_->bad_packets.Add();
    // Whoever waits for an answer gets one, if it can be addressed at all.
    if ((packet.descriptor.flags & vmbus::kCompletionRequested) != 0) {
      body.operation = proto::kCompleteIo;
      body.status = proto::kStatusInvalidParameter;
      replies_.Send(*channel_, packet.descriptor.transaction_id, body);
    }
    return;
  }
  std::memcpy(&body, packet.payload.data(), sizeof(body));
  if (body.operation == proto::kExecuteSrb) {
    HandleSrb(packet, body);
  } else {
    HandleControl(body, packet.descriptor.transaction_id);
  }
}

void StorageChannel::HandleControl(const proto::Packet& packet, uint64_t transaction) {
  proto::Packet reply = packet;
  reply.operation = proto::kCompleteIo;
  reply.status = proto::kStatusSuccess;
  const bool primary = channel_->identity().subchannel_index == 0;
  switch (packet.operation) {
    case proto::kBeginInitialization:
      if (!primary) reply.status = proto::kStatusInvalidParameter;
      break;
    case proto::kQueryProtocolVersion: {
      const uint16_t v = packet.version.version;
      if (v != proto::kVersion5_1 && v != proto::kVersion6_0 && v != proto::kVersion6_2) {
        reply.status = proto::kStatusRevisionMismatch;
      }
      break;
    }
    case proto::kQueryProperties: {
      const proto::Properties properties = {
          .reserved = 0,
          .max_channels = static_cast<uint16_t>(controller_.options().subchannels),
          .reserved2 = 0,
          .flags = controller_.options().subchannels > 0 ? 1u : 0u,
          .max_transfer = kMaxTransfer,
          .reserved3 = 0};
      std::memset(reply.bytes, 0, sizeof(reply.bytes));
      std::memcpy(reply.properties, &properties, sizeof(properties));
      break;
    }
    case proto::kEndInitialization:
      if (primary) {
        controller_.initialized().store(true);
      } else {
        reply.status = proto::kStatusInvalidParameter;
      }
      break;
    case proto::kCreateSubChannels:
      // Once per open: a guest that needs others closes first.
      if (!primary || !controller_.initialized().load() ||
          packet.subchannel_count > controller_.options().subchannels ||
          std::exchange(granted_subchannels_, true)) {
        counters_->wrong_state.Add();
        reply.status = proto::kStatusInvalidParameter;
      } else {
        controller_.RequestSubChannels(primary_, packet.subchannel_count);
      }
      break;
    case proto::kResetBus:
    case proto::kResetAdapter:
    case proto::kResetLun:
      return Reset(transaction);
    default:
      counters_->bad_packets.Add();
      reply.status = proto::kStatusInvalidParameter;
      break;
  }
  replies_.Send(*channel_, transaction, reply);
}

void StorageChannel::Reset(uint64_t transaction) {
  counters_->resets.Add();
  resets_.push_back(transaction);
  AbortHeld();
  FinishReset();
}

// Commands the kernel does not have yet end here; what it has is waited for.
void StorageChannel::AbortHeld() {
  for (Request* request : std::exchange(parked_, {})) {
    Unhold(*request);
    --luns_[request->lun].in_flight;
    Complete(*request, kScsiGood, proto::kSrbAborted, 0);
  }
  for (Lun& lun : luns_) {
    for (Request* request : std::exchange(lun.waiting, {})) {
      Complete(*request, kScsiGood, proto::kSrbAborted, 0);
    }
  }
}

void StorageChannel::FinishReset() {
  if (in_flight_ > 0) return;
  proto::Packet reply{};
  reply.operation = proto::kCompleteIo;
  for (const uint64_t transaction : std::exchange(resets_, {}))
    replies_.Send(*channel_, transaction, reply);
}

// --- commands ---

StorageChannel::Request* StorageChannel::TakeRequest() {
  if (free_.empty()) {
    requests_.push_back(std::make_unique<Request>());
    requests_.back()->owner = this;
    free_.push_back(requests_.back().get());
  }
  Request* request = free_.back();
  free_.pop_back();
  ++in_flight_;
  request->buffer.clear();
  request->pfns.clear();
  request->buffer_length = 0;
  request->ranges.clear();
  request->next_range = 0;
  request->verify_left = request->verified = 0;
  return request;
}

void StorageChannel::Release(Request& request) {
  // VERIFY alone needs memory; kept, it would add up over all requests.
  if (!request.scratch.empty()) std::vector<std::byte>().swap(request.scratch);
  free_.push_back(&request);
  --in_flight_;
  if (!resets_.empty()) FinishReset();
}

void StorageChannel::HandleSrb(const vmbus::Packet& packet, const proto::Packet& body) {
  counters_->commands.Add();
  Request* request = TakeRequest();
  request->transaction = packet.descriptor.transaction_id;
  request->started_ns = MonotonicNs();
  request->packet = body;
  proto::ScsiRequest& srb = request->packet.srb;
  if (!controller_.initialized().load()) {
    counters_->wrong_state.Add();
    return Complete(*request, kScsiGood, proto::kSrbError, 0);
  }
  if (srb.cdb_length > proto::kCdbSize || !MapBuffer(packet, *request)) {
    counters_->bad_ranges.Add();
    return Complete(*request, kScsiGood, proto::kSrbInvalidRequest, 0);
  }
  std::array<uint8_t, proto::kCdbSize> cdb{};
  std::copy_n(srb.cdb_or_sense, srb.cdb_length, cdb.begin());
  constexpr uint8_t kInquiry = 0x12, kReportLuns = 0xA0;
  const bool addressed = srb.path == 0 && srb.target == 0;
  if (cdb[0] == kReportLuns) {
    std::vector<uint8_t> luns;
    for (size_t i = 0; addressed && i < luns_.size(); ++i) luns.push_back(static_cast<uint8_t>(i));
    return Answer(*request, ScsiDisk::ReportLuns(luns));
  }
  if (!addressed || srb.lun >= luns_.size()) {
    // Stock Linux takes any answer to INQUIRY for success, so an absent LUN must say so in the
    // data.
    if (cdb[0] == kInquiry && (cdb[1] & 1) == 0) return Answer(*request, ScsiDisk::AbsentInquiry());
    if (cdb[0] == kInquiry) return CheckCondition(*request, kInvalidField);
    request->packet.status = proto::kStatusNoSuchDevice;
    return Complete(*request, kScsiGood, proto::kSrbInvalidLun, 0);
  }
  if (controller_.removing()) [[unlikely]] {
    constexpr uint8_t kTestUnitReady = 0x00;
    const bool asked = cdb[0] == kTestUnitReady;
    controller_.NoteCommandWhileRemoving(asked);
    if (asked) return Complete(*request, kScsiGood, proto::kSrbInvalidLun, 0);
  }
  request->lun = srb.lun;
  Run(*request, *controller_.disks()[srb.lun]);
}

// Turns the packet's one GPA range into iovecs on guest memory.
bool StorageChannel::MapBuffer(const vmbus::Packet& packet, Request& request) {
  const uint32_t claimed = request.packet.srb.data_length;
  if (packet.descriptor.type == vmbus::kPacketInBand) return claimed == 0;
  GuestBufferReader reader(packet.headers);
  vmbus::GpaRange range{};
  if (reader.ranges() != 1 || !reader.Next(&range) || range.byte_count > kMaxTransfer + kPageSize) {
    return false;
  }
  request.buffer_offset = range.byte_offset;
  request.buffer_length = std::min(range.byte_count, claimed);
  return reader.Map(channel_->memory(), range, request.buffer_length, request.buffer,
                    &request.pfns);
}

void StorageChannel::Run(Request& request, const ScsiDisk& disk) {
  const proto::ScsiRequest& srb = request.packet.srb;
  std::array<uint8_t, proto::kCdbSize> cdb{};
  std::copy_n(srb.cdb_or_sense, srb.cdb_length, cdb.begin());
  std::vector<uint8_t> parameters;
  if (const uint32_t wanted = ScsiDisk::ParameterLength(cdb, request.buffer_length); wanted != 0) {
    parameters.reserve(wanted);
    for (const iovec& v : request.buffer) {  // copied once, then decided on
      const auto* bytes = static_cast<const uint8_t*>(v.iov_base);
      const size_t chunk = std::min<size_t>(v.iov_len, wanted - parameters.size());
      parameters.insert(parameters.end(), bytes, bytes + chunk);
    }
  }
  ScsiOutcome outcome = disk.Execute(cdb, request.buffer_length, parameters);
  switch (outcome.kind) {
    case ScsiOutcome::Kind::kAnswer:
      return Answer(request, outcome.data);
    case ScsiOutcome::Kind::kCheck:
      return CheckCondition(request, outcome.sense);
    case ScsiOutcome::Kind::kTransfer: {
      const BlockRange& range = outcome.ranges[0];
      request.op = range.op;
      request.offset = range.offset;
      request.length = range.length;
      request.fua = range.fua;
      request.iovecs = request.buffer;
      if (range.length < request.buffer_length) {
        request.trimmed.clear();
        uint64_t left = range.length;
        for (const iovec& v : request.buffer) {
          if (left == 0) break;
          request.trimmed.push_back({v.iov_base, std::min<size_t>(v.iov_len, left)});
          left -= request.trimmed.back().iov_len;
        }
        request.iovecs = request.trimmed;
      }
      return StartBlock(request);
    }
    case ScsiOutcome::Kind::kVerify: {
      const BlockRange& range = outcome.ranges[0];
      request.verify_left = range.length;
      request.op = BlockOp::kRead;
      request.offset = range.offset;
      return StartVerifyPiece(request);
    }
    case ScsiOutcome::Kind::kOperations:
      request.ranges = std::move(outcome.ranges);
      return StartNextRange(request);
  }
}

void StorageChannel::StartNextRange(Request& request) {
  const BlockRange& range = request.ranges[request.next_range++];
  request.op = range.op;
  request.offset = range.offset;
  request.length = range.length;
  request.fua = false;
  request.iovecs = {};
  StartBlock(request);
}

// A command's transfer may be long and a guest may queue many: each takes one piece of memory.
void StorageChannel::StartVerifyPiece(Request& request) {
  constexpr uint64_t kPiece = 64u << 10;
  request.length = std::min(request.verify_left, kPiece);
  request.scratch.resize(request.length);
  request.scratch_iovec = {request.scratch.data(), request.length};
  request.iovecs = std::span(&request.scratch_iovec, 1);
  StartBlock(request);
}

void StorageChannel::OnVerifyPiece(Request& request) {
  uint64_t skip = request.verified, compared = 0;
  for (const iovec& v : request.buffer) {
    const uint64_t here = std::min<uint64_t>(skip, v.iov_len);
    const uint64_t chunk = std::min<uint64_t>(v.iov_len - here, request.length - compared);
    skip -= here;
    if (chunk == 0) continue;
    const auto* guest = static_cast<const std::byte*>(v.iov_base) + here;
    if (std::memcmp(guest, request.scratch.data() + compared, chunk) != 0) {
      return CheckCondition(request, kMiscompare);
    }
    compared += chunk;
  }
  request.verified += request.length;
  request.verify_left -= request.length;
  if (request.verify_left == 0) {
    return Complete(request, kScsiGood, proto::kSrbSuccess,
                    static_cast<uint32_t>(request.verified));
  }
  // The next piece would wait behind the reset, and the reset for this command.
  if (stopping_ || !resets_.empty()) return Complete(request, kScsiGood, proto::kSrbAborted, 0);
  request.offset += request.length;
  StartVerifyPiece(request);
}

// What one disk may have in flight: a part for each busy disk, never less than a useful queue
// depth, and never so much that a disk which was idle finds none left. What is over it waits in
// memory, so that a slow disk's commands do not keep the others' in the guest's ring.
uint32_t StorageChannel::FairShare() const {
  constexpr uint32_t kLeast = 16, kMost = kRequestsPerChannel / 4 * 3;
  if (luns_.size() == 1) return kRequestsPerChannel;
  const auto busy = static_cast<uint32_t>(
      std::count_if(luns_.begin(), luns_.end(), [](const Lun& l) { return l.in_flight > 0; }));
  return std::clamp(kRequestsPerChannel / std::max(1u, busy), kLeast, kMost);
}

void StorageChannel::StartBlock(Request& request) {
  request.done = 0;
  request.not_durable = false;
  Lun& lun = luns_[request.lun];
  if (!lun.waiting.empty() || lun.in_flight >= FairShare()) {
    lun.waiting.push_back(&request);
    return;
  }
  Dispatch(request);
}

void StorageChannel::Dispatch(Request& request) {
  Lun& lun = luns_[request.lun];
  ++lun.in_flight;
  BlockRequest* one = &request;
  lun.queue->Submit(std::span(&one, 1));
}

void StorageChannel::OnBlockDone(BlockRequest& block, int error) {
  auto& request = static_cast<Request&>(block);
  Lun& lun = luns_[request.lun];
  const ScsiDisk& disk = *controller_.disks()[request.lun];
  const bool aborting = stopping_ || !resets_.empty();
  const bool grows = request.op == BlockOp::kWrite || request.op == BlockOp::kWriteZeroes;
  const bool full = (error == ENOSPC || error == EDQUOT) && grows && !request.not_durable;
  if (full && !aborting) {
    // Not the guest's fault and not final: hold the write until there is room.
    counters_->parked.Add();
    if (parked_.empty()) retry_at_ns_ = MonotonicNs() + kSpaceRetryNs;
    parked_.push_back(&request);
    if (!std::exchange(request.held, true)) controller_.SpaceWaiters(+1);
    return;
  }
  Unhold(request);
  --lun.in_flight;
  if (!lun.waiting.empty() && resets_.empty()) {
    Request* next = lun.waiting.front();
    lun.waiting.pop_front();
    Dispatch(*next);
  }
  if (error != 0) {
    const bool lost = request.op == BlockOp::kFlush || request.not_durable;
    if (lost && disk.Poison()) controller_.events().poisoned(request.lun);
    if (request.op == BlockOp::kDiscard && error == EOPNOTSUPP) disk.StopDiscard();
    if (full) return Complete(request, kScsiGood, proto::kSrbAborted, 0);
    return CheckCondition(request, ScsiDisk::SenseForError(request.op, error));
  }
  if (request.next_range < request.ranges.size()) {
    // The next range would wait behind the reset, and the reset for this command.
    if (aborting) return Complete(request, kScsiGood, proto::kSrbAborted, 0);
    return StartNextRange(request);
  }
  if (request.verify_left > 0) return OnVerifyPiece(request);
  if (request.op == BlockOp::kRead) {
    for (size_t i = 0; i < request.pfns.size(); ++i) {
      channel_->memory().MarkDirty(request.pfns[i] << kPageShift, kPageSize);
    }
  }
  const bool transfer = request.op == BlockOp::kRead || request.op == BlockOp::kWrite;
  Complete(request, kScsiGood, proto::kSrbSuccess,
           transfer ? static_cast<uint32_t>(request.length) : request.buffer_length);
}

// How long the loop may sleep; 0 is for ever.
int64_t StorageChannel::NsToRetry() const {
  if (parked_.empty()) return 0;
  const uint64_t now = MonotonicNs();
  return retry_at_ns_ > now ? static_cast<int64_t>(retry_at_ns_ - now) : 1;
}

void StorageChannel::RetryParked() {
  for (Request* request : std::exchange(parked_, {})) {
    --luns_[request->lun].in_flight;
    Dispatch(*request);  // goes on behind what was written already
  }
}

void StorageChannel::Unhold(Request& request) {
  if (std::exchange(request.held, false)) controller_.SpaceWaiters(-1);
}

// --- answers ---

void StorageChannel::Answer(Request& request, std::span<const uint8_t> data) {
  uint64_t at = 0;
  for (const iovec& v : request.buffer) {
    if (at == data.size()) break;
    const uint64_t chunk = std::min<uint64_t>(v.iov_len, data.size() - at);
    std::memcpy(v.iov_base, data.data() + at, chunk);
    at += chunk;
  }
  if (at != 0) {
    for (const uint64_t pfn : request.pfns) {
      channel_->memory().MarkDirty(pfn << kPageShift, kPageSize);
    }
  }
  Complete(request, kScsiGood, proto::kSrbSuccess, static_cast<uint32_t>(at));
}

void StorageChannel::CheckCondition(Request& request, Sense sense) {
  counters_->check_conditions.Add();
  proto::ScsiRequest& srb = request.packet.srb;
  std::memset(srb.cdb_or_sense, 0, sizeof(srb.cdb_or_sense));
  srb.cdb_or_sense[0] = 0x70;  // fixed format, current
  srb.cdb_or_sense[2] = sense.key;
  srb.cdb_or_sense[7] = 0x0A;
  srb.cdb_or_sense[12] = sense.code;
  srb.cdb_or_sense[13] = sense.qualifier;
  srb.sense_length = 18;
  request.packet.status = proto::kStatusIoDeviceError;
  Complete(request, kScsiCheckCondition, proto::kSrbError | proto::kSrbAutosenseValid, 0);
}

void StorageChannel::Complete(Request& request, uint8_t scsi_status, uint8_t srb_status,
                              uint32_t transferred) {
  proto::Packet& packet = request.packet;
  packet.operation = proto::kCompleteIo;
  packet.flags = 0;
  if (srb_status == proto::kSrbSuccess) packet.status = proto::kStatusSuccess;
  packet.srb.srb_status = srb_status;
  packet.srb.scsi_status = scsi_status;
  packet.srb.data_length = transferred;
  if ((srb_status & proto::kSrbAutosenseValid) == 0) packet.srb.sense_length = 0;
  counters_->latency_ns.Record(MonotonicNs() - request.started_ns);
  replies_.Send(*channel_, request.transaction, packet);
  Release(request);
}

}  // namespace partita::storage
