#include "partition/boot/acpi.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string_view>
#include <vector>

#include "partition/boot/aml.h"
#include "partition/machine.h"

namespace partita {
namespace {

using aml::Bytes;

void Put(Bytes& table, size_t offset, uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size; ++i) table[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}
void PutText(Bytes& table, size_t offset, std::string_view text) {
  std::copy(text.begin(), text.end(), table.begin() + static_cast<ptrdiff_t>(offset));
}
void PutChecksum(Bytes& table, size_t first, size_t length, size_t at) {
  table[at] = 0;
  const auto begin = table.begin() + static_cast<ptrdiff_t>(first);
  const int sum = std::accumulate(begin, begin + static_cast<ptrdiff_t>(length), 0);
  table[at] = static_cast<uint8_t>(-sum);
}

// System description table header: 36 bytes.
constexpr size_t kHeader = 36;
Bytes Table(std::string_view signature, uint8_t revision, size_t size) {
  Bytes table(size);
  PutText(table, 0, signature);
  table[8] = revision;
  PutText(table, 10, "PARTTA");
  PutText(table, 16, "PARTITA1");
  Put(table, 24, 1, 4);
  PutText(table, 28, "PRTA");
  Put(table, 32, 1, 4);
  return table;
}
void Finish(Bytes& table) {
  Put(table, 4, table.size(), 4);
  PutChecksum(table, 0, table.size(), 9);
}

// Generic address structure in I/O space, one byte wide.
void PutIoRegister(Bytes& table, size_t offset, uint16_t port) {
  table[offset] = 1;
  table[offset + 1] = 8;
  table[offset + 3] = 1;
  Put(table, offset + 4, port, 8);
}

Bytes BuildFadt(uint64_t dsdt) {
  constexpr size_t kSize = 276;  // revision 6
  constexpr uint16_t kBootNoVga = 1 << 2, kBootNoAspm = 1 << 4;
  constexpr uint32_t kResetSupported = 1 << 10, kHardwareReduced = 1 << 20;
  Bytes table = Table("FACP", 6, kSize);
  Put(table, 40, dsdt, 4);
  Put(table, 109, kBootNoVga | kBootNoAspm, 2);
  Put(table, 112, kResetSupported | kHardwareReduced, 4);
  PutIoRegister(table, 116, machine::kResetPort);
  table[128] = machine::kResetValue;
  table[131] = 4;  // minor revision
  Put(table, 140, dsdt, 8);
  PutIoRegister(table, 244, machine::kSleepControlPort);
  PutIoRegister(table, 256, machine::kSleepStatusPort);
  PutText(table, 268, "Partita");
  Finish(table);
  return table;
}

Bytes BuildMadt(uint32_t vp_count) {
  Bytes table = Table("APIC", 5, kHeader + 8 + size_t{vp_count} * 8 + 12);
  Put(table, 36, machine::kLocalApic, 4);
  size_t at = kHeader + 8;
  for (uint32_t vp = 0; vp < vp_count; ++vp, at += 8) {
    table[at] = 0;  // processor local APIC
    table[at + 1] = 8;
    table[at + 2] = static_cast<uint8_t>(vp);
    table[at + 3] = static_cast<uint8_t>(vp);
    table[at + 4] = 1;  // enabled
  }
  table[at] = 1;  // I/O APIC
  table[at + 1] = 12;
  Put(table, at + 4, machine::kIoApic, 4);
  Finish(table);
  return table;
}

Bytes BuildDsdt() {
  using namespace aml;  // NOLINT(google-build-using-namespace): a DSL, used in this function only
  const Bytes bus_hid = String("VMBus");
  const Bytes vmbus = Device(
      "VMBS", {Name("_HID", bus_hid), Name("_UID", Integer(0)), Name("_DDN", String("VMBUS")),
               Name("_STA", Integer(0x0F)), Name("_CRS", ResourceTemplate({}))});
  const Bytes windows =
      ResourceTemplate({MemoryWindow(machine::kMmioLowStart, machine::kMmioLowEnd)});
  const Bytes module = Device("VMOD", {Name("_HID", String("ACPI0004")), Name("_UID", Integer(0)),
                                       Name("_CRS", windows), vmbus});
  const Bytes serial =
      Device("COM1", {Name("_HID", EisaId("PNP0501")), Name("_UID", Integer(0)),
                      Name("_CRS", ResourceTemplate({IoPort(machine::kSerialPort, 8),
                                                     LevelInterrupt(machine::kSerialGsi)}))});
  const Bytes clock = Device("RTC0", {Name("_HID", EisaId("PNP0B00")), Name("_UID", Integer(0)),
                                      Name("_CRS", ResourceTemplate({IoPort(0x70, 2)}))});
  // Everything else that answers on a port. An I/O port descriptor spans at most 255 ports, so the
  // doorbells take several.
  Bytes ports = Concat({IoPort(machine::kSleepControlPort, 4), IoPort(machine::kHypercallPort, 4)});
  constexpr uint8_t kStep = 128;
  for (uint16_t i = 0; i < machine::kDoorbellCount; i = static_cast<uint16_t>(i + kStep)) {
    ports = Concat({ports, IoPort(static_cast<uint16_t>(machine::kDoorbellBase + i), kStep)});
  }
  const Bytes board = Device("PORT", {Name("_HID", EisaId("PNP0C02")), Name("_UID", Integer(0)),
                                      Name("_CRS", ResourceTemplate({ports}))});
  const Bytes body = Concat(
      {Name("\\_S5", Package({Integer(machine::kSleepTypeS5), Integer(0), Integer(0), Integer(0)})),
       Scope("\\_SB", {module, serial, clock, board})});
  Bytes table = Table("DSDT", 2, kHeader);
  table.insert(table.end(), body.begin(), body.end());
  Finish(table);
  return table;
}

}  // namespace

absl::StatusOr<uint64_t> WriteAcpiTables(GuestMemory& memory, const AcpiOptions& options) {
  uint64_t next = machine::kAcpiStart;
  constexpr uint64_t kRsdpSize = 36;
  const uint64_t rsdp = next;
  next += 64;
  bool fits = true;
  auto place = [&](const Bytes& table) {
    const uint64_t at = next;
    next += (table.size() + 63) & ~uint64_t{63};
    fits = fits && next <= machine::kSmbios && memory.Write(at, std::as_bytes(std::span(table)));
    return at;
  };
  const uint64_t dsdt = place(BuildDsdt());
  const uint64_t fadt = place(BuildFadt(dsdt));
  const uint64_t madt = place(BuildMadt(options.vp_count));

  Bytes xsdt_table = Table("XSDT", 1, kHeader + 16);
  Put(xsdt_table, kHeader, fadt, 8);
  Put(xsdt_table, kHeader + 8, madt, 8);
  Finish(xsdt_table);
  const uint64_t xsdt = place(xsdt_table);

  Bytes root(kRsdpSize);
  PutText(root, 0, "RSD PTR ");
  PutText(root, 9, "PARTTA");
  root[15] = 2;
  Put(root, 20, kRsdpSize, 4);
  Put(root, 24, xsdt, 8);
  PutChecksum(root, 0, 20, 8);
  PutChecksum(root, 0, kRsdpSize, 32);
  fits = fits && memory.Write(rsdp, std::as_bytes(std::span(root)));
  // Linux resets a hardware-reduced machine through EFI and, without EFI, through the BIOS reset
  // vector in real mode: there it finds mov dx, kResetPort; mov al, kResetValue; out dx, al; hlt.
  constexpr uint8_t kResetCode[] = {0xBA,
                                    machine::kResetPort & 0xFF,
                                    machine::kResetPort >> 8,
                                    0xB0,
                                    machine::kResetValue,
                                    0xEE,
                                    0xF4,
                                    0xEB,
                                    0xFD};
  fits = fits && memory.Write(machine::kResetVector, std::as_bytes(std::span(kResetCode)));
  if (!fits) return Internal("ACPI tables do not fit their area");
  return rsdp;
}

}  // namespace partita
