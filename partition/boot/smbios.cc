#include "partition/boot/smbios.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "partition/machine.h"

namespace partita {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr std::string_view kManufacturer = "Microsoft Corporation";
constexpr std::string_view kProduct = "Virtual Machine";
constexpr std::string_view kVersion = "Partita 1";

enum Type : uint8_t {
  kFirmware = 0,
  kSystem = 1,
  kBaseBoard = 2,
  kChassis = 3,
  kBootInformation = 32,
  kEnd = 127
};

// One structure: a formatted part whose length is its second byte, then the texts it numbers
// from 1.
class Structure {
 public:
  Structure(Type type, size_t length) : bytes_(length) {
    bytes_[0] = type;
    bytes_[1] = static_cast<uint8_t>(length);
    SetWord(2, type);  // handle: there is one structure of each type
  }
  void SetByte(size_t at, uint8_t value) { bytes_[at] = value; }
  void SetWord(size_t at, uint16_t value) {
    bytes_[at] = static_cast<uint8_t>(value);
    bytes_[at + 1] = static_cast<uint8_t>(value >> 8);
  }
  void SetUuid(size_t at, const std::array<uint8_t, 16>& uuid) {
    std::copy(uuid.begin(), uuid.end(), bytes_.begin() + static_cast<ptrdiff_t>(at));
  }
  // An empty text is not written: its number is 0, "not specified".
  void SetText(size_t at, std::string_view text) {
    if (text.empty()) return;
    bytes_[at] = ++texts_;
    text_bytes_.insert(text_bytes_.end(), text.begin(), text.end());
    text_bytes_.push_back(0);
  }
  void AppendTo(Bytes& table) const {
    table.insert(table.end(), bytes_.begin(), bytes_.end());
    table.insert(table.end(), text_bytes_.begin(), text_bytes_.end());
    if (texts_ == 0) table.push_back(0);
    table.push_back(0);
  }

 private:
  Bytes bytes_, text_bytes_;
  uint8_t texts_ = 0;
};

// In the form of Hyper-V's: groups of four digits. From the UUID, so that it stays the same.
std::string SerialNumber(const std::array<uint8_t, 16>& uuid) {
  std::string text;
  for (size_t i = 0; i < 13; ++i) {
    if (i != 0 && i % 2 == 0) text += '-';
    text += static_cast<char>('0' + uuid[i] / 10 % 10);
    text += static_cast<char>('0' + uuid[i] % 10);
  }
  return text;
}

Structure Firmware() {
  Structure s(kFirmware, 0x1A);
  s.SetText(0x04, kManufacturer);
  s.SetText(0x05, kVersion);
  s.SetText(0x08, "01/01/2026");
  s.SetByte(0x0A, 1 << 3);  // the characteristics are not supported
  s.SetByte(0x13, 1 << 4);  // this is a virtual machine
  s.SetByte(0x14, 1);       // release 1.0
  s.SetByte(0x16, 0xFF);    // no embedded controller
  s.SetByte(0x17, 0xFF);
  return s;
}

Structure System(const SmbiosOptions& options, const std::string& serial) {
  constexpr uint8_t kPowerSwitch = 6;
  Structure s(kSystem, 0x1B);
  s.SetText(0x04, kManufacturer);
  s.SetText(0x05, kProduct);
  s.SetText(0x06, kVersion);
  s.SetText(0x07, serial);
  s.SetUuid(0x08, options.uuid);
  s.SetByte(0x18, kPowerSwitch);
  s.SetText(0x19, "None");
  s.SetText(0x1A, kProduct);
  return s;
}

Structure BaseBoard(const std::string& serial) {
  constexpr uint8_t kHostingBoard = 1, kMotherboard = 0x0A;
  Structure s(kBaseBoard, 0x0F);
  s.SetText(0x04, kManufacturer);
  s.SetText(0x05, kProduct);
  s.SetText(0x06, kVersion);
  s.SetText(0x07, serial);
  s.SetByte(0x09, kHostingBoard);
  s.SetWord(0x0B, kChassis);  // its handle
  s.SetByte(0x0D, kMotherboard);
  return s;
}

Structure Chassis(const SmbiosOptions& options, const std::string& serial) {
  constexpr uint8_t kDesktop = 3, kSafe = 3, kNoSecurity = 3;
  Structure s(kChassis, 0x16);
  s.SetText(0x04, kManufacturer);
  s.SetByte(0x05, kDesktop);
  s.SetText(0x06, kVersion);
  s.SetText(0x07, serial);
  s.SetText(0x08, options.asset_tag);
  s.SetByte(0x09, kSafe);  // state at boot,
  s.SetByte(0x0A, kSafe);  // of the power supply
  s.SetByte(0x0B, kSafe);  // and thermal
  s.SetByte(0x0C, kNoSecurity);
  return s;
}

Bytes EntryPoint(size_t table_size, uint64_t table) {
  constexpr std::string_view kAnchor = "_SM3_";
  Bytes entry(0x18);
  std::copy(kAnchor.begin(), kAnchor.end(), entry.begin());
  entry[0x06] = static_cast<uint8_t>(entry.size());
  entry[0x07] = 3;  // version 3.2
  entry[0x08] = 2;
  entry[0x0A] = 1;  // revision of the entry point
  for (size_t i = 0; i < 4; ++i) entry[0x0C + i] = static_cast<uint8_t>(table_size >> (8 * i));
  for (size_t i = 0; i < 8; ++i) entry[0x10 + i] = static_cast<uint8_t>(table >> (8 * i));
  entry[0x05] = static_cast<uint8_t>(-std::accumulate(entry.begin(), entry.end(), 0));
  return entry;
}

}  // namespace

absl::Status WriteSmbiosTables(GuestMemory& memory, const SmbiosOptions& options) {
  if (options.asset_tag.size() > kMaxAssetTag ||
      !std::all_of(options.asset_tag.begin(), options.asset_tag.end(),
                   [](char c) { return c >= 0x20 && c < 0x7F; })) {
    return InvalidArgument("an asset tag has at most 64 printable ASCII characters");
  }
  const std::string serial = SerialNumber(options.uuid);
  Bytes table;
  for (const Structure& structure :
       {Firmware(), System(options, serial), BaseBoard(serial), Chassis(options, serial),
        Structure(kBootInformation, 0x0B), Structure(kEnd, 0x04)}) {
    structure.AppendTo(table);
  }
  constexpr uint64_t kTable = machine::kSmbios + 0x20;
  const Bytes entry = EntryPoint(table.size(), kTable);
  if (kTable + table.size() > machine::kResetVector ||
      !memory.Write(kTable, std::as_bytes(std::span(table))) ||
      !memory.Write(machine::kSmbios, std::as_bytes(std::span(entry)))) {
    return Internal("no room for the SMBIOS tables");
  }
  return absl::OkStatus();
}

}  // namespace partita
