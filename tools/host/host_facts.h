// What the host's kernel says about itself, beyond KVM's capabilities.
#ifndef PARTITA_TOOLS_HOST_HOST_FACTS_H_
#define PARTITA_TOOLS_HOST_HOST_FACTS_H_

#include <string>

namespace partita {

// First line of a file; empty if there is none.
std::string ReadLine(const std::string& path);
// The host's clocksource by name.
std::string HostClock();
bool HostClockIsTsc();
// Whether KVM virtualises the local APIC in hardware (APICv, AVIC): an EOI is then no exit. True if
// the kernel does not tell.
bool HostVirtualizesApic();

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_HOST_FACTS_H_
