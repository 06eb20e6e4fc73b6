// The structures of a VHDX file, little-endian as they lie on the disk. No logic.
// Source: [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", v20240423; the section is named at
// each.
#ifndef PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_PROTOCOL_H_
#define PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "vmbus/protocol/guid.h"

namespace partita::vhdx {

using vmbus::Guid;
using vmbus::ParseGuid;

inline constexpr uint64_t kMiB = 1u << 20;
// Units of the log and of what it covers; 2.3.
inline constexpr uint64_t kLogSector = 4096;

// 2.2: where things lie below 1 MiB.
inline constexpr uint64_t kFileIdentifierOffset = 0;
inline constexpr uint64_t kHeaderOffset[2] = {64u << 10, 128u << 10};
inline constexpr uint64_t kRegionTableOffset[2] = {192u << 10, 256u << 10};
inline constexpr uint64_t kRegionTableSize = 64u << 10;
inline constexpr uint64_t kHeaderSectionSize = kMiB;

inline constexpr uint64_t kFileSignature = 0x656c696678646876;      // "vhdxfile"
inline constexpr uint32_t kHeaderSignature = 0x64616568;            // "head"
inline constexpr uint32_t kRegionSignature = 0x69676572;            // "regi"
inline constexpr uint32_t kLogEntrySignature = 0x65676f6c;          // "loge"
inline constexpr uint32_t kZeroDescriptorSignature = 0x6f72657a;    // "zero"
inline constexpr uint32_t kDataDescriptorSignature = 0x63736564;    // "desc"
inline constexpr uint32_t kDataSectorSignature = 0x61746164;        // "data"
inline constexpr uint64_t kMetadataSignature = 0x617461646174656d;  // "metadata"

// 2.2.1
struct FileIdentifier {
  uint64_t signature;
  uint16_t creator[256];  // UTF-16, for people
};
static_assert(sizeof(FileIdentifier) == 520);

// 2.2.2. The checksum is CRC-32C over all 4 KiB with this field as 0.
struct Header {
  uint32_t signature;
  uint32_t checksum;
  uint64_t sequence;
  Guid file_write_guid;  // changes before the first modification after an open
  Guid data_write_guid;  // changes before the first change that a user of the disk can see
  Guid log_guid;         // zero: nothing to replay
  uint16_t log_version;  // 0
  uint16_t version;      // 1
  uint32_t log_length;   // bytes, whole MiB
  uint64_t log_offset;   // bytes, whole MiB
  uint8_t reserved[4016];
};
static_assert(sizeof(Header) == 4096 && offsetof(Header, log_guid) == 48 &&
              offsetof(Header, log_offset) == 72);

// 2.2.3. The checksum covers 64 KiB.
struct RegionTableHeader {
  uint32_t signature;
  uint32_t checksum;
  uint32_t count;  // at most kMaxTableEntries
  uint32_t reserved;
};
static_assert(sizeof(RegionTableHeader) == 16);
inline constexpr uint32_t kMaxTableEntries = 2047;

struct RegionEntry {
  Guid guid;
  uint64_t offset;    // bytes, whole MiB
  uint32_t length;    // bytes, whole MiB
  uint32_t required;  // bit 0: who does not know it must not open the file
};
static_assert(sizeof(RegionEntry) == 32);

inline constexpr Guid kBatRegion = ParseGuid("2dc27766-f623-4200-9d64-115e9bfd4a08");
inline constexpr Guid kMetadataRegion = ParseGuid("8b7ca206-4790-4b9a-b8fe-575f050f886e");

// 2.3.1: an entry is this header with its descriptors, in whole sectors, then one data sector for
// each data descriptor. The checksum covers the whole entry.
struct LogEntryHeader {
  uint32_t signature;
  uint32_t checksum;
  uint32_t length;  // of the entry, whole sectors
  uint32_t tail;    // byte offset in the log of the first entry that is still needed
  uint64_t sequence;
  uint32_t descriptors;
  uint32_t reserved;
  Guid log_guid;
  uint64_t flushed_file_offset;  // the file was durable up to here
  uint64_t last_file_offset;     // everything allocated lies below
};
static_assert(sizeof(LogEntryHeader) == 64 && offsetof(LogEntryHeader, flushed_file_offset) == 48);

// 2.3.1.2 and 2.3.1.3
struct LogDescriptor {
  uint32_t signature;
  uint32_t trailing;     // data: the last 4 bytes of the sector
  uint64_t leading;      // data: its first 8 bytes; zero: length in bytes, whole sectors
  uint64_t file_offset;  // whole sectors
  uint64_t sequence;     // as in the entry
};
static_assert(sizeof(LogDescriptor) == 32);
inline constexpr uint32_t kDescriptorsInFirstSector = 126;
inline constexpr uint32_t kDescriptorsPerSector = 128;

// 2.3.1.4: bytes 8 to 4091 of the sector.
struct LogDataSector {
  uint32_t signature;
  uint32_t sequence_high;
  uint8_t data[4084];
  uint32_t sequence_low;
};
static_assert(sizeof(LogDataSector) == 4096);

// 2.5: an entry of the block allocation table is a state in bits 0 to 2 and an offset in MiB in
// bits 20 to 63.
enum class BlockState : uint8_t {
  kNotPresent = 0,
  kUndefined = 1,
  kZero = 2,
  kUnmapped = 3,
  kFullyPresent = 6,
  kPartiallyPresent = 7,  // differencing disks only: the sector bitmap says which sectors
};
inline constexpr uint64_t kBatStateMask = 7;
inline constexpr uint64_t kBatReservedMask = 0xffff8;
inline constexpr unsigned kBatOffsetShift = 20;
inline constexpr uint64_t kSectorsPerBitmapBlock = uint64_t{1} << 23;

// 2.6.1
struct MetadataTableHeader {
  uint64_t signature;
  uint16_t reserved;
  uint16_t count;  // at most kMaxTableEntries
  uint32_t reserved2[5];
};
static_assert(sizeof(MetadataTableHeader) == 32);
inline constexpr uint32_t kMetadataTableSize = 64u << 10;
inline constexpr uint32_t kMaxMetadataItem = kMiB;

struct MetadataEntry {
  Guid item;
  uint32_t offset;  // from the start of the region; 0 for an empty item
  uint32_t length;
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(MetadataEntry) == 32);
inline constexpr uint32_t kMetadataIsUser = 1;
inline constexpr uint32_t kMetadataIsVirtualDisk = 2;
inline constexpr uint32_t kMetadataIsRequired = 4;

// 2.6.2
inline constexpr Guid kFileParametersItem = ParseGuid("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
inline constexpr Guid kDiskSizeItem = ParseGuid("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
inline constexpr Guid kDiskIdItem = ParseGuid("beca12ab-b2e6-4523-93ef-c309e000c746");
inline constexpr Guid kLogicalSectorItem = ParseGuid("8141bf1d-a96f-4709-ba47-f233a8faab5f");
inline constexpr Guid kPhysicalSectorItem = ParseGuid("cda348c7-445d-4471-9cc9-e9885251c556");
inline constexpr Guid kParentLocatorItem = ParseGuid("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

struct FileParameters {
  uint32_t block_size;  // 1 to 256 MiB, a power of two
  uint32_t flags;
};
static_assert(sizeof(FileParameters) == 8);
inline constexpr uint32_t kLeaveBlocksAllocated = 1;
inline constexpr uint32_t kHasParent = 2;
inline constexpr uint64_t kMinBlockSize = kMiB;
inline constexpr uint64_t kMaxBlockSize = 256 * kMiB;
inline constexpr uint64_t kMaxDiskSize = uint64_t{64} << 40;

// 2.6.2.6: the locator is this header, then entries whose offsets count from the header.
struct ParentLocatorHeader {
  Guid type;
  uint16_t reserved;
  uint16_t count;
};
static_assert(sizeof(ParentLocatorHeader) == 20);
struct ParentLocatorEntry {
  uint32_t key_offset;
  uint32_t value_offset;
  uint16_t key_length;  // bytes
  uint16_t value_length;
};
static_assert(sizeof(ParentLocatorEntry) == 12);
inline constexpr Guid kVhdxLocatorType = ParseGuid("b04aefb7-d19e-4a81-b789-25b8e9445913");

}  // namespace partita::vhdx

#endif  // PARTITA_VSP_STORAGE_BLOCK_VHDX_VHDX_PROTOCOL_H_
