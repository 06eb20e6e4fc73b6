// SCSI commands of one direct-access disk (SPC-4, SBC-3). Decodes a CDB into either an immediate
// answer or a block operation; does no I/O and holds no guest memory. CDBs and parameter lists are
// guest-controlled. Thread-safe: several channel loops share a disk.
#ifndef PARTITA_VSP_STORAGE_SCSI_DISK_H_
#define PARTITA_VSP_STORAGE_SCSI_DISK_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vsp/storage/block_backend.h"

namespace partita::storage {

inline constexpr uint32_t kMaxTransfer = 1 << 20;  // bytes of one command

inline constexpr uint8_t kScsiGood = 0x00;
inline constexpr uint8_t kScsiCheckCondition = 0x02;
inline constexpr uint8_t kScsiReservationConflict = 0x18;

struct Sense {
  uint8_t key = 0, code = 0, qualifier = 0;
  friend bool operator==(const Sense&, const Sense&) = default;
};
// SPC-4, table of sense keys and additional sense codes.
inline constexpr Sense kInvalidOpcode = {5, 0x20, 0x00};
inline constexpr Sense kInvalidField = {5, 0x24, 0x00};
inline constexpr Sense kInvalidParameterList = {5, 0x26, 0x00};
inline constexpr Sense kParameterListLength = {5, 0x1A, 0x00};
inline constexpr Sense kLbaOutOfRange = {5, 0x21, 0x00};
inline constexpr Sense kUnrecoveredRead = {3, 0x11, 0x00};
inline constexpr Sense kWriteError = {3, 0x0C, 0x00};
inline constexpr Sense kWriteProtected = {7, 0x27, 0x00};
inline constexpr Sense kMiscompare = {0xE, 0x1D, 0x00};

struct BlockRange {
  BlockOp op = BlockOp::kRead;
  uint64_t offset = 0, length = 0;  // bytes
  bool fua = false;
};

// What to do for a command.
struct ScsiOutcome {
  enum class Kind : uint8_t {
    kAnswer,      // good status; `data` goes to the guest
    kCheck,       // check condition with `sense`
    kTransfer,    // ranges[0], to or from the guest's buffer
    kOperations,  // every range, no guest data
    kVerify,      // ranges[0] is read and compared with the guest's buffer
  } kind = Kind::kAnswer;
  Sense sense;
  std::vector<uint8_t> data;
  std::vector<BlockRange> ranges;
};

class ScsiDisk {
 public:
  struct Identity {
    std::array<uint8_t, 16> id{};  // NAA designator comes from here; stable for a disk
    std::string serial;            // page 0x80
  };
  ScsiDisk(std::unique_ptr<BlockBackend> backend, Identity identity);

  // `cdb` is the guest's, `cdb_length` bytes of it are valid; `parameters` is the copied data-out
  // of commands that carry a parameter list (NeedsParameters), `data_length` the guest's buffer.
  [[nodiscard]] ScsiOutcome Execute(std::span<const uint8_t, 16> cdb, uint32_t data_length,
                                    std::span<const uint8_t> parameters) const;
  // Bytes of data-out that Execute wants to see for this CDB (0: none).
  [[nodiscard]] static uint32_t ParameterLength(std::span<const uint8_t, 16> cdb,
                                                uint32_t data_length);
  // INQUIRY answer for a LUN that does not exist: qualifier 3, type 0x1F.
  [[nodiscard]] static std::vector<uint8_t> AbsentInquiry();
  [[nodiscard]] static std::vector<uint8_t> ReportLuns(std::span<const uint8_t> luns);

  // The sense for a failed block operation.
  [[nodiscard]] static Sense SenseForError(BlockOp op, int error);
  // The host cannot make holes in this disk, as an operation has shown: it is not offered any more.
  void StopDiscard() const { discard_.store(false); }
  // Flushes a disk that no loop writes to; blocks. Fails for a poisoned one.
  [[nodiscard]] absl::Status Sync() const;
  // A failed flush: what the kernel dropped can never be written, so no later write may succeed.
  // True: by this call.
  bool Poison() const { return !poisoned_.exchange(true); }
  [[nodiscard]] bool poisoned() const { return poisoned_.load(); }
  [[nodiscard]] BlockBackend& backend() const { return *backend_; }

 private:
  [[nodiscard]] ScsiOutcome Inquiry(std::span<const uint8_t, 16> cdb) const;
  [[nodiscard]] ScsiOutcome VitalProduct(uint8_t page) const;
  [[nodiscard]] ScsiOutcome ModeSense(std::span<const uint8_t, 16> cdb, bool ten) const;
  [[nodiscard]] ScsiOutcome ReadCapacity10() const;
  [[nodiscard]] ScsiOutcome ReadCapacity16() const;
  [[nodiscard]] ScsiOutcome ReadWrite(BlockOp op, uint64_t lba, uint64_t blocks, bool fua,
                                      uint32_t data_length) const;
  [[nodiscard]] ScsiOutcome Unmap(std::span<const uint8_t, 16> cdb,
                                  std::span<const uint8_t> parameters) const;
  [[nodiscard]] ScsiOutcome WriteSame16(std::span<const uint8_t, 16> cdb,
                                        std::span<const uint8_t> parameters) const;
  [[nodiscard]] ScsiOutcome Verify(uint64_t lba, uint64_t blocks, uint8_t flags,
                                   uint32_t data_length) const;
  [[nodiscard]] bool InRange(uint64_t lba, uint64_t blocks) const {
    return lba <= blocks_ && blocks <= blocks_ - lba;
  }

  const std::unique_ptr<BlockBackend> backend_;
  const Identity identity_;
  const uint64_t blocks_;
  const uint32_t block_size_;
  mutable std::atomic<bool> poisoned_ = false;
  mutable std::atomic<bool> discard_;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_SCSI_DISK_H_
