// A guest's answers, as bytes: each input becomes packets in the ring of all services in turn.
// First byte of each packet: its length / 8; second: transaction id.
#include <cstring>
#include <memory>

#include "tests/fakes/hosted_partition.h"
#include "vsp/integration/file_services.h"
#include "vsp/integration/services.h"

namespace {

using namespace partita;               // NOLINT(google-build-using-namespace)
using namespace partita::integration;  // NOLINT(google-build-using-namespace)

class NoClock : public Clock {
 public:
  [[nodiscard]] uint64_t ReferenceTime() const override { return 0; }
};

struct Harness {
  NoClock clock;
  testing_support::HostedPartition partition;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  HeartbeatService heartbeat{partition.loop()};
  ShutdownService shutdown{partition.loop()};
  TimeSyncService time{partition.loop(), clock};
  KeyValueService key_values{partition.loop()};
  SnapshotService snapshot{partition.loop()};
  FileCopyService file_copy{partition.loop()};
  static constexpr size_t kPages = 8;
  std::byte* ring = partition.Allocate(kPages * 4096);
  std::byte* buffer = partition.Allocate(8192);
  std::byte** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));

  Harness() {
    partition.OnControl([&] {
      for (IntegrationService* service : std::initializer_list<IntegrationService*>{
               &heartbeat, &shutdown, &time, &key_values, &snapshot, &file_copy}) {
        if (partition.server().AddDevice(*service) == 0) abort();
      }
    });
    if (connection.Connect(vmbus::kVersion5_3, 0) != vmbus::client::Result::kOk ||
        connection.RequestOffers() != vmbus::client::Result::kOk) {
      abort();
    }
  }
  ~Harness() { partition.Shutdown(); }

  void Run(const vmbus::Guid& type, const uint8_t* data, size_t size) {
    vmbus::client::Channel channel;
    if (channel.Open(connection, transport, *connection.Find(type, 0), ring, kPages, list,
                     {buffer, 8192}, 0) != vmbus::client::Result::kOk) {
      abort();
    }
    while (size >= 2) {
      const size_t length = std::min<size_t>(size - 2, size_t{data[0]} * 8);
      const uint64_t transaction = data[1];
      if (channel.writer().Write(vmbus::kPacketInBand, 0, transaction, {},
                                 std::as_bytes(std::span(data + 2, length))) !=
          vmbus::RingStatus::kOk) {
        break;
      }
      data += 2 + length;
      size -= 2 + length;
    }
    channel.Commit();
    partition.OnControl([&] {
      key_values.List(2, [](const auto&) {});
      shutdown.Shutdown(ShutdownService::Kind::kReboot, true, [](const absl::Status&) {});
    });
    if (channel.Close(connection) != vmbus::client::Result::kOk) abort();
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Harness harness;
  for (const vmbus::Guid& type :
       {vmbus::kHeartbeatClass, vmbus::kShutdownClass, vmbus::kTimeSyncClass, vmbus::kKeyValueClass,
        vmbus::kSnapshotClass, vmbus::kFileCopyClass}) {
    harness.Run(type, data, size);
  }
  return 0;
}
