#include "vsc/guest/flood.h"

#include "vmbus/protocol/network_protocol.h"
#include "vmbus/protocol/storage_protocol.h"
#include "vsc/guest/runtime.h"
#include "vsc/network_vsc.h"
#include "vsc/storage_vsc.h"

namespace partita::guest {
namespace {

using vmbus::client::Channel;
using vmbus::client::Connection;
using vmbus::client::Result;

constexpr size_t kRingPages = 34;
constexpr uint32_t kRequests = 3000;
constexpr uint16_t kMostOpened = 24;  // of each device; more than any test offers

class Flood {
 public:
  void Run();

 private:
  void Open(Channel& channel, const vmbus::Offer& offer);
  void Ask(uint32_t requests);
  uint64_t OpenSubChannels(const vmbus::Guid& device);
  template <typename T>
  void Write(Channel& channel, const T& message);
  void TakeAnswers(Channel& channel);

  GuestTransport transport_{0};
  Connection connection_{transport_};
  Channel disk_, adapter_;
  uint16_t subchannels_ = 0;
  uint64_t asked_ = 0;
};

void Flood::Open(Channel& channel, const vmbus::Offer& offer) {
  auto** list = reinterpret_cast<std::byte**>(Allocate(kRingPages * sizeof(std::byte*)));
  if (channel.Open(connection_, transport_, offer, Allocate(kRingPages * 4096), kRingPages, list,
                   {Allocate(8192), 8192}, 0) != Result::kOk) {
    Fail("a channel does not open");
  }
}

void Flood::TakeAnswers(Channel& channel) {
  vmbus::Packet packet;
  while (channel.reader().Next(&packet) == vmbus::RingStatus::kOk) {
  }
  channel.Commit();
}

template <typename T>
void Flood::Write(Channel& channel, const T& message) {
  const auto bytes = std::as_bytes(std::span(&message, 1));
  ++asked_;
  while (channel.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested, asked_, {},
                                bytes) == vmbus::RingStatus::kFull) {
    TakeAnswers(channel);
    asm volatile("pause");
  }
  channel.Commit();
}

void Flood::Ask(uint32_t requests) {
  vmbus::storage::Packet disk{};
  disk.operation = vmbus::storage::kCreateSubChannels;
  disk.subchannel_count = subchannels_;
  vmbus::network::Nvsp more{.type = vmbus::network::kSubChannel, .body = {}};
  more.body[vmbus::network::kSubOperation] = vmbus::network::kSubChannelAllocate;
  more.body[vmbus::network::kSubCount] = 64;
  vmbus::network::Nvsp buffer{.type = vmbus::network::kSendReceiveBuffer, .body = {}};
  for (uint32_t i = 0; i < requests; ++i) {
    Write(disk_, disk);
    Write(adapter_, more);
    Write(adapter_, buffer);
    TakeAnswers(disk_);
    TakeAnswers(adapter_);
    std::byte message[vmbus::kMaxMessage];
    while (i % 16 == 0 && requests > kRequests && transport_.Receive(message)) {
    }
  }
}

uint64_t Flood::OpenSubChannels(const vmbus::Guid& device) {
  uint32_t handle = 0;
  const vmbus::Offer* primary = connection_.Find(device, 0);
  // Offers come before this answer.
  if (connection_.CreateGpadl(primary->relid, Allocate(4096), 1, &handle) != Result::kOk) {
    Fail("no GPADL");
  }
  uint64_t opened = 0;
  for (uint16_t i = 1; i <= kMostOpened; ++i) {
    const vmbus::Offer* offer = connection_.Find(device, i);
    if (offer == nullptr) continue;
    Open(*new (Allocate(sizeof(Channel))) Channel(), *offer);
    ++opened;
  }
  return opened;
}

void Flood::Run() {
  if (connection_.Connect(vmbus::kVersion5_3, 0) != Result::kOk) Fail("no VMBus connection");
  if (connection_.RequestOffers() != Result::kOk) Fail("no offers");
  const vmbus::Offer* controller = connection_.Find(vmbus::kScsiClass, 0);
  const vmbus::Offer* network = connection_.Find(vmbus::kNetworkClass, 0);
  if (controller == nullptr || network == nullptr) Fail("a device is missing");
  Open(disk_, *controller);
  Open(adapter_, *network);
  vsc::StorageVsc storage(transport_, disk_);
  if (storage.Initialize() != Result::kOk) Fail("the controller does not initialise");
  auto* driver =
      new (Allocate(sizeof(vsc::NetworkVsc))) vsc::NetworkVsc(connection_, transport_, adapter_);
  constexpr size_t kBuffer = 1 << 20;
  if (driver->Initialize({.receive = {Allocate(kBuffer), kBuffer},
                          .send = {Allocate(kBuffer), kBuffer},
                          .scratch = Allocate(4096)}) != Result::kOk) {
    Fail("the adapter does not initialise");
  }
  subchannels_ = storage.max_subchannels();
  Ask(kRequests);
  const uint64_t disks = OpenSubChannels(vmbus::kScsiClass);
  const uint64_t adapters = OpenSubChannels(vmbus::kNetworkClass);
  JsonLine("flooding")
      .Number("asked", asked_)
      .Number("offered", subchannels_)
      .Number("storage", disks)
      .Number("network", adapters);
  while (true) Ask(2 * kRequests);
}

}  // namespace

void RunFlood() { (new (Allocate(sizeof(Flood))) Flood())->Run(); }

}  // namespace partita::guest
