// A storage driver for the synthetic SCSI controller: the guest's end of vsp/storage. Freestanding.
// Each channel is driven by one VP; any number of requests may be in flight, up to what the ring
// holds.
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

  // The handshake on the primary channel: begin, version, properties, end.
  [[nodiscard]] vmbus::client::Result Initialize();
  [[nodiscard]] uint16_t max_subchannels() const { return max_subchannels_; }
  [[nodiscard]] uint32_t max_transfer() const { return max_transfer_; }
  // Asks for `count` sub-channels; their offers arrive at the connection.
  [[nodiscard]] vmbus::client::Result RequestSubChannels(uint16_t count);
  // One command on the primary channel, waited for. `data` is in memory known to the transport.
  [[nodiscard]] bool Execute(uint8_t lun, std::span<const uint8_t> cdb, std::span<std::byte> data,
                             bool data_in, Completion* completion);
  [[nodiscard]] bool ReadCapacity(uint8_t lun, std::byte* page, DiskGeometry* geometry);

  // Asynchronous commands on any channel of the controller. `tag` comes back in the completion and
  // is neither 0 nor one of the reserved transaction ids. False: the ring is full.
  [[nodiscard]] bool Submit(vmbus::client::Channel& channel, uint8_t lun,
                            std::span<const uint8_t> cdb, const std::byte* data, uint32_t length,
                            bool data_in, uint64_t tag);
  [[nodiscard]] bool SubmitReadWrite(vmbus::client::Channel& channel, uint8_t lun, bool write,
                                     uint64_t lba, uint32_t blocks, std::byte* data,
                                     uint32_t length, uint64_t tag);
  // Takes one completion; kEmpty when there is none.
  [[nodiscard]] vmbus::RingStatus Poll(vmbus::client::Channel& channel, Completion* completion);
  [[nodiscard]] vmbus::client::Result Reset();

 private:
  vmbus::client::Result Control(uint32_t operation, vmbus::storage::Packet* packet,
                                uint64_t transaction);
  vmbus::client::Transport& transport_;
  vmbus::client::Channel& primary_;
  uint16_t max_subchannels_ = 0;
  uint32_t max_transfer_ = 0;
};

}  // namespace partita::vsc

#endif  // PARTITA_VSC_STORAGE_VSC_H_
