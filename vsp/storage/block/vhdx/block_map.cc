#include "vsp/storage/block/vhdx/block_map.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

namespace partita::vhdx {
namespace {

// Of bitmaps in memory, for one file: partially present blocks of 2 TiB.
constexpr uint64_t kMaxPages = (uint64_t{512} << 20) / kLogSector;

template <typename T>
T* Zeroed(uint64_t count) {
  auto* memory = static_cast<T*>(std::calloc(std::max<uint64_t>(1, count), sizeof(T)));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

absl::StatusOr<std::unique_ptr<BlockMap>> BlockMap::Load(const storage::ImageReader& content,
                                                         const Layout& layout) {
  std::unique_ptr<BlockMap> map(new BlockMap(layout, BatGeometry(layout.metadata)));
  RETURN_IF_ERROR(map->LoadTable(content));
  if (layout.metadata.has_parent) RETURN_IF_ERROR(map->LoadBitmaps(content));
  return map;
}

absl::Status BlockMap::LoadTable(const storage::ImageReader& content) {
  // The last page to its end: what lies behind the table is written back as it was.
  const uint64_t entries = RoundUp(geometry_.entries, kEntriesPerPage);
  table_.reset(Zeroed<uint64_t>(entries));
  std::vector<uint64_t> part(64u << 10);
  for (uint64_t first = 0; first < entries; first += part.size()) {
    const uint64_t count = std::min<uint64_t>(part.size(), entries - first);
    RETURN_IF_ERROR(content.Read(layout_.regions.bat.offset + first * sizeof(uint64_t),
                                 std::as_writable_bytes(std::span(part).first(count))));
    for (uint64_t i = 0; i < count; ++i) {
      if (part[i] == 0) continue;
      if (first + i < geometry_.entries) {
        RETURN_IF_ERROR(layout_.Decode(geometry_, first + i, part[i]).status());
      }
      table_.get()[first + i] = part[i];
    }
  }
  return absl::OkStatus();
}

absl::Status BlockMap::LoadBitmaps(const storage::ImageReader& content) {
  const uint64_t sectors = geometry_.blocks * SectorsPerBlock();
  pages_.reset(Zeroed<Page*>(RoundUp(sectors, kSectorsPerPage) / kSectorsPerPage));
  for (uint64_t block = 0; block < geometry_.blocks; ++block) {
    if (Payload(block).state != BlockState::kPartiallyPresent) continue;
    if (!Entry(geometry_.BitmapEntry(block)).present()) {
      return InvalidArgument("VHDX: a block's sector bitmap is missing");
    }
    const uint64_t first = block * SectorsPerBlock() / kSectorsPerPage;
    const uint64_t last = ((block + 1) * SectorsPerBlock() - 1) / kSectorsPerPage;
    for (uint64_t page = first; page <= last; ++page) {
      if (PageOf(page) != nullptr) continue;
      if (owned_pages_.size() == kMaxPages) {
        return ResourceExhausted("VHDX: the sector bitmaps are too large");
      }
      RETURN_IF_ERROR(content.Read(BitmapPageOffset(page),
                                   std::as_writable_bytes(std::span(MakePage(page).words))));
    }
  }
  return absl::OkStatus();
}

BlockMap::Page& BlockMap::MakePage(uint64_t page) {
  owned_pages_.push_back(std::make_unique<Page>());
  Page* made = owned_pages_.back().get();
  std::atomic_ref(pages_.get()[page]).store(made, std::memory_order_release);
  return *made;
}

void BlockMap::CopyTablePage(uint64_t page, std::span<std::byte> to) const {
  for (uint64_t i = 0; i < kEntriesPerPage; ++i) {
    const uint64_t raw =
        std::atomic_ref(table_.get()[page * kEntriesPerPage + i]).load(std::memory_order_relaxed);
    std::memcpy(to.data() + i * sizeof(raw), &raw, sizeof(raw));
  }
}

void BlockMap::CopyBitmapPage(uint64_t page, std::span<std::byte> to) const {
  Page& from = *PageOf(page);
  for (size_t i = 0; i < std::size(from.words); ++i) {
    const uint64_t word = std::atomic_ref(from.words[i]).load(std::memory_order_acquire);
    std::memcpy(to.data() + i * sizeof(word), &word, sizeof(word));
  }
}

uint64_t BlockMap::BitmapPageOffset(uint64_t page) const {
  constexpr uint64_t kPagesPerChunk = kSectorsPerBitmapBlock / kSectorsPerPage;
  const uint64_t block = page * kSectorsPerPage / SectorsPerBlock();
  return Entry(geometry_.BitmapEntry(block)).offset + page % kPagesPerChunk * kLogSector;
}

bool BlockMap::Has(uint64_t sector) const {
  Page* page = PageOf(sector / kSectorsPerPage);
  if (page == nullptr) return false;
  const uint64_t bit = sector % kSectorsPerPage;
  return (std::atomic_ref(page->words[bit / 64]).load(std::memory_order_acquire) >> (bit % 64) &
          1) != 0;
}

uint64_t BlockMap::RunEnd(uint64_t sector, uint64_t end) const {
  const bool has = Has(sector);
  while (sector < end) {
    const uint64_t in_word = 64 - sector % 64;
    Page* page = PageOf(sector / kSectorsPerPage);
    uint64_t word = 0;
    if (page != nullptr) {
      word = std::atomic_ref(page->words[sector % kSectorsPerPage / 64])
                 .load(std::memory_order_acquire) >>
             (sector % 64);
    }
    const auto alike = static_cast<uint64_t>(has ? std::countr_one(word) : std::countr_zero(word));
    if (alike < in_word) return std::min(end, sector + alike);
    sector += in_word;
  }
  return end;
}

bool BlockMap::SetBits(uint64_t first, uint64_t end) {
  bool changed = false;
  while (first < end) {
    const uint64_t count = std::min(64 - first % 64, end - first);
    const uint64_t mask = (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << (first % 64);
    uint64_t& word = PageOf(first / kSectorsPerPage)->words[first % kSectorsPerPage / 64];
    const uint64_t before = std::atomic_ref(word).fetch_or(mask, std::memory_order_acq_rel);
    changed |= (before & mask) != mask;
    first += count;
  }
  return changed;
}

void BlockMap::ClearBlock(uint64_t block) {
  uint64_t sector = block * SectorsPerBlock();
  const uint64_t end = sector + SectorsPerBlock();
  // A block has at least 256 sectors of 4096 bytes, so it is whole words.
  while (sector < end) {
    Page* page = PageOf(sector / kSectorsPerPage);
    if (page == nullptr) page = &MakePage(sector / kSectorsPerPage);
    const uint64_t stop = std::min(end, RoundUp(sector + 1, kSectorsPerPage));
    for (; sector < stop; sector += 64) {
      std::atomic_ref(page->words[sector % kSectorsPerPage / 64])
          .store(0, std::memory_order_release);
    }
  }
}

bool BlockMap::BlockIsFull(uint64_t block) const {
  const uint64_t first = block * SectorsPerBlock();
  const uint64_t end = std::min(first + SectorsPerBlock(),
                                layout_.metadata.disk_size / layout_.metadata.logical_sector);
  return Has(first) && RunEnd(first, end) == end;
}

}  // namespace partita::vhdx
