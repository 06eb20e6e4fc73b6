// Packets of a hostile guest on an open channel: the SCSI controller and the network adapter with
// their loops, a memory file and a loopback behind them. The rings are sound; what is in them is
// not.
//
// Input: a byte (bit 0: network, bit 1: after a proper start), then packets: type, flags, length of
// the headers / 8, length of the payload / 4, and their bytes. A fourth type puts the bytes where
// packets may point: into page 416 and the first section of the send buffer.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsc/network_vsc.h"
#include "vsc/storage_vsc.h"
#include "vsp/network/network_vsp.h"
#include "vsp/storage/raw_file.h"
#include "vsp/storage/storage_vsp.h"

namespace {

using namespace partita;  // NOLINT(google-build-using-namespace)
using vmbus::client::Result;

constexpr size_t kRingPages = 32;
constexpr size_t kBufferBytes = 256 << 10;
constexpr uint64_t kScratchPage = 416;  // seeds point at it

void Require(bool condition, int line = __builtin_LINE()) {
  if (condition) return;
  fprintf(stderr, "packet_fuzz.cc:%d does not hold\n", line);
  abort();
}

// A partition with both devices; the same one serves every input.
class World {
 public:
  World() {
    UniqueFd file(memfd_create("disk", MFD_CLOEXEC));
    Require(ftruncate(file.get(), 4 << 20) == 0);
    storage_.AddDisk(std::make_unique<storage::ScsiDisk>(
        *storage::RawFile::Create(std::move(file), {}), storage::ScsiDisk::Identity{}));
    storage_.Connect(partition_.server());
    adapter_.Connect(partition_.server());
    partition_.OnControl([&] {
      Require(partition_.server().AddDevice(storage_) != 0);
      Require(partition_.server().AddDevice(adapter_) != 0);
    });
    rings_ = partition_.Allocate(kRingPages * 4096);
    buffers_ = {.receive = {partition_.Allocate(kBufferBytes), kBufferBytes},
                .send = {partition_.Allocate(kBufferBytes), kBufferBytes},
                .scratch = partition_.Allocate(4096)};
    Require(partition_.Pfn(buffers_.scratch) == kScratchPage);
  }

  void Play(std::span<const uint8_t> input) {
    const bool network = (input[0] & 1) != 0, started = (input[0] & 2) != 0;
    vmbus::client::Connection connection(transport_);
    Require(connection.Connect(vmbus::kVersion5_3, 0) == Result::kOk);
    Require(connection.RequestOffers() == Result::kOk);
    vmbus::client::Channel channel;
    const vmbus::Offer* offer =
        connection.Find(network ? vmbus::kNetworkClass : vmbus::kScsiClass, 0);
    std::memset(rings_, 0, kRingPages * 4096);
    Require(channel.Open(connection, transport_, *offer, rings_, kRingPages, page_list_.data(),
                         packet_, 0) == Result::kOk);
    if (started && network) {
      vsc::NetworkVsc driver(connection, transport_, channel);
      Require(driver.Initialize(buffers_) == Result::kOk);
    } else if (started) {
      vsc::StorageVsc driver(transport_, channel);
      Require(driver.Initialize() == Result::kOk);
    }
    input = input.subspan(1);
    while (input.size() >= 4) {
      constexpr vmbus::PacketType kTypes[] = {vmbus::kPacketInBand, vmbus::kPacketGpaDirect,
                                              vmbus::kPacketCompletion};
      const size_t kind = input[0] % (std::size(kTypes) + 1);
      const uint16_t flags = input[1] & 1;
      const size_t headers = std::min<size_t>(size_t{input[2]} * 8, (input.size() - 4) & ~7ull);
      const size_t payload = std::min<size_t>(size_t{input[3]} * 4, input.size() - 4 - headers);
      const auto bytes = std::as_bytes(input.subspan(4, headers + payload));
      input = input.subspan(4 + headers + payload);
      if (kind == std::size(kTypes)) {
        std::memcpy(buffers_.scratch, bytes.data(), bytes.size());
        std::memcpy(buffers_.send.data(), bytes.data(), bytes.size());
        continue;
      }
      const vmbus::PacketType type = kTypes[kind];
      if (!HitsRings(bytes.first(headers))) {
        Write(channel, type, flags, bytes.first(type == vmbus::kPacketGpaDirect ? headers : 0),
              bytes.subspan(headers));
      }
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!AllTaken()) {
      Drain(channel);
      Require(std::chrono::steady_clock::now() < deadline);
    }
    Require(channel.Close(connection) == Result::kOk);
    Require(connection.Unload() == Result::kOk);  // with all GPADLs and sub-channels
  }

 private:
  // Whether a page of a transfer is one of the rings': the test itself could not go on.
  bool HitsRings(std::span<const std::byte> headers) {
    const uint64_t first = partition_.Pfn(rings_);
    for (size_t at = 0; at + 8 <= headers.size(); at += 8) {
      uint64_t pfn = 0;
      std::memcpy(&pfn, headers.data() + at, sizeof(pfn));
      if (pfn >= first && pfn < first + kRingPages) return true;
    }
    return false;
  }
  void Write(vmbus::client::Channel& channel, vmbus::PacketType type, uint16_t flags,
             std::span<const std::byte> headers, std::span<const std::byte> payload) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (channel.writer().Write(type, flags, ++transaction_ % 8, headers, payload) ==
           vmbus::RingStatus::kFull) {
      Drain(channel);
      Require(std::chrono::steady_clock::now() < deadline);
    }
    channel.Commit();
    Drain(channel);
  }
  static void Drain(vmbus::client::Channel& channel) {
    vmbus::Packet packet;
    while (true) {
      const auto status = channel.reader().Next(&packet);
      if (status == vmbus::RingStatus::kEmpty) break;
      Require(status == vmbus::RingStatus::kOk);
    }
    channel.Commit();
  }
  // The parent has read everything: its read index is the write index.
  [[nodiscard]] bool AllTaken() const {
    auto* indices = reinterpret_cast<uint32_t*>(rings_);
    return std::atomic_ref(indices[0]).load() == std::atomic_ref(indices[1]).load();
  }

  testing_support::HostedPartition partition_;
  storage::StorageVsp storage_{{.instance = {{1}}, .subchannels = 1},
                               {.space = [](bool) {}, .poisoned = [](uint32_t) {}}};
  network::NetworkVsp adapter_{
      {.instance = {{2}}, .mac = {0, 0x15, 0x5D, 1, 2, 3}, .queues = 2, .name = "fuzz"},
      network::MakeLoopbackBackend(2)};
  testing_support::HostedPartition::GuestTransport transport_{partition_};
  std::byte* rings_ = nullptr;
  std::vector<std::byte*> page_list_ = std::vector<std::byte*>(kRingPages);
  std::vector<std::byte> packet_ = std::vector<std::byte>(16 << 10);
  vsc::NetworkVsc::Buffers buffers_;
  uint64_t transaction_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World& world = *new World;  // its threads run until the process ends
  if (size > 0) world.Play({data, size});
  return 0;
}
