#include "partition/memory/guest_ram.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <string>

#include "partition/machine.h"

namespace partita {

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::Create(uint64_t size, PageKind kind) {
  constexpr uint64_t kGranularity = 2ull << 20;
  if (size < machine::kMinMemory || size > machine::kMaxMemory || size % kGranularity != 0) {
    return InvalidArgument("guest memory must be between 32 MiB and 1 TiB, a multiple of 2 MiB");
  }
  std::unique_ptr<GuestRam> ram(new GuestRam);
  const bool huge = kind == PageKind::kHuge;
  constexpr unsigned kHuge2Mib = 21u << 26;  // MFD_HUGE_2MB of linux/memfd.h
  ram->fd_ =
      UniqueFd(memfd_create("partita-ram", MFD_CLOEXEC | (huge ? MFD_HUGETLB | kHuge2Mib : 0u)));
  if (!ram->fd_.valid()) return SystemError("creating the guest-RAM memfd");
  if (ftruncate(ram->fd_.get(), static_cast<off_t>(size)) != 0) {
    return SystemError("sizing the guest-RAM memfd");
  }
  auto mapping =
      Mapping::Map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram->fd_.get());
  if (!mapping.ok()) {
    if (!huge) return mapping.status();
    return ResourceExhausted(
        "no " + std::to_string(size >> 21) +
        " free 2 MiB huge pages; raise /proc/sys/vm/nr_hugepages or use pages=4k");
  }
  ram->mapping_ = *std::move(mapping);
  if (kind == PageKind::kTransparent) madvise(ram->mapping_.data(), size, MADV_HUGEPAGE);
  // A crash dump of the worker must not carry the guest's RAM.
  madvise(ram->mapping_.data(), size, MADV_DONTDUMP);
  std::byte* host = ram->mapping_.data();
  const uint64_t low = std::min(size, machine::kHoleStart);
  std::array<GuestMemory::Region, 2> regions = {
      GuestMemory::Region{.gpa = 0, .size = low, .host = host, .file_offset = 0},
      GuestMemory::Region{.gpa = machine::kHighRamStart,
                          .size = size - low,
                          .host = host + low,
                          .file_offset = low}};
  ram->memory_ =
      std::make_unique<GuestMemory>(std::span(regions).first(size > low ? 2 : 1), ram->fd_.get());
  return ram;
}

absl::Status GuestRam::Clear() {
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                static_cast<off_t>(mapping_.size())) != 0) {
    return SystemError("clearing guest RAM");
  }
  return absl::OkStatus();
}

uint64_t GuestRam::AllocatedBytes() const {
  struct stat info {};
  return fstat(fd_.get(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
}

}  // namespace partita
