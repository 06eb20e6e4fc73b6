// ACPI tables of the machine, built by code: hardware-reduced, no PCI, one VMBus device, one serial
// port. Sources: ACPI specification 6.4; Linux, drivers/hv/vmbus_drv.c (vmbus_acpi_add) for the
// VMBus node.
#ifndef PARTITA_PARTITION_BOOT_ACPI_H_
#define PARTITA_PARTITION_BOOT_ACPI_H_

#include <cstdint>

#include "base/guest_memory.h"
#include "base/status.h"

namespace partita {

struct AcpiOptions {
  uint32_t vp_count = 1;
};

// Writes all tables into [kAcpiStart, kSmbios) and returns the GPA of the RSDP.
absl::StatusOr<uint64_t> WriteAcpiTables(GuestMemory& memory, const AcpiOptions& options);

}  // namespace partita

#endif  // PARTITA_PARTITION_BOOT_ACPI_H_
