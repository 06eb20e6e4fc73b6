// What all integration services share: one VMBus channel on the control thread, the frame around
// every packet, and version negotiation, which the host starts as soon as the guest opens the
// channel. The guest answers each packet by the same packet with some fields changed.
//
// Everything is called on the control thread. Answers are guest-controlled: each is copied once,
// checked against what was asked, and counted when it is not an answer to anything.
#ifndef PARTITA_VSP_INTEGRATION_INTEGRATION_SERVICE_H_
#define PARTITA_VSP_INTEGRATION_INTEGRATION_SERVICE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmbus/protocol/integration_protocol.h"
#include "vsp/integration/message_channel.h"

namespace partita::integration {

using vmbus::integration::Version;

class IntegrationService : public MessageChannel {
 public:
  struct Traits {
    const char* name;    // of its counters
    const char* daemon;  // the guest's program that has to run; null: the driver is enough
    vmbus::Guid type;
    vmbus::Guid instance;
    uint16_t message_type;
    std::vector<Version> versions;  // of its messages
  };
  // What a guest made of a request: kOk with its status and body, or why there is no answer.
  struct Answer {
    absl::Status status;
    uint32_t guest_status = 0;
    std::vector<std::byte> body;
  };

  IntegrationService(EventLoop& loop, Traits traits);

  // Why a request cannot be made now, in words for an administrator.
  [[nodiscard]] absl::Status NotReady() const;
  // The guest has the channel open and speaks a version we do.
  [[nodiscard]] bool ready() const { return version_.has_value(); }
  void DescribeTo(StatSink& sink) const;

 protected:
  static constexpr size_t kMaxQueued = 16;  // requests behind the one that is under way

  // Sends without waiting for an answer; it arrives at OnUnsolicited. False: no room, or not ready.
  bool Tell(std::span<const std::byte> body);
  // One request at a time; further ones wait in line. `done` is called exactly once: with the
  // answer, after `timeout_ms`, or when the guest closes the channel.
  void Ask(std::vector<std::byte> body, uint32_t timeout_ms, std::function<void(Answer)> done);
  // Negotiated; again after the guest reopens.
  virtual void OnReady(Version /*version*/) {}
  virtual void OnStopped() {}  // the guest closed the channel
  // An answer to what Tell sent.
  virtual void OnUnsolicited(std::span<const std::byte> /*body*/) {}

  [[nodiscard]] Version version() const { return *version_; }

 private:
  struct Waiting {
    std::vector<std::byte> body;
    uint32_t timeout_ms;
    std::function<void(Answer)> done;
  };
  void OnOpened() override;
  void OnClosed() override;
  void OnPacket(const vmbus::Packet& packet) override;
  void OnNegotiated(std::span<const std::byte> body);
  void SendNegotiation();
  bool Send(uint16_t type, std::span<const std::byte> body, uint64_t transaction);
  void StartNext();
  void FinishCurrent(Answer answer);

  const Traits traits_;
  std::optional<Version> version_;
  Version framework_{3, 0};
  uint64_t next_transaction_ = 1;
  uint64_t current_ = 0;         // transaction of the request under way; 0: none
  std::deque<Waiting> waiting_;  // the first is under way while current_ != 0
  Counter sent_, answered_, rejected_, timed_out_, no_room_;
};

}  // namespace partita::integration

#endif  // PARTITA_VSP_INTEGRATION_INTEGRATION_SERVICE_H_
