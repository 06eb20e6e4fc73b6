// The state in which the boot processor enters what was loaded.
#ifndef PARTITA_PARTITION_BOOT_ENTRY_STATE_H_
#define PARTITA_PARTITION_BOOT_ENTRY_STATE_H_

#include "base/guest_memory.h"
#include "base/status.h"
#include "partition/boot/boot.h"
#include "partition/kvm/kvm.h"

namespace partita {

// Writes a boot GDT (machine::kGdt) and sets the registers of `vcpu`, which has not run yet: flat
// segments, interrupts off, and for Mode::kLong64 paging through machine::kPageTables, which
// LoadKernel has written. Sources: Linux, Documentation/arch/x86/boot.rst ("64-bit boot protocol");
// Xen, docs/misc/pvh.pandoc.
absl::Status SetEntry(const KvmVcpu& vcpu, GuestMemory& memory, const BootEntry& entry);

}  // namespace partita

#endif  // PARTITA_PARTITION_BOOT_ENTRY_STATE_H_
