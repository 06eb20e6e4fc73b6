#include "partition/boot/aml.h"

namespace partita::aml {
namespace {

void Append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

Bytes Little(uint64_t value, unsigned size) {
  Bytes out;
  for (unsigned i = 0; i < size; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
  return out;
}

// PkgLength counts itself.
Bytes WithLength(const Bytes& body) {
  Bytes out;
  const size_t n = body.size();
  if (n + 1 <= 0x3F) {
    out.push_back(static_cast<uint8_t>(n + 1));
  } else if (n + 2 <= 0xFFF) {
    out.push_back(static_cast<uint8_t>(0x40 | ((n + 2) & 0xF)));
    out.push_back(static_cast<uint8_t>((n + 2) >> 4));
  } else {
    out.push_back(static_cast<uint8_t>(0x80 | ((n + 3) & 0xF)));
    out.push_back(static_cast<uint8_t>((n + 3) >> 4));
    out.push_back(static_cast<uint8_t>((n + 3) >> 12));
  }
  Append(out, body);
  return out;
}

// A NameString: an optional root, then one segment of four characters.
Bytes NameString(std::string_view name) {
  Bytes out;
  if (name.starts_with('\\')) {
    out.push_back('\\');
    name.remove_prefix(1);
  }
  for (size_t i = 0; i < 4; ++i) {
    out.push_back(static_cast<uint8_t>(i < name.size() ? name[i] : '_'));
  }
  return out;
}

Bytes Block(Bytes opcode, std::string_view name, std::initializer_list<Bytes> children) {
  Bytes body = NameString(name);
  for (const Bytes& child : children) Append(body, child);
  Append(opcode, WithLength(body));
  return opcode;
}

}  // namespace

Bytes Concat(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) Append(out, part);
  return out;
}

Bytes Integer(uint64_t value) {
  if (value <= 1) return {static_cast<uint8_t>(value)};
  const unsigned size = value <= 0xFF ? 1 : value <= 0xFFFF ? 2 : value <= 0xFFFFFFFF ? 4 : 8;
  const uint8_t prefix = size == 1 ? 0x0A : size == 2 ? 0x0B : size == 4 ? 0x0C : 0x0E;
  return Concat({{prefix}, Little(value, size)});
}

Bytes String(std::string_view text) {
  Bytes out = {0x0D};
  out.insert(out.end(), text.begin(), text.end());
  out.push_back(0);
  return out;
}

Bytes EisaId(std::string_view id) {
  auto hex = [](char c) { return static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10); };
  auto letter = [](char c) { return static_cast<uint32_t>(c - '@'); };
  const uint32_t vendor = (letter(id[0]) << 10) | (letter(id[1]) << 5) | letter(id[2]);
  const uint32_t product = (hex(id[3]) << 12) | (hex(id[4]) << 8) | (hex(id[5]) << 4) | hex(id[6]);
  // Stored big-endian inside a little-endian DWord.
  return Concat({{0x0C},
                 {static_cast<uint8_t>(vendor >> 8), static_cast<uint8_t>(vendor),
                  static_cast<uint8_t>(product >> 8), static_cast<uint8_t>(product)}});
}

Bytes Name(std::string_view name, const Bytes& value) {
  return Concat({{0x08}, NameString(name), value});
}

Bytes Package(std::initializer_list<Bytes> elements) {
  Bytes body = {static_cast<uint8_t>(elements.size())};
  for (const Bytes& element : elements) Append(body, element);
  return Concat({{0x12}, WithLength(body)});
}

Bytes Device(std::string_view name, std::initializer_list<Bytes> children) {
  return Block({0x5B, 0x82}, name, children);
}
Bytes Scope(std::string_view name, std::initializer_list<Bytes> children) {
  return Block({0x10}, name, children);
}

Bytes ResourceTemplate(std::initializer_list<Bytes> descriptors) {
  Bytes content;
  for (const Bytes& descriptor : descriptors) Append(content, descriptor);
  content.push_back(0x79);  // end tag, checksum 0 = not checked
  content.push_back(0);
  return Concat({{0x11}, WithLength(Concat({Integer(content.size()), content}))});
}

Bytes IoPort(uint16_t base, uint8_t length) {
  return Concat({{0x47, 0x01}, Little(base, 2), Little(base, 2), {0x01, length}});
}

Bytes LevelInterrupt(uint32_t gsi) {
  // Extended interrupt: consumer, level, active high, exclusive.
  return Concat({{0x89, 0x06, 0x00, 0x01, 0x01}, Little(gsi, 4)});
}

Bytes MemoryWindow(uint64_t first, uint64_t last) {
  constexpr uint8_t kMemory = 0, kFixedBothEnds = 0x0C, kCacheableReadWrite = 0x03;
  return Concat({{0x8A, 0x2B, 0x00, kMemory, kFixedBothEnds, kCacheableReadWrite},
                 Little(0, 8),
                 Little(first, 8),
                 Little(last, 8),
                 Little(0, 8),
                 Little(last - first + 1, 8)});
}

}  // namespace partita::aml
