#include "vsp/integration/dynamic_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/guest_memory.h"
#include "base/monotonic.h"

namespace partita::integration {
namespace {

// Messages; source: Linux, drivers/hv/hv_balloon.c.
enum MessageType : uint16_t {
  kVersionRequest = 1,
  kVersionResponse = 2,
  kCapabilities = 3,
  kCapabilitiesResponse = 4,
  kStatus = 5,
  kBalloon = 6,
  kBalloonResponse = 7,
  kUnballoon = 8,
  kUnballoonResponse = 9,
  kHotAdd = 10,
  kHotAddResponse = 11,
};
struct Header {
  uint16_t type, size;
  uint32_t transaction;
};
static_assert(sizeof(Header) == 8);
constexpr uint32_t kVersion1 = 0x00010000, kVersion2 = 0x00020000, kOldVersion = 0x00000003;
constexpr uint64_t kCanBalloon = 1, kCanHotAdd = 2;
constexpr uint64_t kRangePages = (uint64_t{1} << 24) - 1;
constexpr size_t kMaxRanges = 500;  // of a message of 4096 bytes
constexpr uint64_t kMaxRemembered = 1
                                    << 16;  // ranges; a guest that sends more in crumbs is refused
constexpr uint64_t kMib = 1 << 20;

template <typename T>
bool Load(std::span<const std::byte> from, size_t at, T* value) {
  if (from.size() < at + sizeof(T)) return false;
  std::memcpy(value, from.data() + at, sizeof(T));
  return true;
}
absl::Status NotRead() { return Unavailable("the guest does not read its ring"); }
uint64_t Pack(uint64_t first, uint64_t count) {
  return (first & ((uint64_t{1} << 40) - 1)) | count << 40;
}

}  // namespace

DynamicMemory::DynamicMemory(EventLoop& loop, Host host, uint32_t patience_ms)
    : MessageChannel(loop, "dynamic memory", vmbus::kDynamicMemoryClass,
                     vmbus::ParseGuid("1eccfd72-4b41-45ef-b73a-4a6e44c12924")),
      host_(std::move(host)),
      patience_ms_(patience_ms) {}

uint64_t DynamicMemory::assigned_bytes() const {
  return (host_.start_pages + added_pages_ - ballooned_pages_) << kPageShift;
}

void DynamicMemory::OnClosed() {
  ready_ = can_balloon_ = can_add_ = false;
  offered_.clear();
  examination_.reset();
  watching_ = false;  // timers end with the channel
  Finish(Unavailable("the guest closed dynamic memory"));
}

bool DynamicMemory::Send(uint16_t type, std::span<const std::byte> body) {
  const Header header = {type, static_cast<uint16_t>(sizeof(Header) + body.size()), ++transaction_};
  std::vector<std::byte> message(sizeof(header) + body.size());
  std::memcpy(message.data(), &header, sizeof(header));
  if (!body.empty()) std::memcpy(message.data() + sizeof(header), body.data(), body.size());
  return SendPacket(message);
}

void DynamicMemory::OnPacket(const vmbus::Packet& packet) {
  Header header{};
  if (packet.descriptor.type != vmbus::kPacketInBand || !Load(packet.payload, 0, &header) ||
      header.size < sizeof(header) || header.size > packet.payload.size()) {
    return rejected_.Add();
  }
  const auto body = packet.payload.subspan(sizeof(header), header.size - sizeof(header));
  const uint64_t yes = 1, no = 0;
  switch (header.type) {
    case kVersionRequest: {
      uint32_t version = 0;
      if (!Load(body, 0, &version)) return rejected_.Add();
      const bool known = version == kVersion2 || version == kVersion1 || version == kOldVersion;
      Send(kVersionResponse, std::as_bytes(std::span(known ? &yes : &no, 1)));
      return;
    }
    case kCapabilities: {
      uint64_t capabilities = 0;
      if (!Load(body, 0, &capabilities)) return rejected_.Add();
      can_balloon_ = (capabilities & kCanBalloon) != 0;
      const uint64_t alignment = capabilities >> 2 & 15;
      alignment_pages_ = (kMib << alignment) >> kPageShift;
      can_add_ = (capabilities & kCanHotAdd) != 0;
      Send(kCapabilitiesResponse, std::as_bytes(std::span(&yes, 1)));
      ready_ = true;
      return;
    }
    case kStatus:
      if (!Load(body, 0, &available_) || !Load(body, 8, &committed_)) return rejected_.Add();
      return reports_.Add();
    case kBalloonResponse:
      if (doing_ != Doing::kTaking) return rejected_.Add();
      return OnTaken(body);
    case kUnballoonResponse:
      if (doing_ != Doing::kGiving) return rejected_.Add();
      doing_ = Doing::kNothing;
      return Continue();
    case kHotAddResponse:
      if (doing_ != Doing::kAdding) return rejected_.Add();
      return OnAdded(body);
    default:
      return rejected_.Add();
  }
}

void DynamicMemory::SetTarget(uint64_t bytes, std::function<void(absl::StatusOr<uint64_t>)> done) {
  if (!ready_ || !can_balloon_) {
    return done(Unavailable("the guest has no driver for dynamic memory, or not yet"));
  }
  const uint64_t most = host_.max_pages << kPageShift;
  if (bytes == 0 || bytes % kMib != 0 || bytes > most) {
    return done(InvalidArgument("the partition can have 1 to " + std::to_string(most >> 20) +
                                " MiB, in whole MiB"));
  }
  if (done_) std::exchange(done_, nullptr)(absl::CancelledError("another target was set"));
  target_pages_ = bytes >> kPageShift;
  done_ = std::move(done);
  taken_in_step_ = 1;  // nobody has had the last word yet
  if (doing_ == Doing::kNothing) return Continue();
  Watch();
}

// The next step towards the target, if there is one.
void DynamicMemory::Continue() {
  if (!giving_.empty()) return GiveNext();
  const uint64_t has = assigned_bytes() >> kPageShift;
  if (!done_) return;
  if (has > target_pages_) {
    // A step that brought nothing was the guest's last word.
    if (taken_in_step_ == 0) return Finish(absl::OkStatus());
    return Take(has - target_pages_);
  }
  if (has < target_pages_ && ballooned_pages_ > 0) {
    return Give(std::min(target_pages_ - has, ballooned_pages_));
  }
  if (has < target_pages_) return Add(target_pages_ - has);
  Finish(absl::OkStatus());
}

void DynamicMemory::Finish(absl::Status status) {
  doing_ = Doing::kNothing;
  Reply(std::move(status));
}

void DynamicMemory::Reply(absl::Status status) {
  auto done = std::exchange(done_, nullptr);
  if (!done) return;
  if (!status.ok()) return done(std::move(status));
  done(assigned_bytes());
}

// One timer, however often the guest brings something.
void DynamicMemory::Watch() {
  progress_ns_ = MonotonicNs();
  if (!std::exchange(watching_, true)) AwaitProgress(patience_ms_);
}

void DynamicMemory::AwaitProgress(uint64_t milliseconds) {
  After(static_cast<uint32_t>(milliseconds), [this] {
    const uint64_t quiet = (MonotonicNs() - progress_ns_) / 1'000'000;
    if (done_ && quiet < patience_ms_) return AwaitProgress(patience_ms_ - quiet);
    watching_ = false;
    Reply(absl::DeadlineExceededError("the guest did not answer"));
  });
}

void DynamicMemory::Take(uint64_t pages) {
  doing_ = Doing::kTaking;
  all_offered_ = false;
  taken_in_step_ = 0;
  asked_pages_ = std::min<uint64_t>(pages, UINT32_MAX);
  const uint32_t body[] = {static_cast<uint32_t>(asked_pages_), 0};
  if (!Send(kBalloon, std::as_bytes(std::span(body)))) return Finish(NotRead());
  Watch();
}

void DynamicMemory::OnTaken(std::span<const std::byte> body) {
  uint32_t bits = 0;
  if (!Load(body, 4, &bits)) return rejected_.Add();
  const bool more = (bits & 1) != 0;
  const uint32_t count = bits >> 1;
  if (count > kMaxRanges * 2 || body.size() < 8 + size_t{count} * sizeof(uint64_t)) {
    rejected_.Add();
    return Finish(InvalidArgument("the guest's list of pages is cut off"));
  }
  if (all_offered_) return rejected_.Add();
  for (uint32_t i = 0; i < count; ++i) {
    uint64_t packed = 0;
    static_cast<void>(Load(body, 8 + size_t{i} * sizeof(packed), &packed));
    const Range range{packed & ((uint64_t{1} << 40) - 1), packed >> 40};
    // What was not asked for is not even looked at: a guest could keep this thread busy with it.
    if (range.count > asked_pages_ || offered_.size() >= kMaxRemembered) {
      Refuse(range);
      continue;
    }
    asked_pages_ -= range.count;
    if (range.count > 0) Watch();
    offered_.push_back(range);
  }
  all_offered_ = !more;
  if (examination_ == nullptr) Examine();
}

// What has been offered waits while the loops are asked what they use; what comes meanwhile waits
// for the next round.
void DynamicMemory::Examine() {
  examination_ = std::make_shared<bool>(true);
  host_.find_usable([this, wanted = std::weak_ptr<bool>(examination_),
                     ranges = std::exchange(offered_, {})](const Host::Usable& usable) {
    if (wanted.expired()) return;
    examination_.reset();
    for (const Range& range : ranges) Accept(range, usable);
    if (!offered_.empty()) return Examine();
    if (doing_ != Doing::kTaking || !all_offered_) return;
    doing_ = Doing::kNothing;
    Continue();
  });
}

// All of it or nothing: a range is one allocation of the guest.
void DynamicMemory::Accept(const Range& range, const Host::Usable& usable) {
  bool good = range.count > 0 && ballooned_.size() < kMaxRemembered;
  const auto next = ballooned_.lower_bound(range.first);
  if (next != ballooned_.end() && next->first < range.first + range.count) good = false;
  if (next != ballooned_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second > range.first) good = false;
  }
  for (uint64_t page = 0; good && page < range.count; ++page) good = usable(range.first + page);
  if (good) good = host_.discard(range.first, range.count);
  if (!good) return Refuse(range);
  Insert(range);
  ballooned_pages_ += range.count;
  taken_in_step_ += range.count;
}

void DynamicMemory::Refuse(const Range& range) {
  refused_pages_.Add(range.count);
  if (giving_.size() < kMaxRemembered && range.count > 0) giving_.push_back(range);
}

void DynamicMemory::Insert(Range range) {
  const auto next = ballooned_.lower_bound(range.first);
  if (next != ballooned_.end() && next->first == range.first + range.count) {
    range.count += next->second;
    ballooned_.erase(next);
  }
  const auto after = ballooned_.lower_bound(range.first);
  if (after != ballooned_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == range.first) {
      before->second += range.count;
      return;
    }
  }
  ballooned_[range.first] = range.count;
}

void DynamicMemory::Give(uint64_t pages) {
  while (pages > 0 && !ballooned_.empty()) {
    const auto last = std::prev(ballooned_.end());
    const uint64_t count = std::min({pages, last->second, kRangePages});
    // From the end of a range, so that its start stays the key.
    giving_.push_back({last->first + last->second - count, count});
    last->second -= count;
    if (last->second == 0) ballooned_.erase(last);
    ballooned_pages_ -= count;
    pages -= count;
  }
  GiveNext();
}

// As many ranges as one message holds; its answer makes room in the ring for the next.
void DynamicMemory::GiveNext() {
  doing_ = Doing::kGiving;
  const size_t count = std::min(giving_.size(), kMaxRanges);
  const auto ranges = std::span(giving_).last(count);
  std::vector<uint64_t> body(1 + count);
  const uint32_t head[] = {0, static_cast<uint32_t>(count)};
  std::memcpy(body.data(), head, sizeof(head));
  for (size_t i = 0; i < count; ++i) body[1 + i] = Pack(ranges[i].first, ranges[i].count);
  // The pages are there again as soon as the guest touches them.
  if (!Send(kUnballoon, std::as_bytes(std::span(body)))) return Finish(NotRead());
  giving_.resize(giving_.size() - count);
  Watch();
}

void DynamicMemory::Add(uint64_t pages) {
  if (!can_add_ || alignment_pages_ == 0) {
    return Finish(FailedPrecondition("the guest cannot have memory added"));
  }
  // Whole blocks of the guest's; what is left over stays for another time.
  pages = (pages + alignment_pages_ - 1) / alignment_pages_ * alignment_pages_;
  const uint64_t room = host_.max_pages - host_.start_pages - added_pages_;
  pages = std::min(pages, room / alignment_pages_ * alignment_pages_);
  const uint64_t gpa = host_.add_gpa + (added_pages_ << kPageShift);
  if (pages == 0 || pages > kRangePages) {
    return Finish(FailedPrecondition("memory is added in blocks of " +
                                     std::to_string(alignment_pages_ >> 8) + " MiB"));
  }
  if (const absl::Status status = host_.add(gpa, pages << kPageShift); !status.ok()) {
    return Finish(status);
  }
  // The slot is there from now on, whatever becomes of the guest's answer: the next one goes
  // behind.
  added_pages_ += pages;
  doing_ = Doing::kAdding;
  adding_pages_ = pages;
  adding_for_pages_ = target_pages_;
  const uint64_t body[] = {Pack(gpa >> kPageShift, pages), Pack(gpa >> kPageShift, pages)};
  if (!Send(kHotAdd, std::as_bytes(std::span(body)))) return Finish(NotRead());
  Watch();
}

void DynamicMemory::OnAdded(std::span<const std::byte> body) {
  uint32_t pages = 0, result = 0;
  if (!Load(body, 0, &pages) || !Load(body, 4, &result)) return rejected_.Add();
  doing_ = Doing::kNothing;
  // What the guest did not take is not offered again.
  if (result != 1 || pages < adding_pages_) {
    return Finish(FailedPrecondition("the guest took " + std::to_string(pages >> 8) + " of " +
                                     std::to_string(adding_pages_ >> 8) + " MiB"));
  }
  // Another target may have been set while the guest made up its mind.
  if (adding_for_pages_ != target_pages_) return Continue();
  Finish(absl::OkStatus());
}

void DynamicMemory::DescribeTo(StatSink& sink) const {
  sink.Add("memory.assigned_bytes", assigned_bytes());
  sink.Add("memory.ballooned_bytes", ballooned_pages_ << kPageShift);
  sink.Add("memory.added_bytes", added_pages_ << kPageShift);
  sink.Add("memory.guest_available_bytes", available_ << kPageShift);
  sink.Add("memory.guest_committed_bytes", committed_ << kPageShift);
  sink.Add("memory.reports", reports_);
  sink.Add("memory.refused_pages", refused_pages_);
  sink.Add("memory.rejected", rejected_);
}

}  // namespace partita::integration
