// The integration services of stock guests (Linux: hv_utils). Control thread only.
#ifndef PARTITA_VSP_INTEGRATION_SERVICES_H_
#define PARTITA_VSP_INTEGRATION_SERVICES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "vsp/integration/integration_service.h"

namespace partita::integration {

// Asks every two seconds whether the guest is alive.
class HeartbeatService : public IntegrationService {
 public:
  enum class State : uint8_t {
    kNoContact,  // the guest has not opened the service (no driver, or not up yet)
    kOk,
    kLost,  // it had answered, and does not any more
  };
  explicit HeartbeatService(EventLoop& loop);
  [[nodiscard]] State state() const;
  // The word an administrator sees: "No contact", "OK", "Lost communication".
  [[nodiscard]] const char* state_name() const;
  // A guest whose processors stand is neither asked nor found lost.
  void SetPaused(bool paused);

 protected:
  void OnReady(Version version) override;
  void OnStopped() override { answered_ns_ = 0; }
  void OnUnsolicited(std::span<const std::byte> body) override;

 private:
  void Beat();
  uint64_t sequence_ = 0;     // of the last beat sent
  uint64_t answered_ns_ = 0;  // CLOCK_MONOTONIC of the last good answer; 0: none
  bool paused_ = false;
};

// Asks the guest to shut itself down in order.
class ShutdownService : public IntegrationService {
 public:
  enum class Kind : uint8_t { kPowerOff, kReboot, kHibernate };
  explicit ShutdownService(EventLoop& loop);
  // `done`: the guest agreed (it answers before it begins), refused, or did not answer.
  void Shutdown(Kind kind, bool force, std::function<void(absl::Status)> done);
};

// Sets the guest's clock when it opens the service and on Sync, and gives it a sample every five
// seconds.
class TimeSyncService : public IntegrationService {
 public:
  // `reference` is the partition's reference clock.
  TimeSyncService(EventLoop& loop, const Clock& reference, uint32_t sample_ms = 5000);
  // On request. False: the guest has no service running, or does not read its ring; it is set as
  // soon as it does.
  bool Sync();
  // No samples for a guest whose processors stand: it reads none, and behind a full ring there
  // would be no room for what sets its clock when it goes on, which is done then.
  void SetPaused(bool paused);

 protected:
  void OnReady(Version version) override;

 private:
  bool SendTime(uint8_t flags);
  void Sample();
  const Clock& reference_;
  const uint32_t sample_ms_;
  bool paused_ = false;
  bool owed_ = false;  // a Sync found no room
};

// Key-value pairs, by the daemon that runs in the guest. Without it the guest does not even
// negotiate, and requests fail with "no key-value service running".
class KeyValueService : public IntegrationService {
 public:
  using Pair = std::pair<std::string, std::string>;  // UTF-8
  explicit KeyValueService(EventLoop& loop);
  // Writes a pair where the guest can read it (pool 0).
  void Set(const std::string& key, const std::string& value,
           std::function<void(absl::Status)> done);
  void Delete(const std::string& key, std::function<void(absl::Status)> done);
  // Addresses of the adapter with this MAC address ("00:15:5D:01:02:03"); lists separated by ';'.
  struct AddressInfo {
    bool dhcp = false;
    std::string addresses, subnets, gateways, dns;
  };
  void Addresses(const std::string& mac, std::function<void(absl::StatusOr<AddressInfo>)> done);
  // Has the guest's own script configure the adapter with this VMBus instance ("{f8615163-...}").
  void SetAddresses(const std::string& instance, const AddressInfo& info,
                    std::function<void(absl::Status)> done);
  // All pairs of a pool (vmbus::integration::KeyValuePool); at most kMaxPairs.
  void List(uint8_t pool, std::function<void(absl::StatusOr<std::vector<Pair>>)> done);

 private:
  static constexpr uint32_t kMaxPairs = 256;
  using Listed = std::function<void(absl::StatusOr<std::vector<Pair>>)>;
  void ListFrom(uint8_t pool, uint32_t index, std::vector<Pair> so_far, Listed done);
};

// UTF-16 of a key or value, with its terminator, and back. Guests' text may be anything: what is no
// UTF-16 becomes U+FFFD, and what does not only show (base/guest_text.h) is left out.
std::vector<uint8_t> ToUtf16(std::string_view text);
std::string FromUtf16(std::span<const uint8_t> bytes);

}  // namespace partita::integration

#endif  // PARTITA_VSP_INTEGRATION_SERVICES_H_
