// The machine below VMBus as a guest finds it: see ReportPlatform.
#ifndef PARTITA_VSC_GUEST_PLATFORM_H_
#define PARTITA_VSC_GUEST_PLATFORM_H_

namespace partita::guest {

// Memory types and fast strings, KVM's own paravirtual MSRs (none may be reachable), an interrupt
// of the serial port that nobody routed, processor topology, CMOS clock, SMBIOS. Ring 3, VP 0.
void ReportPlatform();

}  // namespace partita::guest

#endif  // PARTITA_VSC_GUEST_PLATFORM_H_
