#include "vsc/guest/platform.h"

#include "vsc/guest/runtime.h"

namespace partita::guest {
namespace {

constexpr uint32_t kMsrMiscEnable = 0x1A0, kMsrMtrrDefType = 0x2FF;
// KVM's clock, asynchronous page fault, steal time, EOI and poll control MSRs.
constexpr uint32_t kKvmMsrs[] = {0x11,       0x12,       0x4B564D00, 0x4B564D01,
                                 0x4B564D02, 0x4B564D03, 0x4B564D04, 0x4B564D05};

void Out(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" ::"a"(value), "d"(port)); }

void SpinMicroseconds(uint64_t microseconds) {
  const uint64_t end = Tsc() + microseconds * (TscHz() / 1000000);
  while (Tsc() < end) asm volatile("pause");
}

void Topology() {
  struct Query {
    uint32_t leaf, index;
  };
  constexpr Query kQueries[] = {{0, 0}, {1, 0}, {4, 3}, {0xB, 0}, {0xB, 1}, {0xB, 2}};
  for (const Query& query : kQueries) {
    uint32_t r[4] = {};
    Call(kSysCpuid, query.leaf, reinterpret_cast<uintptr_t>(r), query.index);
    JsonLine("topology")
        .Number("leaf", query.leaf)
        .Number("index", query.index)
        .Number("eax", r[0])
        .Number("ebx", r[1])
        .Number("ecx", r[2])
        .Number("edx", r[3]);
  }
}

// Neither the 8259s nor the I/O APIC were programmed, so the line must lead nowhere.
void SerialInterrupt() {
  constexpr uint16_t kInterruptEnable = 0x3F9;
  constexpr uint8_t kTransmitterEmpty = 2;
  const uint64_t before = Interrupts(0);
  for (int i = 0; i < 10; ++i) {
    Out(kInterruptEnable, kTransmitterEmpty);
    SpinMicroseconds(500);
    Out(kInterruptEnable, 0);
  }
  JsonLine("serial").Number("interrupts", Interrupts(0) - before);
}

}  // namespace

void ReportPlatform() {
  for (const uint32_t msr : {kMsrMiscEnable, kMsrMtrrDefType}) {
    JsonLine("msr").Number("number", msr).Number("value", Call(kSysReadMsr, msr));
  }
  for (const uint32_t msr : kKvmMsrs) {
    JsonLine("kvm_msr").Number("number", msr).Number("taken", Call(kSysTryWriteMsr, msr, 0));
  }
  Topology();
  SerialInterrupt();
}

}  // namespace partita::guest
