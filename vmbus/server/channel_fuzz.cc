// Control messages of a hostile guest. Input: a sequence of {length byte, message}; the devices
// answer at once. The machine must stay within its caps and answer a fresh contact afterwards.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "vmbus/server/channel_state_machine.h"

namespace {

using namespace partita::vmbus;  // NOLINT(google-build-using-namespace)

class Answers : public ChannelActions {
 public:
  void Send(uint32_t, std::span<const std::byte> message) override {
    Header header;
    std::memcpy(&header, message.data(), sizeof(header));
    last = header.type;
  }
  void Open(const OpenRequest& request) override {
    if (request.downstream_page_offset < 2 ||
        request.downstream_page_offset + 2 > request.ring->pfns.size()) {
      abort();
    }
    opened.push_back(request.relid);
  }
  void Close(uint32_t relid) override { closed.push_back(relid); }
  void Retarget(uint32_t, uint32_t) override {}
  void Removed(uint32_t) override {}
  void DropMessages() override {}
  std::vector<uint32_t> opened, closed;
  uint32_t last = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Answers answers;
  ChannelStateMachine::Limits limits;
  limits.gpadls = {.gpadls = 64, .pages = 4096};
  ChannelStateMachine machine(limits, answers);
  const uint32_t relid = machine.AddChannel({.type = kScsiClass});
  auto settle = [&] {
    while (!answers.opened.empty() || !answers.closed.empty()) {
      for (const uint32_t id : std::exchange(answers.opened, {})) machine.OnOpened(id, true);
      for (const uint32_t id : std::exchange(answers.closed, {})) machine.OnClosed(id);
    }
  };
  while (size > 1) {
    const size_t length = data[0] < size ? data[0] : size - 1;
    machine.OnMessage(std::as_bytes(std::span(data + 1, length)));
    if (data[0] % 3 != 0) settle();
    if (data[0] == 77) machine.AddSubChannels(relid, 3);
    if (data[0] == 78) machine.RemoveChannel(relid);
    data += 1 + length;
    size -= 1 + length;
    if (machine.gpadl_pages() > 4096) abort();
  }
  settle();
  InitiateContact contact{};
  contact.header.type = kInitiateContact;
  contact.version = kVersion5_3;
  machine.OnMessage(std::as_bytes(std::span(&contact, 1)));
  settle();
  if (answers.last != kVersionResponse || !machine.connected()) abort();
  return 0;
}
