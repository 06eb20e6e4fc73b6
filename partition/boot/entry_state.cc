#include "partition/boot/entry_state.h"

#include <span>

#include "partition/machine.h"

namespace partita {
namespace {

// Selectors as the Linux boot protocol asks for them; PVH is indifferent.
constexpr uint16_t kCodeSelector = 0x10, kDataSelector = 0x18, kTaskSelector = 0x20;
constexpr uint64_t kCode64 = 0x00AF9B000000FFFF, kCode32 = 0x00CF9B000000FFFF,
                   kData = 0x00CF93000000FFFF, kTask = 0x00008B0000000067;
constexpr uint64_t kCr0Protected = 1, kCr0Extension = 1 << 4, kCr0Paging = 1u << 31,
                   kCr4Pae = 1 << 5, kEferLongEnable = 1 << 8, kEferLongActive = 1 << 10;

void SetSegments(bool long_mode, kvm_sregs* sregs) {
  kvm_segment code{};
  code.limit = 0xFFFFFFFF;
  code.selector = kCodeSelector;
  code.type = 0xB;  // execute and read, accessed
  code.present = 1;
  code.s = 1;
  code.g = 1;
  code.l = long_mode ? 1 : 0;
  code.db = long_mode ? 0 : 1;
  kvm_segment data = code;
  data.selector = kDataSelector;
  data.type = 0x3;  // read and write, accessed
  data.l = 0;
  data.db = 1;
  kvm_segment task{};
  task.selector = kTaskSelector;
  task.limit = 0x67;
  task.type = 0xB;  // busy
  task.present = 1;
  sregs->cs = code;
  sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
  sregs->tr = task;
  sregs->idt.base = 0;
  sregs->idt.limit = 0;
}

}  // namespace

absl::Status SetEntry(const KvmVcpu& vcpu, GuestMemory& memory, const BootEntry& entry) {
  const bool long_mode = entry.mode == BootEntry::Mode::kLong64;
  const uint64_t gdt[] = {0, 0, long_mode ? kCode64 : kCode32, kData, kTask};
  if (!memory.Write(machine::kGdt, std::as_bytes(std::span(gdt)))) {
    return Internal("no room for the boot GDT");
  }
  kvm_sregs sregs{};
  RETURN_IF_ERROR(vcpu.GetSregs(&sregs));
  SetSegments(long_mode, &sregs);
  sregs.gdt.base = machine::kGdt;
  sregs.gdt.limit = sizeof(gdt) - 1;
  sregs.cr0 = kCr0Protected | kCr0Extension;
  sregs.cr4 = 0;
  sregs.efer = 0;
  if (long_mode) {
    sregs.cr0 |= kCr0Paging;
    sregs.cr3 = machine::kPageTables;
    sregs.cr4 = kCr4Pae;
    sregs.efer = kEferLongEnable | kEferLongActive;
  }
  RETURN_IF_ERROR(vcpu.SetSregs(sregs));
  kvm_regs regs{};
  regs.rflags = 2;
  regs.rip = entry.rip;
  (long_mode ? regs.rsi : regs.rbx) = entry.argument;
  return vcpu.SetRegs(regs);
}

}  // namespace partita
