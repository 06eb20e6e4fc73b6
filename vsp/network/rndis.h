// RNDIS as the adapter answers it: control messages in, answers out, and the layout of one frame.
// Pure: no threads, no I/O. Every byte that comes in is guest-controlled and lies in private memory
// already.
#ifndef PARTITA_VSP_NETWORK_RNDIS_H_
#define PARTITA_VSP_NETWORK_RNDIS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/counters.h"
#include "vmbus/protocol/network_protocol.h"

namespace partita::network {

using MacAddress = std::array<uint8_t, 6>;

// What the adapter offers a guest; fixed for its life.
struct AdapterFeatures {
  MacAddress mac{};
  uint32_t mtu = 1500;
  uint32_t queues = 1;
  bool checksum = false;      // the back end finishes checksums
  bool large_send = false;    // and cuts large TCP frames
  bool coalesced = false;     // and delivers them uncut
  bool any_address = false;   // the guest may take another one
  uint64_t link_speed = 100;  // units of 100 bit/s, as the protocol has it
};

// What a guest asked for since it opened the channel.
struct AdapterSettings {
  bool initialized = false;
  uint32_t filter = 0;     // 0: no frames are wanted
  bool coalesced = false;  // large frames may be delivered
  MacAddress mac{};
};

// Counts that OIDs report.
struct AdapterTotals {
  uint64_t sent = 0, received = 0, send_errors = 0, receive_errors = 0, no_buffer = 0;
};

struct RndisCounters {
  Counter messages, bad_messages, unknown_oids;
  void DescribeTo(StatSink& sink) const;
};

inline constexpr size_t kMaxControlMessage = 4096;

class RndisControl {
 public:
  RndisControl(AdapterFeatures features, RndisCounters& counters)
      : features_(features), counters_(counters) {
    settings_.mac = features.mac;
  }

  // Handles one control message; the answer to deliver, or nothing.
  std::vector<std::byte> Handle(std::span<const std::byte> message, const AdapterTotals& totals);
  // A message that tells of the link.
  static std::vector<std::byte> LinkIndication(bool up);

  [[nodiscard]] const AdapterSettings& settings() const { return settings_; }
  void SetLink(bool up) { link_up_ = up; }
  void SetMtu(uint32_t mtu) { features_.mtu = mtu; }
  void SetCoalesced(bool possible) { features_.coalesced = possible; }
  void Reset();

 private:
  std::vector<std::byte> Query(std::span<const std::byte> message, const AdapterTotals& totals);
  std::vector<std::byte> Set(std::span<const std::byte> message);
  std::optional<std::vector<std::byte>> Value(uint32_t oid, std::span<const std::byte> input,
                                              const AdapterTotals& totals) const;
  std::vector<std::byte> Offload(std::span<const std::byte> input) const;
  uint32_t Apply(uint32_t oid, std::span<const std::byte> value);
  uint32_t ApplyAddress(std::span<const std::byte> value);

  AdapterFeatures features_;
  AdapterSettings settings_;
  bool link_up_ = true;
  RndisCounters& counters_;
};

// Where the frame of one RNDIS packet message lies, and what is asked for it.
struct FrameLayout {
  uint32_t message_length = 0;
  uint32_t data_offset = 0;  // from the start of the message
  uint32_t data_length = 0;
  uint32_t info_offset = 0;  // the same
  uint32_t info_length = 0;
};
inline constexpr uint32_t kMaxPacketInfo = 512;
inline constexpr uint32_t kMaxFrame = 65536 + 64;

// Checks a frame's header against the bytes that are there. Nothing: it lies.
std::optional<FrameLayout> ParseFrameHeader(const vmbus::network::RndisFrame& header,
                                            uint64_t available);

struct FrameRequests {
  std::optional<uint32_t> checksum, large_send, vlan;
};
// Walks per-packet information; nothing if a record lies.
std::optional<FrameRequests> ParsePacketInfo(std::span<const std::byte> info);

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_RNDIS_H_
