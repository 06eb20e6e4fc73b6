// A hostile peer of a ring: the input is the control page's indices and the data area.
#include <array>
#include <cstring>

#include "vmbus/ring/ring.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace partita::vmbus;
  alignas(4096) static std::byte control[kRingPage];
  alignas(4096) static std::byte area[2 * kRingPage];
  std::byte* pages[] = {area, area + kRingPage};
  std::memset(control, 0, sizeof(control));
  std::memset(area, 0, sizeof(area));
  if (size < 12) return 0;
  std::memcpy(control, data, 12);
  std::memcpy(control + 12, data, 4);
  std::memcpy(area, data + 12, size - 12 < sizeof(area) ? size - 12 : sizeof(area));
  RingMemory memory;
  memory.control = reinterpret_cast<RingControl*>(control);
  memory.pages = pages;
  memory.size = sizeof(area);
  std::array<std::byte, 1024> buffer{};
  RingReader reader(memory, buffer);
  Packet packet;
  uint32_t sum = 0;
  for (int i = 0; i < 2000 && reader.Next(&packet) == RingStatus::kOk; ++i) {
    for (const std::byte b : packet.headers) sum += static_cast<uint32_t>(b);
    for (const std::byte b : packet.payload) sum += static_cast<uint32_t>(b);
    static_cast<void>(reader.Commit());
  }
  RingWriter writer(memory);
  for (int i = 0; i < 600; ++i) {
    if (writer.Write(kPacketInBand, 0, sum, {}, std::span(buffer).first(size % 64)) !=
        RingStatus::kOk) {
      break;
    }
  }
  static_cast<void>(writer.Commit());
  static_cast<void>(writer.RequestRoom(64));
  return 0;
}
