#include "partition/memory/guest_ram.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "partition/machine.h"

namespace partita {
namespace {

constexpr uint64_t kBlock = 2ull << 20;

// Calls `found(start, length)` for each part of at most one block that has pages.
template <typename Found>
void ForEachResident(std::byte* start, uint64_t size, Found found) {
  std::array<unsigned char, kBlock / kPageSize> pages{};
  for (uint64_t at = 0; at < size; at += kBlock) {
    if (mincore(start + at, kBlock, pages.data()) != 0) continue;
    const auto resident =
        std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; });
    if (resident != 0) found(start + at, static_cast<uint64_t>(resident) * kPageSize);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::Create(uint64_t size, PageKind kind,
                                                           uint64_t maximum) {
  if (size < machine::kMinMemory || size > machine::kMaxMemory || size % kBlock != 0) {
    return InvalidArgument("guest memory must be between 32 MiB and 1 TiB, a multiple of 2 MiB");
  }
  if (maximum != 0 && (maximum < size || maximum > machine::kMaxMemory || maximum % kBlock != 0 ||
                       kind == PageKind::kHuge)) {
    return InvalidArgument(
        "the maximum of guest memory must be a multiple of 2 MiB, not less than what the guest "
        "starts with, and does not go with pages=2m");
  }
  const uint64_t total = std::max(size, maximum);
  std::unique_ptr<GuestRam> ram(new GuestRam);
  ram->kind_ = kind;
  ram->size_ = size;
  RETURN_IF_ERROR(kind == PageKind::kShared ? ram->MapShared(total) : ram->MapAnonymous(total));
  ram->small_blocks_.resize(total / kBlock);
  ram->Advise();
  std::byte* host = ram->mapping_.data();
  const uint64_t low = std::min(size, machine::kHoleStart);
  std::array<GuestMemory::Region, 3> regions = {
      GuestMemory::Region{.gpa = 0, .size = low, .host = host, .file_offset = 0}};
  size_t count = 1;
  if (size > low) {
    regions[count++] = {
        .gpa = machine::kHighRamStart, .size = size - low, .host = host + low, .file_offset = low};
  }
  if (total > size) {
    // Blocks of Linux, in which memory is added, have at most 2 GiB and mostly 128 MiB.
    constexpr uint64_t kLinuxBlock = 2ull << 30;
    const uint64_t end = machine::kHighRamStart + (size - low);
    regions[count++] = {.gpa = (end + kLinuxBlock - 1) / kLinuxBlock * kLinuxBlock,
                        .size = total - size,
                        .host = host + size,
                        .file_offset = size,
                        .added_later = true};
  }
  ram->memory_ = std::make_unique<GuestMemory>(std::span(regions).first(count), ram->fd_.get());
  return ram;
}

absl::Status GuestRam::MapAnonymous(uint64_t total) {
  constexpr int kHuge2Mib = 21 << 26;  // MAP_HUGE_2MB of linux/mman.h
  const bool pool = kind_ == PageKind::kHuge;
  // A mapping of the pool is aligned by itself, and reserves its pages now: without the reservation
  // the guest's first touch of a page that is not there would end the worker.
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (pool ? MAP_HUGETLB | kHuge2Mib : MAP_NORESERVE);
  auto mapping = Mapping::Map(total + (pool ? 0 : kBlock), PROT_READ | PROT_WRITE, flags, -1);
  if (!mapping.ok()) {
    if (!pool) return mapping.status();
    return ResourceExhausted(
        "no " + std::to_string(total / kBlock) +
        " free 2 MiB huge pages; raise /proc/sys/vm/nr_hugepages or use pages=auto");
  }
  if (!pool) mapping->Trim(kBlock, total);
  mapping_ = *std::move(mapping);
  return absl::OkStatus();
}

absl::Status GuestRam::MapShared(uint64_t total) {
  fd_ = UniqueFd(memfd_create("partita-ram", MFD_CLOEXEC));
  if (!fd_.valid()) return SystemError("creating the guest-RAM memfd");
  if (ftruncate(fd_.get(), static_cast<off_t>(total)) != 0) {
    return SystemError("sizing the guest-RAM memfd");
  }
  // The kernel aligns a large mapping of a memfd where it could have huge pages at all.
  ASSIGN_OR_RETURN(
      mapping_, Mapping::Map(total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_.get()));
  return absl::OkStatus();
}

void GuestRam::Advise() {
  std::byte* start = mapping_.data();
  const size_t size = mapping_.size();
  // Each of these is a wish; a host that cannot grant it works all the same.
  if (kind_ == PageKind::kAuto || kind_ == PageKind::kShared) madvise(start, size, MADV_HUGEPAGE);
  if (kind_ == PageKind::kSmall) madvise(start, size, MADV_NOHUGEPAGE);
  // A crash dump of the worker must not carry the guest's RAM, nor a child a copy of it.
  madvise(start, size, MADV_DONTDUMP);
  madvise(start, size, MADV_DONTFORK);
  // For whoever reads /proc/PID/smaps; a memfd has its name already.
  if (kind_ != PageKind::kShared) {
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, size, "partita-ram");
  }
  std::fill(small_blocks_.begin(), small_blocks_.end(), false);
  small_count_ = 0;
}

absl::Status GuestRam::Clear() {
  if (memory_ != nullptr) memory_->ForgetAdded();
  switch (kind_) {
    case PageKind::kHuge:
      // Given back, another process could take them.
      ForEachResident(mapping_.data(), mapping_.size(),
                      [](std::byte* start, uint64_t) { std::memset(start, 0, kBlock); });
      return absl::OkStatus();
    case PageKind::kShared:
      if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(mapping_.size())) != 0) {
        return SystemError("clearing guest RAM");
      }
      return absl::OkStatus();
    case PageKind::kAuto:
    case PageKind::kSmall:
      break;
  }
  if (madvise(mapping_.data(), mapping_.size(), MADV_DONTNEED) != 0) {
    return SystemError("clearing guest RAM");
  }
  Advise();
  return absl::OkStatus();
}

// The host's collector of huge pages would allocate what a block lacks and so take back what was
// given. Pieces of one block after the other become one mapping; the bound is for a guest that
// gives every second block.
void GuestRam::KeepSmall(const std::byte* start, uint64_t length) {
  constexpr uint32_t kMostSmall = 4096;
  const auto from = static_cast<uint64_t>(start - mapping_.data());
  const uint64_t to = from + length;
  for (uint64_t block = from / kBlock; block * kBlock < to; ++block) {
    const bool whole = from <= block * kBlock && to >= (block + 1) * kBlock;
    if (small_blocks_[block] == !whole || (!whole && small_count_ == kMostSmall)) continue;
    if (madvise(mapping_.data() + block * kBlock, kBlock,
                whole ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0) {
      small_blocks_[block] = !whole;
      small_count_ += whole ? -1 : 1;
    }
  }
}

bool GuestRam::Discard(uint64_t pfn, uint64_t count) {
  constexpr uint64_t kMaxPfn = machine::kMaxMemory >> (kPageShift - 2);
  if (pfn > kMaxPfn || count > kMaxPfn || kind_ == PageKind::kHuge) return false;
  const uint64_t length = count << kPageShift;
  std::byte* start = memory_->Range(pfn << kPageShift, length);
  if (start == nullptr) return false;
  if (kind_ == PageKind::kShared) {
    // The mapping is the whole file.
    return fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start - mapping_.data(),
                     static_cast<off_t>(length)) == 0;
  }
  if (kind_ == PageKind::kAuto) KeepSmall(start, length);
  // Splits a huge page only where it has to: at the two ends.
  return madvise(start, length, MADV_DONTNEED) == 0;
}

uint64_t GuestRam::AllocatedBytes() const {
  if (kind_ == PageKind::kShared) {
    struct stat info {};
    return fstat(fd_.get(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
  }
  uint64_t total = 0;
  ForEachResident(mapping_.data(), mapping_.size(),
                  [&](std::byte*, uint64_t resident) { total += resident; });
  return total;
}

}  // namespace partita
