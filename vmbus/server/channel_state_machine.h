// The parent's side of the VMBus control plane as a pure state machine: guest messages and device
// events in, actions out. No threads, no I/O, no clock.
//
// Everything in a message is guest-controlled. A message that is too short or long, of the wrong
// direction, version or state is counted and ignored, or answered with a failure where the guest
// waits. Every table a guest can fill is capped (Limits).
#ifndef PARTITA_VMBUS_SERVER_CHANNEL_STATE_MACHINE_H_
#define PARTITA_VMBUS_SERVER_CHANNEL_STATE_MACHINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/counters.h"
#include "vmbus/protocol/vmbus_protocol.h"
#include "vmbus/server/gpadl_table.h"

namespace partita::vmbus {

struct OfferParameters {
  Guid type{};
  Guid instance{};
  uint16_t flags = 0;
  uint16_t mmio_megabytes = 0;
  std::array<uint8_t, kOfferUserData> user_data{};
  uint32_t max_subchannels = 0;  // at a time
};

struct OpenRequest {
  uint32_t relid = 0;
  uint32_t primary = 0;  // relid of the device's primary channel (itself, if it is one)
  uint16_t subchannel_index = 0;
  uint32_t target_vp = 0;
  uint32_t downstream_page_offset = 0;  // pages of the guest-to-host ring; checked against `ring`
  std::shared_ptr<const Gpadl> ring;
  std::array<uint8_t, kOpenUserData> user_data{};
};

// What the state machine asks its shell to do. Open and Close are answered later by OnOpened and
// OnClosed; until then the machine waits.
class ChannelActions {
 public:
  virtual ~ChannelActions() = default;
  virtual void Send(uint32_t vp, std::span<const std::byte> message) = 0;
  virtual void Open(const OpenRequest& request) = 0;
  virtual void Close(uint32_t relid) = 0;
  virtual void Retarget(uint32_t relid, uint32_t vp) = 0;
  virtual void Removed(uint32_t relid) = 0;  // the relid is free again
  // A guest's socket connects to a service of the host.
  virtual void SocketConnect(const Guid& /*endpoint*/, const Guid& /*service*/) {}
  // A new connection begins: messages of the old one must not arrive any more.
  virtual void DropMessages() = 0;
};

class ChannelStateMachine {
 public:
  struct Limits {
    uint32_t max_version = kVersion5_3;
    GpadlTable::Limits gpadls = {};
  };

  ChannelStateMachine(Limits limits, ChannelActions& actions)
      : limits_(limits), actions_(actions), gpadls_(limits.gpadls) {}

  // A message of the guest, in private memory.
  void OnMessage(std::span<const std::byte> message);

  // Device events.
  // Offers a primary channel; 0 when no relid is free.
  uint32_t AddChannel(const OfferParameters& parameters);
  // Offers `count` sub-channels of an open primary, or as many as its offer allows besides those it
  // has; returns how many. Where the guest still holds too many relids of sub-channels that were
  // taken back, the offers follow as it releases them.
  uint32_t AddSubChannels(uint32_t primary, uint32_t count);
  // Takes an offer back, sub-channels first. The device goes on serving until the guest has closed
  // the channel: drivers finish with their device before they let go. Removed() comes when the
  // guest has given the relid back.
  void RemoveChannel(uint32_t relid);
  // Closes everything and forgets the connection without telling the guest (reset, shutdown).
  void Disconnect() { BeginDisconnect(nullptr); }
  void OnOpened(uint32_t relid, bool success);
  void OnClosed(uint32_t relid);

  [[nodiscard]] bool connected() const { return connection_ == Connection::kConnected; }
  [[nodiscard]] uint32_t version() const { return version_; }
  [[nodiscard]] size_t open_channels() const;
  [[nodiscard]] std::shared_ptr<const Gpadl> FindGpadl(uint32_t relid, uint32_t handle) const {
    return gpadls_.Find({relid, handle});
  }
  // A device uses a complete GPADL: its teardown is answered only after GpadlReturned with the same
  // loan. 0: there is no such GPADL.
  [[nodiscard]] uint64_t LendGpadl(uint32_t relid, uint32_t handle) {
    return gpadls_.Lend({relid, handle});
  }
  void GpadlReturned(uint32_t relid, uint32_t handle, uint64_t loan);
  [[nodiscard]] size_t gpadl_pages() const { return gpadls_.pages(); }
  [[nodiscard]] std::vector<uint64_t> SharedPages() const { return gpadls_.SharedPages(); }
  void DescribeTo(StatSink& sink) const;

 private:
  enum class State : uint8_t { kClosed, kOpening, kOpen, kClosing };
  struct Channel {
    OfferParameters parameters;
    uint16_t subchannel_index = 0;
    uint32_t primary = 0;           // relid of the primary; 0 for a primary itself
    uint32_t owed_subchannels = 0;  // granted, and not offered yet
    State state = State::kClosed;
    bool offered = false;    // the guest was told on this connection
    bool rescinded = false;  // the guest was told that it is gone
    bool removing = false;   // the device is gone; rescind once closed
    uint32_t open_id = 0;
    uint32_t ring_gpadl = 0;
    bool release_after_close = false;   // RELID_RELEASED came while closing
    bool close_after_open = false;      // CLOSECHANNEL came while opening
    std::optional<OpenChannel> reopen;  // OPENCHANNEL came while closing
  };
  enum class Connection : uint8_t { kDisconnected, kConnected, kDisconnecting };

  struct Row;
  static const Row kTable[];

  void HandleInitiateContact(std::span<const std::byte> message);
  void HandleRequestOffers(std::span<const std::byte> message);
  void HandleOpenChannel(std::span<const std::byte> message);
  void HandleCloseChannel(std::span<const std::byte> message);
  void HandleGpadlHeader(std::span<const std::byte> message);
  void HandleGpadlBody(std::span<const std::byte> message);
  void HandleGpadlTeardown(std::span<const std::byte> message);
  void HandleRelidReleased(std::span<const std::byte> message);
  void HandleUnload(std::span<const std::byte> message);
  void HandleModifyChannel(std::span<const std::byte> message);
  void HandleTlConnect(std::span<const std::byte> message);

  template <typename T>
  void Send(const T& message) {
    actions_.Send(connect_vp_, std::as_bytes(std::span(&message, 1)));
  }
  void SendOffer(uint32_t relid, Channel& channel);
  void SendOpenResult(const Channel& channel, uint32_t relid, uint32_t status);
  // Answers a GPADL whose last piece this was, or which is refused.
  void AnswerGpadl(const GpadlTable::Key& key, GpadlTable::Added result);
  void SendGpadlCreated(const GpadlTable::Key& key, uint32_t status);
  void SendTorndown(const GpadlTable::Key& key);
  void Rescind(uint32_t relid, Channel& channel);
  void OfferSubChannels(uint32_t primary);
  // A sub-channel whose primary is closed: its device is, too.
  void DropSubChannels(uint32_t primary);
  [[nodiscard]] std::vector<uint32_t> SubChannelsOf(uint32_t primary) const;
  void StartOpen(uint32_t relid, Channel& channel, const OpenChannel& request);
  void StartClose(uint32_t relid, Channel& channel);
  void FinishClose(uint32_t relid, Channel& channel);
  void Release(uint32_t relid, Channel& channel);
  void EraseChannel(uint32_t relid);
  // Closes everything; then runs what waits for it (an UNLOAD response or a new connection).
  void BeginDisconnect(std::function<void()> then);
  void ContinueDisconnect();
  void Connect(const InitiateContact& contact);
  [[nodiscard]] uint32_t AllocateRelid() const;
  [[nodiscard]] bool RingInUse(const GpadlTable::Key& key) const;
  Channel* FindChannel(uint32_t relid);

  const Limits limits_;
  ChannelActions& actions_;
  Connection connection_ = Connection::kDisconnected;
  bool offers_sent_ = false;
  uint32_t version_ = 0;
  uint32_t connect_vp_ = 0;
  std::function<void()> after_disconnect_;
  std::map<uint32_t, Channel> channels_;  // by relid
  GpadlTable gpadls_;
  struct {
    Counter messages, unknown, wrong_direction, wrong_size, wrong_version, wrong_state, bad_relid,
        bad_gpadl, over_limit;
  } counters_;
};

}  // namespace partita::vmbus

#endif  // PARTITA_VMBUS_SERVER_CHANNEL_STATE_MACHINE_H_
