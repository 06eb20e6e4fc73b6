#include "partition/boot/boot.h"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "partition/machine.h"

namespace partita {
namespace {

struct MemoryRange {
  uint64_t address, size;
  uint32_t type;
};
constexpr uint32_t kTypeRam = 1, kTypeAcpi = 3;

std::vector<MemoryRange> MemoryMap(const GuestMemory& memory) {
  std::vector<MemoryRange> map = {
      {0, machine::kLowRamEnd, kTypeRam},
      {machine::kAcpiStart, machine::kAcpiEnd - machine::kAcpiStart, kTypeAcpi}};
  for (const GuestMemory::Region& region : memory.regions()) {
    if (region.added_later) continue;
    const uint64_t start = region.gpa == 0 ? machine::kAcpiEnd : region.gpa;
    map.push_back({start, region.gpa + region.size - start, kTypeRam});
  }
  return map;
}

absl::StatusOr<uint64_t> FileSize(int fd, const char* what) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return SystemError(std::string("reading the size of the ") + what);
  if (info.st_size <= 0) return InvalidArgument(std::string("the ") + what + " is empty");
  return static_cast<uint64_t>(info.st_size);
}

bool ReadAll(int fd, uint64_t offset, void* to, uint64_t size) {
  auto* out = static_cast<char*>(to);
  while (size > 0) {
    const ssize_t got = pread(fd, out, size, static_cast<off_t>(offset));
    if (got <= 0) return false;
    out += got;
    offset += static_cast<uint64_t>(got);
    size -= static_cast<uint64_t>(got);
  }
  return true;
}

absl::Status ReadInto(GuestMemory& memory, int fd, uint64_t offset, uint64_t gpa, uint64_t size,
                      const char* what) {
  std::byte* to = memory.Range(gpa, size);
  if (to == nullptr) {
    return ResourceExhausted(std::string("the ") + what + " does not fit into guest memory");
  }
  if (!ReadAll(fd, offset, to, size)) {
    return SystemError(std::string("reading the ") + what + " (short file?)");
  }
  memory.MarkDirty(gpa, size);
  return absl::OkStatus();
}

struct Initrd {
  uint64_t address = 0, size = 0;
};

// As high as possible below the hole (and below the limit the kernel states), clear of the kernel.
absl::StatusOr<Initrd> LoadInitrd(GuestMemory& memory, int fd, uint64_t limit, uint64_t floor) {
  if (fd < 0) return Initrd{};
  ASSIGN_OR_RETURN(const uint64_t size, FileSize(fd, "initrd"));
  const GuestMemory::Region& low = memory.regions()[0];
  const uint64_t top = std::min(low.size, limit);
  if (top < floor || size > top - floor) {
    return ResourceExhausted("the initrd of " + std::to_string(size >> 20) +
                             " MiB does not fit beside the kernel; give the partition more memory");
  }
  const uint64_t address = (top - size) & ~(kPageSize - 1);
  if (address < floor) return ResourceExhausted("the initrd does not fit beside the kernel");
  RETURN_IF_ERROR(ReadInto(memory, fd, 0, address, size, "initrd"));
  return Initrd{address, size};
}

absl::Status WriteCommandLine(GuestMemory& memory, const std::string& text) {
  if (text.size() > machine::kMaxCommandLine) {
    return InvalidArgument("the kernel command line is longer than 2047 characters");
  }
  const auto bytes = std::as_bytes(std::span(text.c_str(), text.size() + 1));
  return memory.Write(machine::kCommandLine, bytes) ? absl::OkStatus()
                                                    : Internal("no room for the command line");
}

template <typename T>
T Field(std::span<const uint8_t> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}
template <typename T>
void SetField(std::span<uint8_t> bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

// Offsets in the setup header and the zero page: Linux, Documentation/x86/boot.rst.
constexpr size_t kSetupSects = 0x1F1, kBootFlag = 0x1FE, kHeaderMagic = 0x202, kVersion = 0x206,
                 kLoaderType = 0x210, kLoadFlags = 0x211, kRamdiskImage = 0x218,
                 kRamdiskSize = 0x21C, kCmdLinePtr = 0x228, kInitrdMax = 0x22C,
                 kKernelAlignment = 0x230, kXloadFlags = 0x236, kPrefAddress = 0x258,
                 kInitSize = 0x260, kRsdpAddr = 0x070, kE820Count = 0x1E8, kE820Table = 0x2D0;

// Identity mapping of the first 4 GiB with 2 MiB pages.
bool WritePageTables(GuestMemory& memory) {
  constexpr uint64_t kPresentWrite = 3, kLarge = 0x80;
  std::vector<uint64_t> tables(size_t{6} * 512);
  tables[0] = (machine::kPageTables + kPageSize) | kPresentWrite;
  for (uint64_t i = 0; i < 4; ++i) {
    tables[512 + i] = (machine::kPageTables + (2 + i) * kPageSize) | kPresentWrite;
  }
  for (uint64_t i = 0; i < 2048; ++i) tables[1024 + i] = (i << 21) | kPresentWrite | kLarge;
  return memory.Write(machine::kPageTables, std::as_bytes(std::span(tables)));
}

absl::StatusOr<BootEntry> LoadBzImage(GuestMemory& memory, const BootImage& image,
                                      std::span<const uint8_t> header, uint64_t file_size) {
  if (Field<uint16_t>(header, kVersion) < 0x20C ||
      (Field<uint16_t>(header, kXloadFlags) & 1) == 0) {
    return InvalidArgument("this bzImage has no 64-bit entry (boot protocol 2.12 is needed)");
  }
  uint64_t setup_sects = header[kSetupSects];
  if (setup_sects == 0) setup_sects = 4;
  const uint64_t kernel_offset = (setup_sects + 1) * 512;
  if (file_size <= kernel_offset) return InvalidArgument("the bzImage is cut short");
  const uint64_t kernel_size = file_size - kernel_offset;
  const uint64_t alignment = Field<uint32_t>(header, kKernelAlignment);
  uint64_t address = Field<uint64_t>(header, kPrefAddress);
  if (address < machine::kAcpiEnd) address = std::max<uint64_t>(alignment, machine::kAcpiEnd);
  const uint64_t room = std::max<uint64_t>(Field<uint32_t>(header, kInitSize), kernel_size);
  if (memory.Range(address, room) == nullptr) {
    return ResourceExhausted("the kernel needs " + std::to_string((address + room) >> 20) +
                             " MiB of memory; give the partition more");
  }
  RETURN_IF_ERROR(ReadInto(memory, image.kernel_fd, kernel_offset, address, kernel_size, "kernel"));
  const uint64_t initrd_limit = uint64_t{Field<uint32_t>(header, kInitrdMax)} + 1;
  ASSIGN_OR_RETURN(const Initrd initrd,
                   LoadInitrd(memory, image.initrd_fd, initrd_limit, address + room));
  RETURN_IF_ERROR(WriteCommandLine(memory, image.command_line));

  std::array<uint8_t, 4096> zero_page{};
  const size_t header_end = std::min<size_t>(kHeaderMagic + header[0x201], 0x280);
  std::memcpy(zero_page.data() + kSetupSects, header.data() + kSetupSects,
              header_end - kSetupSects);
  zero_page[kLoaderType] = 0xFF;
  zero_page[kLoadFlags] |= 1;
  SetField(zero_page, kRamdiskImage, static_cast<uint32_t>(initrd.address));
  SetField(zero_page, kRamdiskSize, static_cast<uint32_t>(initrd.size));
  SetField(zero_page, kCmdLinePtr, static_cast<uint32_t>(machine::kCommandLine));
  SetField(zero_page, kRsdpAddr, image.rsdp);
  const std::vector<MemoryRange> map = MemoryMap(memory);
  zero_page[kE820Count] = static_cast<uint8_t>(map.size());
  for (size_t i = 0; i < map.size(); ++i) {
    SetField(zero_page, kE820Table + i * 20, map[i].address);
    SetField(zero_page, kE820Table + i * 20 + 8, map[i].size);
    SetField(zero_page, kE820Table + i * 20 + 16, map[i].type);
  }
  if (!memory.Write(machine::kBootParams, std::as_bytes(std::span(zero_page))) ||
      !WritePageTables(memory)) {
    return Internal("no room for the boot parameters");
  }
  return BootEntry{BootEntry::Mode::kLong64, address + 0x200, machine::kBootParams};
}

// Looks for the PVH entry in one PT_NOTE segment. Every length is the file's.
std::optional<uint32_t> FindPvhEntry(std::span<const uint8_t> notes) {
  constexpr uint32_t kXenPhys32Entry = 18;
  size_t at = 0;
  while (notes.size() - at >= sizeof(Elf64_Nhdr)) {
    const auto note = Field<Elf64_Nhdr>(notes, at);
    const size_t name = at + sizeof(note);
    const size_t name_size = (size_t{note.n_namesz} + 3) & ~size_t{3};
    const size_t desc_size = (size_t{note.n_descsz} + 3) & ~size_t{3};
    if (name_size > notes.size() - name || desc_size > notes.size() - name - name_size) break;
    if (note.n_type == kXenPhys32Entry && note.n_namesz == 4 && note.n_descsz >= 4 &&
        std::memcmp(notes.data() + name, "Xen", 4) == 0) {
      return Field<uint32_t>(notes, name + name_size);
    }
    at = name + name_size + desc_size;
  }
  return std::nullopt;
}

absl::StatusOr<BootEntry> LoadElf(GuestMemory& memory, const BootImage& image, uint64_t file_size) {
  Elf64_Ehdr elf{};
  if (!ReadAll(image.kernel_fd, 0, &elf, sizeof(elf)) || elf.e_ident[EI_CLASS] != ELFCLASS64 ||
      elf.e_machine != EM_X86_64 || elf.e_phentsize != sizeof(Elf64_Phdr) || elf.e_phnum == 0) {
    return InvalidArgument("the kernel is not a 64-bit x86 ELF image");
  }
  std::vector<Elf64_Phdr> segments(elf.e_phnum);
  if (elf.e_phoff > file_size || segments.size() * sizeof(Elf64_Phdr) > file_size - elf.e_phoff ||
      !ReadAll(image.kernel_fd, elf.e_phoff, segments.data(),
               segments.size() * sizeof(Elf64_Phdr))) {
    return InvalidArgument("the ELF kernel is cut short");
  }
  std::optional<uint32_t> entry;
  uint64_t end = machine::kAcpiEnd;
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD && segment.p_type != PT_NOTE) continue;
    if (segment.p_offset > file_size || segment.p_filesz > file_size - segment.p_offset) {
      return InvalidArgument("the ELF kernel is cut short");
    }
    if (segment.p_type == PT_NOTE && segment.p_filesz <= (64 << 10)) {
      std::vector<uint8_t> notes(segment.p_filesz);
      if (!ReadAll(image.kernel_fd, segment.p_offset, notes.data(), notes.size())) continue;
      if (const auto found = FindPvhEntry(notes)) entry = found;
    } else if (segment.p_type == PT_LOAD && segment.p_memsz > 0) {
      if (segment.p_paddr < machine::kAcpiEnd || segment.p_filesz > segment.p_memsz ||
          memory.Range(segment.p_paddr, segment.p_memsz) == nullptr) {
        return ResourceExhausted("the ELF kernel does not fit into guest memory");
      }
      RETURN_IF_ERROR(ReadInto(memory, image.kernel_fd, segment.p_offset, segment.p_paddr,
                               segment.p_filesz, "kernel"));
      end = std::max(end, segment.p_paddr + segment.p_memsz);
    }
  }
  if (!entry) return InvalidArgument("the ELF kernel has no PVH entry note");
  // The kernel's early page tables and bss lie right behind its image.
  constexpr uint64_t kSlack = 1 << 20;
  ASSIGN_OR_RETURN(const Initrd initrd,
                   LoadInitrd(memory, image.initrd_fd, machine::kHoleStart, end + kSlack));
  RETURN_IF_ERROR(WriteCommandLine(memory, image.command_line));

  // hvm_start_info, module list and memory map: Xen, "x86/HVM direct boot ABI".
  const std::vector<MemoryRange> map = MemoryMap(memory);
  std::array<uint8_t, 512> info{};
  constexpr size_t kModule = 64, kMap = 128;
  SetField(info, 0, uint32_t{0x336EC578});
  SetField(info, 4, uint32_t{1});
  SetField(info, 12, uint32_t{initrd.size != 0 ? 1u : 0u});
  SetField(info, 16, machine::kBootParams + kModule);
  SetField(info, 24, machine::kCommandLine);
  SetField(info, 32, image.rsdp);
  SetField(info, 40, machine::kBootParams + kMap);
  SetField(info, 48, static_cast<uint32_t>(map.size()));
  SetField(info, kModule, initrd.address);
  SetField(info, kModule + 8, initrd.size);
  for (size_t i = 0; i < map.size(); ++i) {
    SetField(info, kMap + i * 24, map[i].address);
    SetField(info, kMap + i * 24 + 8, map[i].size);
    SetField(info, kMap + i * 24 + 16, map[i].type);
  }
  if (!memory.Write(machine::kBootParams, std::as_bytes(std::span(info)))) {
    return Internal("no room for the start information");
  }
  return BootEntry{BootEntry::Mode::kPvh32, *entry, machine::kBootParams};
}

}  // namespace

absl::StatusOr<BootEntry> LoadKernel(GuestMemory& memory, const BootImage& image) {
  ASSIGN_OR_RETURN(const uint64_t size, FileSize(image.kernel_fd, "kernel"));
  std::array<uint8_t, 1024> start{};
  if (size < start.size() || !ReadAll(image.kernel_fd, 0, start.data(), start.size())) {
    return InvalidArgument("the kernel file is too short to be a kernel");
  }
  if (std::memcmp(start.data(), ELFMAG, SELFMAG) == 0) return LoadElf(memory, image, size);
  if (Field<uint16_t>(start, kBootFlag) == 0xAA55 &&
      std::memcmp(start.data() + kHeaderMagic, "HdrS", 4) == 0) {
    return LoadBzImage(memory, image, start, size);
  }
  return InvalidArgument("the kernel is neither a bzImage nor an ELF image");
}

}  // namespace partita
