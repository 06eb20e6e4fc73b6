// A small image with a log, changed by the input at places of its choice; with checksums made right
// again or not, as the input says. Opening, replaying and reading must end in a value or a
// sentence.
#include <cstring>

#include "base/crc32c.h"
#include "tests/fakes/memory_image.h"
#include "vsp/storage/block/vhdx/create.h"
#include "vsp/storage/block/vhdx/log.h"
#include "vsp/storage/block/vhdx/vhdx_reader.h"

namespace partita::vhdx {
namespace {

using storage::MemoryImage;

constexpr Guid kLogGuid = ParseGuid("11111111-2222-3333-4444-555555555555");

MemoryImage Template() {
  MemoryImage image;
  CreateOptions options;
  options.disk_size = 3 * kMiB;
  options.block_size = kMiB;
  if (!Create(image, options).ok()) abort();
  std::vector<std::byte> table(kLogSector, std::byte{0});
  const LogUpdate updates[] = {{3 * kMiB, table, 0}, {3 * kMiB + kLogSector, {}, kLogSector}};
  const auto entry = EncodeLogEntry({.log_guid = kLogGuid,
                                     .sequence = 9,
                                     .tail = 0,
                                     .flushed_file_offset = 0,
                                     .last_file_offset = image.size()},
                                    updates);
  if (!image.Write(kMiB, entry).ok()) abort();
  Header header = image.Load<Header>(kHeaderOffset[1]);
  header.log_guid = kLogGuid;
  image.Store(kHeaderOffset[1], Sealed(header));
  return image;
}

void Seal(MemoryImage& image, uint64_t at, uint64_t length) {
  if (at + length > image.bytes.size()) return;
  image.Store<uint32_t>(at + 4, 0);
  image.Store<uint32_t>(at + 4, Crc32c(std::span(image.bytes).subspan(at, length)));
}

}  // namespace
}  // namespace partita::vhdx

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace partita::vhdx;
  static const MemoryImage kTemplate = Template();
  if (size < 1 || size > 512) return 0;
  static MemoryImage image;  // keeps its memory, which costs more than all the rest
  image.bytes = kTemplate.bytes;
  const uint8_t seal = data[0];
  // Changes: an area, an offset in it, a length, bytes.
  constexpr uint64_t kAreas[] = {
      kHeaderOffset[1], kRegionTableOffset[0],      kMiB,     2 * kMiB, 2 * kMiB + (64u << 10),
      3 * kMiB,         kRegionTableOffset[0] + 16, kMiB + 64};
  for (size_t at = 1; at + 4 <= size;) {
    const uint64_t where = kAreas[data[at] % 8] + (data[at + 1] | (data[at + 2] & 0xf) << 8);
    const size_t length = std::min<size_t>(data[at + 3] % 16, size - at - 4);
    std::memcpy(image.bytes.data() + where, data + at + 4, length);
    at += 4 + length;
  }
  if ((seal & 1) != 0) Seal(image, kHeaderOffset[1], 4096);
  if ((seal & 2) != 0) Seal(image, kRegionTableOffset[0], kRegionTableSize);
  if ((seal & 4) != 0) {
    Seal(image, kMiB, std::min<uint64_t>(image.Load<uint32_t>(kMiB + 8), kMiB));
  }
  const auto reader = VhdxReader::Open(image, nullptr);
  if (reader.ok()) {
    std::vector<std::byte> content(std::min<uint64_t>((*reader)->disk_size(), 64u << 10));
    content.resize(content.size() / (*reader)->logical_sector() * (*reader)->logical_sector());
    static_cast<void>((*reader)->ReadDisk(0, content));
  }
  // Into the file: whatever it ends in, what was replayed once needs no replay again.
  if (ReplayIntoFile(image, kLogGuid).ok()) {
    const auto header = ReadCurrentHeader(image);
    if (!header.ok() || header->needs_replay()) abort();
  }
  return 0;
}
