// Just enough of an AML encoder (ACPI specification 6.4, chapter 20) for our DSDT.
#ifndef PARTITA_PARTITION_BOOT_AML_H_
#define PARTITA_PARTITION_BOOT_AML_H_

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace partita::aml {

using Bytes = std::vector<uint8_t>;

Bytes Concat(std::initializer_list<Bytes> parts);
Bytes Integer(uint64_t value);
Bytes String(std::string_view text);
Bytes EisaId(std::string_view id);  // "PNP0501"
Bytes Name(std::string_view name, const Bytes& value);
Bytes Package(std::initializer_list<Bytes> elements);
Bytes Device(std::string_view name, std::initializer_list<Bytes> children);
Bytes Scope(std::string_view name, std::initializer_list<Bytes> children);
// A Buffer holding the descriptors and an end tag.
Bytes ResourceTemplate(std::initializer_list<Bytes> descriptors);
Bytes IoPort(uint16_t base, uint8_t length);
Bytes LevelInterrupt(uint32_t gsi);
// Address-space descriptor for a window of memory, both ends inclusive.
Bytes MemoryWindow(uint64_t first, uint64_t last);

}  // namespace partita::aml

#endif  // PARTITA_PARTITION_BOOT_AML_H_
