#include "vsp/integration/services.h"

#include <time.h>

#include <cstring>
#include <memory>
#include <utility>

#include "base/guest_text.h"
#include "base/monotonic.h"
#include "base/utf16.h"
#include "vsp/integration/answer.h"

namespace partita::integration {
namespace {

namespace proto = vmbus::integration;
using vmbus::ParseGuid;

constexpr uint32_t kBeatMs = 2000;
constexpr uint64_t kLostAfterNs = 3ull * kBeatMs * 1'000'000;  // three beats without an answer
constexpr uint32_t kAnswerMs = 35'000;                         // Linux gives its daemon 30 s

}  // namespace

std::vector<uint8_t> ToUtf16(std::string_view text) {
  const std::vector<std::byte> wide = Utf16FromUtf8(text);
  std::vector<uint8_t> out(wide.size() + sizeof(char16_t));
  if (!wide.empty()) std::memcpy(out.data(), wide.data(), wide.size());
  return out;
}

std::string FromUtf16(std::span<const uint8_t> bytes) {
  size_t end = 0;  // at the first zero
  while (end + 1 < bytes.size() && (bytes[end] != 0 || bytes[end + 1] != 0)) end += 2;
  return Utf8FromUtf16(std::as_bytes(bytes.first(end)), ShowsOnly);
}

// --- heartbeat ---

HeartbeatService::HeartbeatService(EventLoop& loop)
    : IntegrationService(loop, {.name = "heartbeat",
                                .daemon = nullptr,
                                .type = vmbus::kHeartbeatClass,
                                .instance = ParseGuid("fd149e91-82e0-4a7d-afa6-2a4166cbd7c0"),
                                .message_type = proto::kHeartbeat,
                                .versions = {{1, 0}, {3, 0}}}) {}

void HeartbeatService::OnReady(Version) {
  sequence_ = 0;
  answered_ns_ = MonotonicNs();  // negotiating was a sign of life
  Beat();
}

void HeartbeatService::SetPaused(bool paused) {
  paused_ = paused;
  // It has as long as ever to answer once it goes on.
  if (!paused && answered_ns_ != 0) answered_ns_ = MonotonicNs();
}

void HeartbeatService::Beat() {
  if (!paused_) {
    ++sequence_;
    proto::Heartbeat body{};
    body.sequence = sequence_ * 2;  // the guest's answer is the odd number behind it
    Tell(std::as_bytes(std::span(&body, 1)));
  }
  After(kBeatMs, [this] { Beat(); });
}

void HeartbeatService::OnUnsolicited(std::span<const std::byte> body) {
  uint64_t sequence = 0;
  if (body.size() < sizeof(sequence)) return;
  std::memcpy(&sequence, body.data(), sizeof(sequence));
  if ((sequence & 1) != 0 && sequence / 2 <= sequence_) answered_ns_ = MonotonicNs();
}

HeartbeatService::State HeartbeatService::state() const {
  if (!ready() || answered_ns_ == 0) return State::kNoContact;
  return MonotonicNs() - answered_ns_ > kLostAfterNs ? State::kLost : State::kOk;
}

const char* HeartbeatService::state_name() const {
  switch (state()) {
    case State::kNoContact:
      return "No contact";
    case State::kOk:
      return "OK";
    case State::kLost:
      return "Lost communication";
  }
  return "";
}

// --- shutdown ---

ShutdownService::ShutdownService(EventLoop& loop)
    : IntegrationService(loop, {.name = "shutdown",
                                .daemon = nullptr,
                                .type = vmbus::kShutdownClass,
                                .instance = ParseGuid("b6650ff7-33bc-4840-8048-e0676786f393"),
                                .message_type = proto::kShutdown,
                                .versions = {{1, 0}, {3, 0}, {3, 1}, {3, 2}}}) {}

void ShutdownService::Shutdown(Kind kind, bool force, std::function<void(absl::Status)> done) {
  proto::Shutdown body{};
  body.reason = proto::kShutdownPlanned;
  body.flags =
      (force ? proto::kShutdownForce : 0) | (kind == Kind::kReboot      ? proto::kShutdownRestart
                                             : kind == Kind::kHibernate ? proto::kShutdownHibernate
                                                                        : 0);
  constexpr uint32_t kWaitMs = 5000;  // the driver itself answers, without any daemon
  Ask(BytesOf(body), kWaitMs, [done = std::move(done)](const Answer& answer) {
    done(StatusOf(answer, "the guest refused"));
  });
}

// --- time ---

TimeSyncService::TimeSyncService(EventLoop& loop, const Clock& reference, uint32_t sample_ms)
    : IntegrationService(loop, {.name = "time synchronisation",
                                .daemon = nullptr,
                                .type = vmbus::kTimeSyncClass,
                                .instance = ParseGuid("2dd1ce17-079e-403c-b352-a1921ee207ee"),
                                .message_type = proto::kTimeSync,
                                .versions = {{1, 0}, {3, 0}, {4, 0}}}),
      reference_(reference),
      sample_ms_(sample_ms) {}

void TimeSyncService::OnReady(Version) {
  Sync();
  After(sample_ms_, [this] { Sample(); });
}

bool TimeSyncService::Sync() {
  const bool sent = SendTime(proto::kTimeSyncNow);
  owed_ = !sent && ready();
  return sent;
}

void TimeSyncService::SetPaused(bool paused) {
  if (std::exchange(paused_, paused) && !paused) Sync();  // it stood still, as far as it can tell
}

void TimeSyncService::Sample() {
  if (!paused_ && owed_) {
    Sync();
  } else if (!paused_) {
    SendTime(proto::kTimeSample);
  }
  After(sample_ms_, [this] { Sample(); });
}

bool TimeSyncService::SendTime(uint8_t flags) {
  if (!ready()) return false;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const uint64_t host_time = proto::kUnixEpoch + static_cast<uint64_t>(now.tv_sec) * 10'000'000 +
                             static_cast<uint64_t>(now.tv_nsec) / 100;
  if (version().major >= 4) {
    proto::TimeSync body{};
    body.host_time = host_time;
    body.reference_time = reference_.ReferenceTime();
    body.flags = flags;
    return Tell(std::as_bytes(std::span(&body, 1)));
  }
  proto::OldTimeSync body{};
  body.host_time = host_time;
  body.flags = flags;
  return Tell(std::as_bytes(std::span(&body, 1)));
}

// --- key-value pairs ---

KeyValueService::KeyValueService(EventLoop& loop)
    : IntegrationService(loop, {.name = "key-value pairs",
                                .daemon = "hv_kvp_daemon",
                                .type = vmbus::kKeyValueClass,
                                .instance = ParseGuid("242ff919-07db-4180-9c2e-b86cb68c8c55"),
                                .message_type = proto::kKeyValue,
                                .versions = {{1, 0}, {3, 0}, {4, 0}}}) {}

void KeyValueService::Set(const std::string& key, const std::string& value,
                          std::function<void(absl::Status)> done) {
  const std::vector<uint8_t> wide_key = ToUtf16(key), wide_value = ToUtf16(value);
  if (key.empty() || wide_key.size() > proto::kMaxKey || wide_value.size() > proto::kMaxValue) {
    return done(InvalidArgument("a key has 1 to 255 characters, a value up to 1023"));
  }
  proto::KeyValue body{};
  body.operation = proto::kSet;
  body.pool = proto::kPoolExternal;
  body.value.type = proto::kValueString;
  body.value.key_size = static_cast<uint32_t>(wide_key.size());
  body.value.value_size = static_cast<uint32_t>(wide_value.size());
  std::memcpy(body.value.key, wide_key.data(), wide_key.size());
  std::memcpy(body.value.value, wide_value.data(), wide_value.size());
  Ask(BytesOf(body), kAnswerMs, [done = std::move(done)](const Answer& answer) {
    done(StatusOf(answer, "the guest did not take the pair"));
  });
}

void KeyValueService::Delete(const std::string& key, std::function<void(absl::Status)> done) {
  const std::vector<uint8_t> wide_key = ToUtf16(key);
  if (key.empty() || wide_key.size() > proto::kMaxKey) {
    return done(InvalidArgument("a key has 1 to 255 characters"));
  }
  proto::KeyValue body{};
  body.operation = proto::kDelete;
  body.pool = proto::kPoolExternal;
  body.remove.size = static_cast<uint32_t>(wide_key.size());
  std::memcpy(body.remove.bytes, wide_key.data(), wide_key.size());
  Ask(BytesOf(body), kAnswerMs, [done = std::move(done)](const Answer& answer) {
    done(StatusOf(answer, "the guest has no such pair"));
  });
}

void KeyValueService::List(uint8_t pool, Listed done) { ListFrom(pool, 0, {}, std::move(done)); }

void KeyValueService::ListFrom(uint8_t pool, uint32_t index, std::vector<Pair> so_far,
                               Listed done) {
  proto::KeyValue body{};
  body.operation = proto::kEnumerate;
  body.pool = pool;
  body.enumerate.index = index;
  body.enumerate.value.type = proto::kValueString;
  Ask(BytesOf(body), kAnswerMs,
      [this, pool, index, so_far = std::move(so_far),
       done = std::move(done)](const Answer& answer) mutable {
        if (!answer.status.ok()) return done(answer.status);
        if (answer.guest_status == proto::kStatusNoMoreItems || index >= kMaxPairs) {
          return done(std::move(so_far));
        }
        proto::KeyValue reply{};
        if (answer.guest_status != proto::kStatusOk || answer.body.size() < sizeof(reply)) {
          return done(StatusOf(answer, "the guest did not list its pairs"));
        }
        std::memcpy(&reply, answer.body.data(), sizeof(reply));
        const proto::Value& value = reply.enumerate.value;
        if (value.key_size > proto::kMaxKey || value.value_size > proto::kMaxValue) {
          return done(InvalidArgument("the guest sent a pair whose lengths lie"));
        }
        so_far.emplace_back(FromUtf16(std::span(value.key).first(value.key_size)),
                            FromUtf16(std::span(value.value).first(value.value_size)));
        ListFrom(pool, index + 1, std::move(so_far), std::move(done));
      });
}

// --- addresses ---

void KeyValueService::Addresses(const std::string& mac,
                                std::function<void(absl::StatusOr<AddressInfo>)> done) {
  proto::IpInfo body{};
  body.operation = proto::kGetIpInfo;
  body.family = 3;
  const std::vector<uint8_t> adapter = ToUtf16(mac);
  std::memcpy(body.adapter, adapter.data(), std::min(adapter.size(), sizeof(body.adapter)));
  Ask(BytesOf(body), kAnswerMs, [done = std::move(done)](const Answer& answer) {
    proto::IpInfo reply{};
    const absl::Status status = StatusOf(answer, "the guest did not tell its addresses");
    if (!status.ok()) return done(status);
    if (answer.body.size() < sizeof(reply)) {
      return done(InvalidArgument("the guest sent addresses that are cut off"));
    }
    std::memcpy(&reply, answer.body.data(), sizeof(reply));
    done(AddressInfo{.dhcp = reply.dhcp != 0,
                     .addresses = FromUtf16(reply.addresses),
                     .subnets = FromUtf16(reply.subnets),
                     .gateways = FromUtf16(reply.gateways),
                     .dns = FromUtf16(reply.dns)});
  });
}

void KeyValueService::SetAddresses(const std::string& instance, const AddressInfo& info,
                                   std::function<void(absl::Status)> done) {
  proto::IpInfo body{};
  body.operation = proto::kSetIpInfo;
  body.family = 1;
  body.dhcp = info.dhcp ? 1 : 0;
  bool fits = true;
  auto put = [&fits](std::span<uint8_t> to, const std::string& text) {
    const std::vector<uint8_t> wide = ToUtf16(text);
    fits = fits && wide.size() <= to.size();
    if (fits) std::memcpy(to.data(), wide.data(), wide.size());
  };
  put(body.adapter, instance);
  put(body.addresses, info.addresses);
  put(body.subnets, info.subnets);
  put(body.gateways, info.gateways);
  put(body.dns, info.dns);
  if (!fits) return done(InvalidArgument("a list of addresses is too long"));
  Ask(BytesOf(body), kAnswerMs, [done = std::move(done)](const Answer& answer) {
    done(StatusOf(answer, "the guest did not take the addresses"));
  });
}

}  // namespace partita::integration
