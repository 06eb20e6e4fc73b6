// One channel of a network adapter and its loop thread. See network_vsp.h.
#ifndef PARTITA_VSP_NETWORK_NETWORK_CHANNEL_H_
#define PARTITA_VSP_NETWORK_NETWORK_CHANNEL_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/io_ring.h"
#include "vmbus/protocol/network_protocol.h"
#include "vmbus/server/server_channel.h"
#include "vsp/burst_scheduling.h"
#include "vsp/loop_events.h"
#include "vsp/network/network_vsp.h"
#include "vsp/network/offload.h"
#include "vsp/reply_queue.h"

namespace partita::network {

class NetworkChannel final : public FrameOwner {
 public:
  static absl::StatusOr<std::unique_ptr<NetworkChannel>> Start(
      NetworkVsp& adapter, std::shared_ptr<vmbus::ServerChannel> channel, uint32_t primary);
  ~NetworkChannel();

  // Finishes or takes back what is in flight, then ends the thread; `done` is called from it. Any
  // thread.
  void Stop(std::function<void()> done);
  // Makes the loop look at the adapter again. Any thread.
  void Wake() { inbox_.Wake(); }
  // Any thread.
  void CountPages(std::shared_ptr<vmbus::PageCensus> census);

  // FrameOwner
  void OnSent(TransmitFrame& frame, bool ok) override;
  bool Wants(std::span<const std::byte> head) override;
  ReceiveSlot* TakeSlot() override;
  void OnReceived(ReceiveSlot& slot, uint32_t length) override;

 private:
  static constexpr size_t kMaxFrames = 1024;  // on their way out
  static constexpr size_t kRangesPerPacket = 64;

  // A packet of the guest, answered when its last frame is sent.
  struct Outgoing {
    uint64_t transaction = 0;
    uint32_t frames = 0;
    bool ok = true;
    bool answer = false;
  };
  struct Frame : TransmitFrame {
    Outgoing* packet = nullptr;
    std::array<std::byte, kMaxFrameHeader + 4> head{};  // room for a tag
  };
  struct Slot : ReceiveSlot {
    std::shared_ptr<const Session> session;
    std::vector<uint32_t> sections;
  };
  // Frames on their way to the guest in one packet, and the sections it holds until it answers.
  struct Indication {
    std::shared_ptr<const Session> session;
    std::vector<vmbus::network::TransferPageRange> ranges;
    std::vector<uint32_t> sections;
    bool control = false;
    bool active = false;
  };

  NetworkChannel(NetworkVsp& adapter, std::shared_ptr<vmbus::ServerChannel> channel,
                 uint32_t primary, EventFd wake);
  absl::Status Prepare();
  void ThreadMain();
  static void Check(int result);
  void Refresh();
  // What the guest wants of frames may have changed. False: reads that were posted before are not
  // back yet, and none may be posted.
  bool SettleCoalescing();
  // Whether frames come so fast that some may gather; once before each sleep.
  bool Moderates();
  // Sleeps until something is there, or while some gather.
  void Wait(bool gather);
  [[nodiscard]] bool Posts() const {
    return filter_.open || !adapter_.backend().properties().filters;
  }

  bool DrainRing();
  void HandlePacket(const vmbus::Packet& packet);
  void HandleNvsp(const vmbus::network::Nvsp& message, uint64_t transaction, bool answer);
  void HandleInit(const vmbus::network::Nvsp& message, uint64_t transaction);
  // Guest and backend both can; whether the guest wants them now is coalesced_.
  [[nodiscard]] bool CanCoalesce() const {
    return version_ >= vmbus::network::kVersion6_1 && adapter_.backend().properties().coalesced;
  }
  void HandleBuffer(const vmbus::network::Nvsp& message, uint64_t transaction);
  // Of a receive buffer of so many bytes.
  [[nodiscard]] uint32_t SectionSize(uint64_t buffer) const;
  void UseReceiveBuffer(const std::shared_ptr<const vmbus::Gpadl>& gpadl, uint64_t transaction);
  void UseSendBuffer(const std::shared_ptr<const vmbus::Gpadl>& gpadl, uint64_t transaction);
  // Lets go of what belongs to another session than the present one and is not in use by I/O.
  void LeaveOldSessions();
  void Publish();
  void HandleRndis(const vmbus::Packet& packet, const vmbus::network::Nvsp& message);
  void HandleControl(uint64_t transaction, bool answer);
  void HandleFrames(uint64_t transaction, bool answer);
  bool SendFrame(const FrameLayout& layout, uint64_t message_at, Outgoing& packet);
  // False, and counted: the frame that begins with `head` may not leave.
  bool MayLeave(std::span<const std::byte> head);
  void HandleCompletion(uint64_t transaction);
  // The bytes of a guest's packet: its section, then its ranges.
  bool Gather(const vmbus::Packet& packet, const vmbus::network::Nvsp& message);
  void CopyStream(uint64_t at, std::span<std::byte> out) const;
  void SliceStream(uint64_t at, uint64_t length, std::vector<iovec>& out);
  void FinishPacket(Outgoing& packet);

  void Deliver(Slot& slot, uint32_t length);
  void DeliverControl(std::vector<std::byte> message);
  // Control messages go as sections come back.
  void SendControl();
  bool TakeSections(const Session& session, uint32_t count, std::vector<uint32_t>& out);
  void ReturnSections(const Session& session, std::span<const uint32_t> sections);
  void ReleaseSlot(Slot& slot, uint32_t used);
  void FlushIndications();
  void Answer(uint64_t transaction, const vmbus::network::Nvsp& message);
  // Answers that wait go first, and so does a buffer that is being looked up: a guest can have one
  // such question before the control thread, not as many as it can write.
  [[nodiscard]] bool CanTakePacket() const {
    return replies_.empty() && !looking_up_ && frames_in_flight_ < kMaxFrames;
  }
  [[nodiscard]] bool primary() const { return channel_->identity().subchannel_index == 0; }

  NetworkVsp& adapter_;
  NetworkCounters& counters_;
  std::shared_ptr<vmbus::ServerChannel> channel_;
  const uint32_t primary_relid_;
  LoopInbox inbox_;
  std::unique_ptr<IoRing> ring_;
  std::unique_ptr<NetQueue> queue_;
  BurstScheduling scheduling_;

  // The primary's part.
  RndisControl control_;
  uint32_t version_ = 0;
  uint32_t mtu_ = 1500;
  uint64_t capabilities_ = 0;
  std::unique_ptr<Session> unpublished_;  // waits for the send buffer
  bool told_link_ = true;
  bool granted_subchannels_ = false;
  bool looking_up_ = false;

  std::shared_ptr<const Session> session_;
  std::vector<std::shared_ptr<const Session>> leaving_;  // frames on their way out may lie there
  ReceiveFilter filter_;
  uint32_t seen_generation_ = 0;
  bool coalesced_ = false, wants_coalesced_ = false;
  bool switching_ = false;  // reads for the other kind of frames are being taken back

  std::vector<iovec> stream_;
  uint64_t stream_length_ = 0;
  size_t cursor_ = 0;  // iovec of stream_ that covers cursor_at_
  uint64_t cursor_at_ = 0;
  std::vector<std::unique_ptr<Frame>> frames_;
  std::vector<Frame*> free_frames_;
  std::vector<std::unique_ptr<Outgoing>> packets_;
  std::vector<Outgoing*> free_packets_;
  size_t frames_in_flight_ = 0;

  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_slots_;
  size_t slots_out_ = 0;
  std::vector<uint32_t> free_sections_;  // of session_, taken from all channels' pool by the dozen
  std::deque<std::vector<std::byte>> control_waiting_;
  Indication pending_;  // being filled
  static constexpr size_t kSpareIndications = 64;
  std::vector<Indication> spare_;     // empty ones with their memory
  std::deque<Indication> queued_;     // the outgoing ring was full
  std::vector<Indication> in_guest_;  // by transaction id - 1
  std::vector<uint32_t> free_ids_;
  ReplyQueue<vmbus::network::Nvsp> replies_;
  bool ring_open_ = true;
  bool stopping_ = false, cancelled_ = false;
  uint32_t packets_of_wake_ = 0;
  uint32_t frames_of_wake_ = 0;
  bool moderating_ = false;  // frames come fast: let some gather before waking for them
  EventRead doorbell_;
  std::function<void()> done_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::thread thread_;
};

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_NETWORK_CHANNEL_H_
