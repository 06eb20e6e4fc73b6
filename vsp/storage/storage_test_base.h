// A SCSI controller with real files behind it, and a guest's driver in front: the whole storage
// path without a hypervisor.
#ifndef PARTITA_VSP_STORAGE_STORAGE_TEST_BASE_H_
#define PARTITA_VSP_STORAGE_STORAGE_TEST_BASE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsc/storage_vsc.h"
#include "vsp/storage/fault_backend.h"
#include "vsp/storage/raw_file.h"
#include "vsp/storage/storage_vsp.h"

namespace partita::storage {

using vmbus::RingStatus;
using vmbus::client::Result;
using vsc::Completion;

inline constexpr size_t kRingPages = 66;
inline constexpr uint64_t kDiskSize = 16 << 20;

class StorageTest : public testing::Test {
 protected:
  void SetUp() override { Build(1); }
  void Build(uint32_t disks, uint32_t subchannels = 2) {
    storage = std::make_unique<StorageVsp>(
        StorageVsp::Options{.instance = {{9}}, .subchannels = subchannels},
        StorageVsp::Events{.space = [this](bool full) { (full ? full_events : room_events)++; },
                           .poisoned = [this](uint32_t) { ++poisoned_events; }});
    for (uint32_t i = 0; i < disks; ++i) {
      std::unique_ptr<BlockBackend> backend = MakeBackend();
      ASSERT_NE(backend, nullptr);
      storage->AddDisk(std::make_unique<ScsiDisk>(
          std::make_unique<FaultBackend>(std::move(backend),
                                         i == 0 ? plan : std::make_shared<FaultPlan>()),
          ScsiDisk::Identity{.serial = "1"}));
    }
    storage->Connect(partition.server());
    partition.OnControl([&] { ASSERT_NE(partition.server().AddDevice(*storage), 0u); });
    ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(connection.RequestOffers(), Result::kOk);
    OpenChannel(primary, 0);
    driver = std::make_unique<vsc::StorageVsc>(transport, primary);
  }
  virtual std::unique_ptr<BlockBackend> MakeBackend() {
    UniqueFd fd(memfd_create("disk", MFD_CLOEXEC));
    if (ftruncate(fd.get(), kDiskSize) != 0) return nullptr;
    files.emplace_back(dup(fd.get()));
    auto raw = RawFile::Create(std::move(fd), {});
    EXPECT_TRUE(raw.ok()) << raw.status();
    return raw.ok() ? *std::move(raw) : nullptr;
  }
  void TearDown() override {
    if (storage == nullptr) return;  // skipped
    partition.Shutdown();
    storage.reset();
  }
  void OpenChannel(vmbus::client::Channel& channel, uint16_t index) {
    const vmbus::Offer* offer = connection.Await(vmbus::kScsiClass, index);
    ASSERT_NE(offer, nullptr);
    std::byte* ring = partition.Allocate(kRingPages * 4096);
    if (index == 0) primary_ring = ring;
    auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
    ASSERT_EQ(channel.Open(connection, transport, *offer, ring, kRingPages, list,
                           {partition.Allocate(4096), 4096}, 0),
              Result::kOk);
  }
  // Polls until `count` completions came; fails the test on a time-out.
  std::vector<Completion> Collect(vmbus::client::Channel& channel, size_t count) {
    std::vector<Completion> all;
    while (all.size() < count) {
      Completion completion;
      const RingStatus status = driver->Poll(channel, &completion);
      if (status == RingStatus::kOk) {
        all.push_back(completion);
        channel.Commit();
      } else if (status != RingStatus::kEmpty || !transport.Wait()) {
        ADD_FAILURE() << "only " << all.size() << " of " << count << " completions";
        break;
      }
    }
    return all;
  }
  Completion Command(std::initializer_list<int> cdb, std::byte* data = nullptr, uint32_t length = 0,
                     bool in = true) {
    std::array<uint8_t, 16> bytes{};
    size_t at = 0;
    for (const int b : cdb) bytes[at++] = static_cast<uint8_t>(b);
    Completion completion;
    EXPECT_EQ(driver->Execute(0, bytes, {data, length}, in, &completion), Result::kOk);
    return completion;
  }
  std::map<std::string, uint64_t> Stats() {
    StatSink sink;
    storage->DescribeTo(sink);
    auto all = sink.values();
    for (const auto& [name, value] : partition.Stats()) all[name] = value;
    return all;
  }

  std::shared_ptr<FaultPlan> plan = std::make_shared<FaultPlan>();
  testing_support::HostedPartition partition;
  std::atomic<int> full_events = 0, room_events = 0, poisoned_events = 0;
  std::vector<UniqueFd> files;
  std::unique_ptr<StorageVsp> storage;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  vmbus::client::Channel primary;
  std::byte* primary_ring = nullptr;
  std::unique_ptr<vsc::StorageVsc> driver;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_STORAGE_TEST_BASE_H_
