// RNDIS control messages, frame headers and offload requests of a hostile guest.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "vsp/network/offload.h"
#include "vsp/network/rndis.h"

namespace {

using namespace partita::network;  // NOLINT(google-build-using-namespace)

void Control(std::span<const std::byte> input) {
  static RndisCounters counters;
  RndisControl control({.mac = {0, 1, 2, 3, 4, 5},
                        .queues = 2,
                        .checksum = true,
                        .large_send = true,
                        .coalesced = true},
                       counters);
  while (input.size() >= 2) {
    const size_t length = std::min<size_t>(std::to_integer<size_t>(input[0]) * 4, input.size() - 1);
    const auto answer = control.Handle(input.subspan(1, length), {});
    if (answer.size() > 1024) abort();
    input = input.subspan(1 + length);
  }
}

void Frame(std::span<const std::byte> input) {
  partita::vmbus::network::RndisFrame header{};
  if (input.size() < sizeof(header)) return;
  std::memcpy(&header, input.data(), sizeof(header));
  const auto layout = ParseFrameHeader(header, input.size());
  if (!layout) return;
  const uint64_t total = input.size();
  if (layout->data_offset > total || layout->data_length > total - layout->data_offset ||
      layout->info_offset > total || layout->info_length > total - layout->info_offset) {
    abort();
  }
  const auto requests = ParsePacketInfo(input.subspan(layout->info_offset, layout->info_length));
  if (!requests) return;
  std::vector<std::byte> data(input.begin() + layout->data_offset,
                              input.begin() + layout->data_offset + layout->data_length);
  VnetHeader vnet{};
  const size_t head = std::min<size_t>(data.size(), kMaxFrameHeader);
  if (!PrepareTransmit(*requests, layout->data_length, std::span(data).first(head), &vnet)) return;
  if (vnet.gso_type != 0 && (vnet.gso_size == 0 || vnet.header_length >= data.size())) abort();
  const iovec all{data.data(), data.size()};
  CompleteChecksum(std::span(&all, 1), static_cast<uint32_t>(data.size()), vnet.checksum_start,
                   vnet.checksum_offset);
  bool finish = false;
  static_cast<void>(ReceiveChecksumInfo(vnet, data, &finish));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto input = std::as_bytes(std::span(data, size)).subspan(1);
  if ((data[0] & 1) == 0) {
    Control(input);
  } else {
    Frame(input);
  }
  return 0;
}
