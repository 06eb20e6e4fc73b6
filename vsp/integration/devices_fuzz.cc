// Messages of a hostile guest to dynamic memory and the keyboard, and the data packets of host
// sockets.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "vsp/integration/dynamic_memory.h"
#include "vsp/integration/keyboard.h"
#include "vsp/socket/socket_hub.h"

namespace {

using namespace partita;               // NOLINT(google-build-using-namespace)
using namespace partita::integration;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kPages = 4096;

template <typename Device>
class Open : public Device {
 public:
  using Device::Device;
  using Device::OnPacket;
};

DynamicMemory::Host FakeHost() {
  DynamicMemory::Host host;
  host.start_pages = kPages;
  host.max_pages = 2 * kPages;
  host.find_usable = [](const auto& found) {
    found([](uint64_t pfn) { return pfn < kPages && pfn % 17 != 0; });
  };
  host.discard = [](uint64_t pfn, uint64_t count) {
    if (pfn >= kPages || count > kPages - pfn) abort();
    return true;
  };
  host.add = [](uint64_t, uint64_t) { return absl::OkStatus(); };
  return host;
}

}  // namespace

// Each packet: length / 4, then its bytes. A length of 255 sets a target instead.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto loop = *EventLoop::Create();
  Open<DynamicMemory> memory(*loop, FakeHost());
  Open<Keyboard> keyboard(*loop);
  while (size >= 2) {
    if (data[0] == 255) {
      memory.SetTarget(uint64_t{data[1]} << 20, [](const auto&) {});
      data += 2, size -= 2;
      continue;
    }
    const size_t length = std::min<size_t>(size - 1, size_t{data[0]} * 4);
    vmbus::Packet packet{};
    packet.descriptor.type = vmbus::kPacketInBand;
    packet.payload = std::as_bytes(std::span(data + 1, length));
    memory.OnPacket(packet);
    keyboard.OnPacket(packet);
    const auto bytes = socket::SocketData(packet.payload);
    if (bytes && bytes->size() + 8 > length) abort();
    if (memory.assigned_bytes() > 2 * kPages << 12) abort();
    data += 1 + length, size -= 1 + length;
  }
  return 0;
}
