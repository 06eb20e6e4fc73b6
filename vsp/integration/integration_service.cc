#include "vsp/integration/integration_service.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace partita::integration {
namespace {

namespace proto = vmbus::integration;

// Oldest first; a guest takes the newest of its own that it finds.
constexpr std::array<Version, 2> kFrameworks = {{{1, 0}, {3, 0}}};
constexpr uint64_t kNegotiationTransaction = 0;

template <typename T>
void Append(std::vector<std::byte>& to, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

IntegrationService::IntegrationService(EventLoop& loop, Traits traits)
    : MessageChannel(loop, traits.name, traits.type, traits.instance), traits_(std::move(traits)) {}

void IntegrationService::OnOpened() {
  // The answer to OPENCHANNEL is sent after this; the guest looks at its ring behind it.
  SendNegotiation();
}

void IntegrationService::OnClosed() {
  version_.reset();
  current_ = 0;
  for (Waiting& waiting : std::exchange(waiting_, {})) {
    waiting.done({.status = Unavailable("the guest closed the service"), .body = {}});
  }
  OnStopped();
}

void IntegrationService::OnPacket(const vmbus::Packet& packet) {
  proto::Frame frame{};
  if (packet.descriptor.type != vmbus::kPacketInBand || packet.payload.size() < sizeof(frame)) {
    return rejected_.Add();
  }
  std::memcpy(&frame, packet.payload.data(), sizeof(frame));
  const auto body = packet.payload.subspan(sizeof(frame));
  if ((frame.flags & proto::kResponse) == 0 || frame.body_size > body.size()) {
    return rejected_.Add();
  }
  if (frame.type == proto::kNegotiate) return OnNegotiated(body);
  if (frame.type != traits_.message_type || !version_) return rejected_.Add();
  const uint64_t transaction = packet.descriptor.transaction_id;
  const auto used = body.first(frame.body_size);
  if (transaction != 0 && transaction == current_) {
    answered_.Add();
    return FinishCurrent({.status = absl::OkStatus(),
                          .guest_status = frame.status,
                          .body = std::vector<std::byte>(used.begin(), used.end())});
  }
  if (transaction == 0 || transaction >= next_transaction_) return rejected_.Add();
  answered_.Add();
  OnUnsolicited(used);
}

void IntegrationService::OnNegotiated(std::span<const std::byte> body) {
  struct {
    proto::Negotiation counts;
    Version chosen[2];
  } answer{};
  if (version_ || body.size() < sizeof(answer)) return rejected_.Add();
  std::memcpy(&answer, body.data(), sizeof(answer));
  const auto& offered = traits_.versions;
  const bool known =
      answer.counts.frameworks == 1 && answer.counts.messages == 1 &&
      std::find(kFrameworks.begin(), kFrameworks.end(), answer.chosen[0]) != kFrameworks.end() &&
      std::find(offered.begin(), offered.end(), answer.chosen[1]) != offered.end();
  if (!known) return rejected_.Add();  // also the guest's way to say that it has none in common
  framework_ = answer.chosen[0];
  version_ = answer.chosen[1];
  OnReady(*version_);
}

void IntegrationService::SendNegotiation() {
  std::vector<std::byte> body;
  Append(body, proto::Negotiation{.frameworks = static_cast<uint16_t>(kFrameworks.size()),
                                  .messages = static_cast<uint16_t>(traits_.versions.size()),
                                  .reserved = 0});
  for (const Version& version : kFrameworks) Append(body, version);
  for (const Version& version : traits_.versions) Append(body, version);
  Send(proto::kNegotiate, body, kNegotiationTransaction);
}

bool IntegrationService::Send(uint16_t type, std::span<const std::byte> body,
                              uint64_t transaction) {
  proto::Frame frame{};
  frame.pipe_type = proto::kPipeData;
  frame.pipe_size = static_cast<uint32_t>(sizeof(frame) - 8 + body.size());
  frame.framework = framework_;
  frame.type = type;
  frame.message = version_.value_or(Version{0, 0});
  frame.body_size = static_cast<uint16_t>(body.size());
  frame.transaction = static_cast<uint8_t>(transaction);
  frame.flags = proto::kTransaction | proto::kRequest;
  std::vector<std::byte> payload;
  Append(payload, frame);
  payload.insert(payload.end(), body.begin(), body.end());
  if (!SendPacket(payload, transaction)) {
    no_room_.Add();
    return false;
  }
  sent_.Add();
  return true;
}

absl::Status IntegrationService::NotReady() const {
  if (!open()) {
    return Unavailable(std::string("the guest has no driver for ") + traits_.name + ", or not yet");
  }
  if (traits_.daemon != nullptr) {
    return Unavailable(std::string("daemon not running in the guest (") + traits_.daemon + ")");
  }
  return Unavailable(std::string("the guest has not answered for ") + traits_.name + " yet");
}

bool IntegrationService::Tell(std::span<const std::byte> body) {
  return ready() && Send(traits_.message_type, body, next_transaction_++);
}

void IntegrationService::Ask(std::vector<std::byte> body, uint32_t timeout_ms,
                             std::function<void(Answer)> done) {
  if (!ready()) return done({.status = NotReady(), .body = {}});
  if (waiting_.size() >= kMaxQueued) {
    return done({.status = Unavailable("too many requests wait already"), .body = {}});
  }
  waiting_.push_back({std::move(body), timeout_ms, std::move(done)});
  if (current_ == 0) StartNext();
}

void IntegrationService::StartNext() {
  if (waiting_.empty()) return;
  current_ = next_transaction_++;
  if (!Send(traits_.message_type, waiting_.front().body, current_)) {
    return FinishCurrent({.status = Unavailable("the guest does not read its ring"), .body = {}});
  }
  After(waiting_.front().timeout_ms, [this, asked = current_] {
    if (current_ != asked) return;
    timed_out_.Add();
    FinishCurrent({.status = absl::DeadlineExceededError("the guest did not answer"), .body = {}});
  });
}

void IntegrationService::FinishCurrent(Answer answer) {
  current_ = 0;
  Waiting waiting = std::move(waiting_.front());
  waiting_.pop_front();
  waiting.done(std::move(answer));
  if (current_ == 0 && open()) StartNext();
}

void IntegrationService::DescribeTo(StatSink& sink) const {
  const std::string prefix = std::string("integration.") + traits_.name + ".";
  sink.Add(prefix + "sent", sent_);
  sink.Add(prefix + "answered", answered_);
  sink.Add(prefix + "rejected", rejected_);
  sink.Add(prefix + "timed_out", timed_out_);
  sink.Add(prefix + "no_room", no_room_);
}

}  // namespace partita::integration
