// A storage driver for the synthetic SCSI controller: the guest's end of vsp/storage. Freestanding.
// Each channel is driven by one VP; any number of requests may be in flight, up to what the ring
// holds. What waits (Initialize, Execute, ..) works on masked rings too, and while requests are in
// flight: their completions are kept for Poll.
#ifndef PARTITA_VSC_STORAGE_VSC_H_
#define PARTITA_VSC_STORAGE_VSC_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmbus/client/connection.h"
#include "vmbus/protocol/storage_protocol.h"

namespace partita::vsc {

struct DiskGeometry {
  uint64_t blocks = 0;
  uint32_t block_size = 0;
};

struct Completion {
  uint64_t tag = 0;
  bool ok = false;
  uint8_t scsi_status = 0, srb_status = 0;
  uint32_t transferred = 0;
  uint8_t sense_key = 0, sense_code = 0;
};

class StorageVsc {
 public:
  StorageVsc(vmbus::client::Transport& transport, vmbus::client::Channel& primary)
      : transport_(transport), primary_(primary) {}

  // Completions of other requests that a waiting call can keep for Poll.
  static constexpr size_t kKept = 512;
  static constexpr size_t kMaxCdb = vmbus::storage::kCdbSize;

  // The handshake on the primary channel: begin, version (the newest that both know), properties,
  // end. kRefused: no version in common, or the parent said no.
  [[nodiscard]] vmbus::client::Result Initialize();
  // What was agreed, major << 8 | minor; 0 before.
  [[nodiscard]] uint16_t version() const { return version_; }
  [[nodiscard]] uint16_t max_subchannels() const { return max_subchannels_; }
  // Bytes of one request: what the parent takes, and this driver can describe.
  [[nodiscard]] uint32_t max_transfer() const { return max_transfer_; }
  // Asks for `count` sub-channels; their offers arrive at the connection.
  [[nodiscard]] vmbus::client::Result RequestSubChannels(uint16_t count);
  // One command on the primary channel, waited for. `data` is in memory known to the transport.
  // kOk: it was answered, see `completion` for how it went. kNoRoom: the ring is full, or more than
  // kKept requests are in flight on the primary channel; nothing was sent.
  [[nodiscard]] vmbus::client::Result Execute(uint8_t lun, std::span<const uint8_t> cdb,
                                              std::span<std::byte> data, bool data_in,
                                              Completion* completion);
  // `page`: 32 bytes in memory known to the transport.
  [[nodiscard]] vmbus::client::Result ReadCapacity(uint8_t lun, std::byte* page,
                                                   DiskGeometry* geometry);

  // Asynchronous commands on any channel of the controller. `tag` comes back in the completion; it
  // is not 0 and below kReservedTags. kNoRoom: the ring is full, Poll and try again. kInvalid: the
  // CDB, the length or the tag can never be sent. kBroken: close the channel.
  static constexpr uint64_t kReservedTags = 0xFFFFFFFFFFFFFF00;
  [[nodiscard]] vmbus::client::Result Submit(vmbus::client::Channel& channel, uint8_t lun,
                                             std::span<const uint8_t> cdb, const std::byte* data,
                                             uint32_t length, bool data_in, uint64_t tag);
  [[nodiscard]] vmbus::client::Result SubmitReadWrite(vmbus::client::Channel& channel, uint8_t lun,
                                                      bool write, uint64_t lba, uint32_t blocks,
                                                      std::byte* data, uint32_t length,
                                                      uint64_t tag);
  // Takes one completion; kEmpty when there is none.
  [[nodiscard]] vmbus::RingStatus Poll(vmbus::client::Channel& channel, Completion* completion);
  // Ends every command that is in flight on the controller; each still gets its completion.
  [[nodiscard]] vmbus::client::Result Reset();

 private:
  vmbus::client::Result Control(uint32_t operation, vmbus::storage::Packet* packet,
                                uint64_t transaction);
  vmbus::client::Result NegotiateVersion();
  vmbus::client::Result Send(vmbus::client::Channel& channel, uint8_t lun,
                             std::span<const uint8_t> cdb, const std::byte* data, uint32_t length,
                             bool data_in, uint64_t tag);
  // The next answer on the primary channel, waited for; those of other requests are kept. Copied
  // out of the ring.
  vmbus::client::Result AwaitAnswer(uint64_t transaction, vmbus::storage::Packet* answer);
  vmbus::client::Transport& transport_;
  vmbus::client::Channel& primary_;
  uint16_t version_ = 0;
  uint16_t max_subchannels_ = 0;
  uint32_t max_transfer_ = 0;
  static constexpr uint64_t kExecuteTags = 128;  // of the reserved ones
  uint64_t next_execute_ = 0;
  uint32_t in_flight_ = 0;  // of Submit, on the primary channel
  // A queue in a circle.
  Completion kept_[kKept];
  size_t kept_first_ = 0, kept_count_ = 0;
};

}  // namespace partita::vsc

#endif  // PARTITA_VSC_STORAGE_VSC_H_
