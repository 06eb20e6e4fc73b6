// A network driver for the synthetic adapter: the guest's end of vsp/network. Freestanding. Frames
// go out through sections of a send buffer, several to a section, and come in through a receive
// buffer; each channel is driven by one VP. No offloads: frames are whole. What waits (Initialize,
// Query, ..) works on masked rings too; frames that arrive meanwhile are dropped and counted.
#ifndef PARTITA_VSC_NETWORK_VSC_H_
#define PARTITA_VSC_NETWORK_VSC_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmbus/client/connection.h"
#include "vmbus/protocol/network_protocol.h"

namespace partita::vsc {

class NetworkVsc {
 public:
  static constexpr size_t kSendSections = 128;  // that are used
  static constexpr size_t kFramesPerSection = 4;

  // What a driver needs of memory, page-aligned and known to the transport.
  struct Buffers {
    std::span<std::byte> receive;  // at least 64 pages
    std::span<std::byte> send;     // at least 16 pages
    std::byte* scratch = nullptr;  // one page, for control messages
  };

  NetworkVsc(vmbus::client::Connection& connection, vmbus::client::Transport& transport,
             vmbus::client::Channel& primary)
      : connection_(connection), transport_(transport), primary_(primary) {}

  // The whole start-up: version (the newest that both know), buffers, RNDIS; then frames of every
  // kind are asked for. After a failure Close gives the buffers back.
  [[nodiscard]] vmbus::client::Result Initialize(const Buffers& buffers);
  // NVSP version that was agreed on (vmbus::network::kVersion..); 0 before.
  [[nodiscard]] uint32_t version() const { return version_; }
  // Takes the buffers back, closes the primary channel and gives its ring and the buffers' GPADLs
  // up: all memory is the caller's again. Sub-channels are closed before.
  [[nodiscard]] vmbus::client::Result Close();
  [[nodiscard]] vmbus::client::Result Query(uint32_t oid, std::span<const std::byte> input,
                                            std::span<std::byte> out, size_t* length);
  [[nodiscard]] vmbus::client::Result Set(uint32_t oid, std::span<const std::byte> value);
  // Asks for `count` sub-channels; their offers arrive at the connection. Returns how many come.
  [[nodiscard]] vmbus::client::Result RequestSubChannels(uint32_t count, uint32_t* granted);
  [[nodiscard]] std::span<const uint8_t> mac() const { return mac_; }

  // Room for one frame of `length` bytes, to be filled in place; null when every section is on its
  // way. Frames gather in a section until it is full or Flush. One channel.
  [[nodiscard]] std::byte* Prepare(uint32_t length);
  // Hands the gathered frames to the ring; the caller commits the channel. False: the ring is full.
  [[nodiscard]] bool Flush(vmbus::client::Channel& channel);

  // Takes one packet off the ring: calls `frame(data, length)` for each frame in it, answers, and
  // takes note of finished sends. False when the ring is empty.
  template <typename Frame>
  bool Poll(vmbus::client::Channel& channel, Frame frame) {
    vmbus::Packet packet;
    const vmbus::RingStatus status = channel.reader().Next(&packet);
    if (status != vmbus::RingStatus::kOk) return false;
    Take(channel, packet, frame);
    return true;
  }
  [[nodiscard]] uint64_t sent() const { return sent_; }
  [[nodiscard]] uint64_t refused() const { return refused_; }
  // Frames that arrived while a call waited for something else.
  [[nodiscard]] uint64_t dropped() const { return dropped_; }
  // Frames handed over or gathered that are not finished.
  [[nodiscard]] uint64_t pending() const { return pending_; }

 private:
  // What may come at any time: finished sends, frames, control messages.
  template <typename Frame>
  void Take(vmbus::client::Channel& channel, const vmbus::Packet& packet, Frame frame) {
    if (packet.descriptor.type == vmbus::kPacketCompletion) {
      return Finished(packet.descriptor.transaction_id);
    }
    if (packet.descriptor.type != vmbus::kPacketTransferPages) return;
    for (size_t i = 0;; ++i) {
      std::span<std::byte> message = Range(packet, i);
      if (message.empty()) break;
      const std::span<std::byte> data = Data(message);
      if (!data.empty()) frame(data.data(), static_cast<uint32_t>(data.size()));
    }
    AnswerReceive(channel, packet.descriptor.transaction_id);
  }
  vmbus::client::Result Exchange(vmbus::network::Nvsp* message, bool answer);
  vmbus::client::Result NegotiateVersion();
  vmbus::client::Result ShareReceiveBuffer();
  vmbus::client::Result ShareSendBuffer();
  vmbus::client::Result StartRndis();
  vmbus::client::Result Control(size_t length, uint32_t answer_type, uint32_t request);
  // The i-th message of a receive packet, inside the receive buffer; empty behind the last.
  std::span<std::byte> Range(const vmbus::Packet& packet, size_t i) const;
  // The frame of a message; a control message is kept and gives none.
  std::span<std::byte> Data(std::span<std::byte> message);
  void AnswerReceive(vmbus::client::Channel& channel, uint64_t transaction);
  void Finished(uint64_t transaction);

  vmbus::client::Connection& connection_;
  vmbus::client::Transport& transport_;
  vmbus::client::Channel& primary_;
  Buffers buffers_;
  uint8_t mac_[6] = {};
  uint32_t version_ = 0;
  uint32_t receive_gpadl_ = 0, send_gpadl_ = 0;  // 0: not shared
  uint32_t section_size_ = 0;
  uint32_t next_request_ = 1;
  // Sections: a stack of free ones; frames in each while it is on its way.
  uint16_t free_[kSendSections] = {};
  size_t free_count_ = 0;
  uint8_t frames_[kSendSections] = {};
  int current_ = -1;
  uint32_t filled_ = 0;
  uint64_t sent_ = 0, refused_ = 0, pending_ = 0, dropped_ = 0;
  // The last control answer.
  alignas(8) std::byte answer_[512];
  size_t answer_length_ = 0;
};

}  // namespace partita::vsc

#endif  // PARTITA_VSC_NETWORK_VSC_H_
