#include "partition/memory/guest_ram.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <string>

#include "partition/machine.h"

namespace partita {

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::Create(uint64_t size, PageKind kind,
                                                           uint64_t maximum) {
  constexpr uint64_t kGranularity = 2ull << 20;
  if (size < machine::kMinMemory || size > machine::kMaxMemory || size % kGranularity != 0) {
    return InvalidArgument("guest memory must be between 32 MiB and 1 TiB, a multiple of 2 MiB");
  }
  if (maximum != 0 && (maximum < size || maximum > machine::kMaxMemory ||
                       maximum % kGranularity != 0 || kind == PageKind::kHuge)) {
    return InvalidArgument(
        "the maximum of guest memory must be a multiple of 2 MiB, not less than what the guest "
        "starts with, and goes with pages=4k or thp");
  }
  const uint64_t total = std::max(size, maximum);
  std::unique_ptr<GuestRam> ram(new GuestRam);
  ram->size_ = size;
  const bool huge = kind == PageKind::kHuge;
  constexpr unsigned kHuge2Mib = 21u << 26;  // MFD_HUGE_2MB of linux/memfd.h
  ram->fd_ =
      UniqueFd(memfd_create("partita-ram", MFD_CLOEXEC | (huge ? MFD_HUGETLB | kHuge2Mib : 0u)));
  if (!ram->fd_.valid()) return SystemError("creating the guest-RAM memfd");
  if (ftruncate(ram->fd_.get(), static_cast<off_t>(total)) != 0) {
    return SystemError("sizing the guest-RAM memfd");
  }
  auto mapping =
      Mapping::Map(total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram->fd_.get());
  if (!mapping.ok()) {
    if (!huge) return mapping.status();
    return ResourceExhausted(
        "no " + std::to_string(size >> 21) +
        " free 2 MiB huge pages; raise /proc/sys/vm/nr_hugepages or use pages=4k");
  }
  ram->mapping_ = *std::move(mapping);
  if (kind == PageKind::kTransparent) madvise(ram->mapping_.data(), total, MADV_HUGEPAGE);
  // A crash dump of the worker must not carry the guest's RAM.
  madvise(ram->mapping_.data(), total, MADV_DONTDUMP);
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
    constexpr uint64_t kBlock = 2ull << 30;
    const uint64_t end = machine::kHighRamStart + (size - low);
    regions[count++] = {.gpa = (end + kBlock - 1) / kBlock * kBlock,
                        .size = total - size,
                        .host = host + size,
                        .file_offset = size,
                        .added_later = true};
  }
  ram->memory_ = std::make_unique<GuestMemory>(std::span(regions).first(count), ram->fd_.get());
  return ram;
}

absl::Status GuestRam::Clear() {
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                static_cast<off_t>(mapping_.size())) != 0) {
    return SystemError("clearing guest RAM");
  }
  return absl::OkStatus();
}

bool GuestRam::Discard(uint64_t pfn, uint64_t count) {
  constexpr uint64_t kMaxPfn = machine::kMaxMemory >> (kPageShift - 2);
  if (pfn > kMaxPfn || count > kMaxPfn) return false;
  const uint64_t length = count << kPageShift;
  const std::byte* start = memory_->Range(pfn << kPageShift, length);
  // The mapping is the whole file.
  return start != nullptr && fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       start - mapping_.data(), static_cast<off_t>(length)) == 0;
}

uint64_t GuestRam::AllocatedBytes() const {
  struct stat info {};
  return fstat(fd_.get(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
}

}  // namespace partita
