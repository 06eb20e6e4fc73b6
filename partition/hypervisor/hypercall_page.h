// The code that the user SynIC backend places into the guest's hypercall page. It starts with
// ENDBR64 and changes no register but RAX. A fast HvSignalEvent with flag number 0 and a connection
// id in the doorbell range becomes one OUT to the port of that number, which KVM turns into an
// eventfd without leaving the kernel; every other call is one trapping IN whose 32-bit result is
// the status.
#ifndef PARTITA_PARTITION_HYPERVISOR_HYPERCALL_PAGE_H_
#define PARTITA_PARTITION_HYPERVISOR_HYPERCALL_PAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/guest_memory.h"

namespace partita {

std::array<std::byte, kPageSize> BuildHypercallPage();

}  // namespace partita

#endif  // PARTITA_PARTITION_HYPERVISOR_HYPERCALL_PAGE_H_
