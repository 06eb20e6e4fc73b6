// Every integration service against a guest that answers properly and one that does not.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsp/integration/file_services.h"
#include "vsp/integration/services.h"

namespace partita::integration {
namespace {

namespace proto = vmbus::integration;
using vmbus::client::Result;

constexpr size_t kRingPages = 8;
constexpr uint32_t kSampleMs = 2;

class FixedClock : public Clock {
 public:
  [[nodiscard]] uint64_t ReferenceTime() const override { return 4242; }
};

class IntegrationTest : public testing::Test {
 protected:
  void SetUp() override {
    partition.OnControl([&] {
      heartbeat = std::make_unique<HeartbeatService>(partition.loop());
      shutdown = std::make_unique<ShutdownService>(partition.loop());
      time = std::make_unique<TimeSyncService>(partition.loop(), clock, sample_ms);
      key_values = std::make_unique<KeyValueService>(partition.loop());
      snapshot = std::make_unique<SnapshotService>(partition.loop());
      file_copy = std::make_unique<FileCopyService>(partition.loop());
      for (IntegrationService* service : std::initializer_list<IntegrationService*>{
               heartbeat.get(), shutdown.get(), time.get(), key_values.get(), snapshot.get(),
               file_copy.get()}) {
        ASSERT_NE(partition.server().AddDevice(*service), 0u);
      }
    });
    ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(connection.RequestOffers(), Result::kOk);
  }
  void TearDown() override { partition.Shutdown(); }

  // The guest's end of one service.
  struct Guest {
    vmbus::client::Channel channel;
    proto::Frame frame{};
    std::vector<std::byte> body;
    uint64_t transaction = 0;
  };
  void Open(Guest& guest, const vmbus::Guid& type) {
    const vmbus::Offer* offer = connection.Find(type, 0);
    ASSERT_NE(offer, nullptr);
    auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
    ASSERT_EQ(
        guest.channel.Open(connection, transport, *offer, partition.Allocate(kRingPages * 4096),
                           kRingPages, list, {partition.Allocate(8192), 8192}, 0),
        Result::kOk);
  }
  // The next packet of the host.
  void Receive(Guest& guest) {
    vmbus::Packet packet;
    while (guest.channel.reader().Next(&packet) == vmbus::RingStatus::kEmpty) {
      guest.channel.Commit();
      if (guest.channel.reader().UnmaskAndCheck()) continue;
      ASSERT_TRUE(transport.Wait());
    }
    ASSERT_EQ(packet.descriptor.type, vmbus::kPacketInBand);
    ASSERT_GE(packet.payload.size(), sizeof(guest.frame));
    std::memcpy(&guest.frame, packet.payload.data(), sizeof(guest.frame));
    guest.transaction = packet.descriptor.transaction_id;
    ASSERT_EQ(guest.frame.pipe_type, proto::kPipeData);
    ASSERT_EQ(guest.frame.pipe_size, sizeof(guest.frame) - 8 + guest.frame.body_size);
    const auto body = packet.payload.subspan(sizeof(guest.frame), guest.frame.body_size);
    guest.body.assign(body.begin(), body.end());
    guest.channel.Commit();
  }
  // Sends what the guest holds back as its answer.
  void Answer(Guest& guest) {
    guest.frame.flags = proto::kTransaction | proto::kResponse;
    SendRaw(guest);
  }
  void SendRaw(Guest& guest) {
    std::vector<std::byte> bytes(sizeof(guest.frame));
    std::memcpy(bytes.data(), &guest.frame, sizeof(guest.frame));
    bytes.insert(bytes.end(), guest.body.begin(), guest.body.end());
    ASSERT_EQ(guest.channel.writer().Write(vmbus::kPacketInBand, 0, guest.transaction, {}, bytes),
              vmbus::RingStatus::kOk);
    guest.channel.Commit();
  }
  // Takes the negotiation and chooses a version, as stock hv_utils does.
  void Negotiate(Guest& guest, Version version) {
    Receive(guest);
    ASSERT_EQ(guest.frame.type, proto::kNegotiate);
    ASSERT_EQ(guest.frame.flags, proto::kTransaction | proto::kRequest);
    proto::Negotiation counts{};
    std::memcpy(&counts, guest.body.data(), sizeof(counts));
    ASSERT_EQ(guest.body.size(),
              sizeof(counts) + size_t{4} * (counts.frameworks + counts.messages));
    counts.frameworks = counts.messages = 1;
    const Version framework = {3, 0};
    std::memcpy(guest.body.data(), &counts, sizeof(counts));
    std::memcpy(guest.body.data() + 8, &framework, sizeof(framework));
    std::memcpy(guest.body.data() + 12, &version, sizeof(version));
    guest.frame.body_size = 16;
    Answer(guest);
  }
  template <typename T>
  T BodyAs(const Guest& guest) {
    T value{};
    EXPECT_GE(guest.body.size(), sizeof(value));
    std::memcpy(&value, guest.body.data(), std::min(guest.body.size(), sizeof(value)));
    return value;
  }
  template <typename T>
  void SetBody(Guest& guest, const T& value) {
    guest.body.resize(sizeof(value));
    std::memcpy(guest.body.data(), &value, sizeof(value));
    guest.frame.body_size = sizeof(value);
  }
  void AwaitReady(IntegrationService& service) {
    bool ready = false;
    for (int i = 0; i < 2000 && !ready; ++i) {
      partition.OnControl([&] { ready = service.ready(); });
      if (!ready) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_TRUE(ready);
  }
  uint64_t Stat(IntegrationService& service, const std::string& name) {
    StatSink sink;
    partition.OnControl([&] { service.DescribeTo(sink); });
    const auto values = sink.values();
    return values.at(std::string("integration.") + service.name() + "." + name);
  }
  // Waits until a counter of the service reaches `value`.
  void AwaitStat(IntegrationService& service, const std::string& name, uint64_t value) {
    for (int i = 0; i < 2000 && Stat(service, name) < value; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(Stat(service, name), value) << name;
  }

  uint32_t sample_ms = 5000;
  FixedClock clock;
  testing_support::HostedPartition partition;
  std::unique_ptr<HeartbeatService> heartbeat;
  std::unique_ptr<ShutdownService> shutdown;
  std::unique_ptr<TimeSyncService> time;
  std::unique_ptr<KeyValueService> key_values;
  std::unique_ptr<SnapshotService> snapshot;
  std::unique_ptr<FileCopyService> file_copy;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
};

class SamplingTest : public IntegrationTest {
 protected:
  SamplingTest() { sample_ms = kSampleMs; }
};

TEST_F(IntegrationTest, HeartbeatIsOkOnlyAfterAnAnswer) {
  auto state = [&] {
    HeartbeatService::State now{};
    partition.OnControl([&] { now = heartbeat->state(); });
    return now;
  };
  EXPECT_EQ(state(), HeartbeatService::State::kNoContact);
  Guest guest;
  Open(guest, vmbus::kHeartbeatClass);
  EXPECT_EQ(state(), HeartbeatService::State::kNoContact);
  Negotiate(guest, {3, 0});
  Receive(guest);
  EXPECT_EQ(guest.frame.type, proto::kHeartbeat);
  EXPECT_EQ(guest.frame.message, (Version{3, 0}));
  auto beat = BodyAs<proto::Heartbeat>(guest);
  ++beat.sequence;
  SetBody(guest, beat);
  Answer(guest);
  AwaitStat(*heartbeat, "answered", 1);
  EXPECT_EQ(state(), HeartbeatService::State::kOk);
  // The next comes by itself.
  Receive(guest);
  EXPECT_GT(BodyAs<proto::Heartbeat>(guest).sequence, beat.sequence);
  ASSERT_EQ(guest.channel.Close(connection), Result::kOk);
  EXPECT_EQ(state(), HeartbeatService::State::kNoContact);
}

TEST_F(IntegrationTest, ShutdownWaitsForTheGuestsWord) {
  auto ask = [&](ShutdownService::Kind kind, bool force) {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    partition.OnControl([&] {
      shutdown->Shutdown(kind, force, [promise](const absl::Status& s) { promise->set_value(s); });
    });
    return promise->get_future();
  };
  const absl::Status early = ask(ShutdownService::Kind::kPowerOff, false).get();
  EXPECT_NE(Message(early).find("no driver"), std::string_view::npos);
  Guest guest;
  Open(guest, vmbus::kShutdownClass);
  Negotiate(guest, {3, 2});
  AwaitReady(*shutdown);
  auto off = ask(ShutdownService::Kind::kPowerOff, true);
  auto reboot = ask(ShutdownService::Kind::kReboot, false);  // waits in line
  Receive(guest);
  EXPECT_EQ(guest.frame.body_size, 2060);
  EXPECT_EQ(BodyAs<proto::Shutdown>(guest).flags, proto::kShutdownForce);
  guest.frame.status = 0;
  Answer(guest);
  EXPECT_TRUE(off.get().ok());
  Receive(guest);
  EXPECT_EQ(BodyAs<proto::Shutdown>(guest).flags, proto::kShutdownRestart);
  guest.frame.status = proto::kStatusFail;
  Answer(guest);
  EXPECT_NE(Message(reboot.get()).find("0x80004005"), std::string_view::npos);
  // A guest that goes away leaves nobody waiting.
  auto last = ask(ShutdownService::Kind::kHibernate, false);
  Receive(guest);
  ASSERT_EQ(guest.channel.Close(connection), Result::kOk);
  EXPECT_FALSE(last.get().ok());
}

TEST_F(IntegrationTest, TimeIsSetAtTheStartAndOnRequest) {
  for (const Version version : {Version{4, 0}, Version{3, 0}}) {
    Guest guest;
    Open(guest, vmbus::kTimeSyncClass);
    Negotiate(guest, version);
    for (int i = 0; i < 2; ++i) {
      if (i == 1) {
        bool sent = false;
        partition.OnControl([&] { sent = time->Sync(); });
        EXPECT_TRUE(sent);
      }
      Receive(guest);
      const uint64_t now = proto::kUnixEpoch + static_cast<uint64_t>(::time(nullptr)) * 10'000'000;
      uint64_t host_time = 0;
      if (version.major == 4) {
        const auto body = BodyAs<proto::TimeSync>(guest);
        EXPECT_EQ(guest.body.size(), 24u);
        EXPECT_EQ(body.flags, proto::kTimeSyncNow);
        EXPECT_EQ(body.reference_time, 4242u);
        host_time = body.host_time;
      } else {
        const auto body = BodyAs<proto::OldTimeSync>(guest);
        EXPECT_EQ(guest.body.size(), 25u);
        EXPECT_EQ(body.flags, proto::kTimeSyncNow);
        host_time = body.host_time;
      }
      EXPECT_LE(now - std::min(now, host_time), 20'000'000u);
      EXPECT_LE(host_time - std::min(now, host_time), 20'000'000u);
    }
    ASSERT_EQ(guest.channel.Close(connection), Result::kOk);
  }
  bool sent = true;
  partition.OnControl([&] { sent = time->Sync(); });
  EXPECT_FALSE(sent);
}

// A paused guest reads no samples; were they sent, its ring would be full after twelve minutes and
// have no room for what sets its clock when it goes on.
TEST_F(SamplingTest, APausedGuestGetsNoSamplesAndItsClockIsSetBehindIt) {
  Guest guest;
  Open(guest, vmbus::kTimeSyncClass);
  Negotiate(guest, {4, 0});
  AwaitReady(*time);
  const auto flags = [&] {
    Receive(guest);
    return BodyAs<proto::TimeSync>(guest).flags;
  };
  EXPECT_EQ(flags(), proto::kTimeSyncNow);
  EXPECT_EQ(flags(), proto::kTimeSample);
  partition.OnControl([&] { time->SetPaused(true); });
  const uint64_t sent = Stat(*time, "sent");
  std::this_thread::sleep_for(std::chrono::milliseconds(20 * kSampleMs));
  EXPECT_EQ(Stat(*time, "sent"), sent);
  partition.OnControl([&] { time->SetPaused(false); });
  while (Stat(*time, "sent") == sent) {
  }
  uint8_t last = proto::kTimeSample;
  for (uint64_t seen = 2; seen <= sent && last == proto::kTimeSample; ++seen) last = flags();
  EXPECT_EQ(last, proto::kTimeSyncNow);
}

// A guest that does not read its ring just then gets it as soon as it does.
TEST_F(SamplingTest, AClockThatCouldNotBeSetIsSetLater) {
  Guest guest;
  Open(guest, vmbus::kTimeSyncClass);
  Negotiate(guest, {4, 0});
  AwaitReady(*time);
  partition.OnControl([&] {
    while (time->Sync()) {
    }
  });
  const uint64_t sent = Stat(*time, "sent");
  std::this_thread::sleep_for(std::chrono::milliseconds(5 * kSampleMs));
  // What lies in the ring, from the start on, and behind it the one that found no room.
  for (uint64_t seen = 1; seen < sent; ++seen) {
    Receive(guest);
    ASSERT_NE(guest.body.size(), 0u);
  }
  Receive(guest);
  EXPECT_EQ(BodyAs<proto::TimeSync>(guest).flags, proto::kTimeSyncNow);
}

TEST_F(IntegrationTest, KeyValuePairsAreListedSetAndDeleted) {
  Guest guest;
  Open(guest, vmbus::kKeyValueClass);
  auto list = [&](uint8_t pool) {
    auto promise =
        std::make_shared<std::promise<absl::StatusOr<std::vector<KeyValueService::Pair>>>>();
    partition.OnControl([&] {
      key_values->List(pool, [promise](auto pairs) { promise->set_value(std::move(pairs)); });
    });
    return promise->get_future();
  };
  // No daemon: the negotiation lies unanswered, and the administrator is told.
  EXPECT_NE(Message(list(2).get().status()).find("hv_kvp_daemon"), std::string_view::npos);
  Negotiate(guest, {4, 0});
  AwaitReady(*key_values);
  auto listed = list(proto::kPoolAuto);
  const std::vector<KeyValueService::Pair> pairs = {{"OSName", "Debian"}, {"Grüße", "\U0001F600"}};
  for (uint32_t i = 0; i <= pairs.size(); ++i) {
    Receive(guest);
    auto body = BodyAs<proto::KeyValue>(guest);
    EXPECT_EQ(body.operation, proto::kEnumerate);
    EXPECT_EQ(body.pool, proto::kPoolAuto);
    EXPECT_EQ(body.enumerate.index, i);
    EXPECT_EQ(guest.body.size(), sizeof(body));
    if (i == pairs.size()) {
      guest.frame.status = proto::kStatusNoMoreItems;
    } else {
      const auto key = ToUtf16(pairs[i].first), value = ToUtf16(pairs[i].second);
      body.enumerate.value.key_size = static_cast<uint32_t>(key.size());
      body.enumerate.value.value_size = static_cast<uint32_t>(value.size());
      std::memcpy(body.enumerate.value.key, key.data(), key.size());
      std::memcpy(body.enumerate.value.value, value.data(), value.size());
      SetBody(guest, body);
    }
    Answer(guest);
  }
  const auto result = listed.get();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(*result, pairs);

  // Lengths that lie.
  auto lied = list(proto::kPoolGuest);
  Receive(guest);
  auto body = BodyAs<proto::KeyValue>(guest);
  body.enumerate.value.key_size = 513;
  SetBody(guest, body);
  Answer(guest);
  EXPECT_NE(Message(lied.get().status()).find("lengths lie"), std::string_view::npos);

  std::promise<absl::Status> set, removed, empty;
  partition.OnControl([&] {
    key_values->Set("a", "b", [&](const absl::Status& s) { set.set_value(s); });
    key_values->Delete("a", [&](const absl::Status& s) { removed.set_value(s); });
    key_values->Set("", "b", [&](const absl::Status& s) { empty.set_value(s); });
  });
  EXPECT_FALSE(empty.get_future().get().ok());
  Receive(guest);
  body = BodyAs<proto::KeyValue>(guest);
  EXPECT_EQ(body.operation, proto::kSet);
  EXPECT_EQ(body.value.key_size, 4u);
  EXPECT_EQ(body.value.value_size, 4u);
  Answer(guest);
  EXPECT_TRUE(set.get_future().get().ok());
  Receive(guest);
  EXPECT_EQ(BodyAs<proto::KeyValue>(guest).operation, proto::kDelete);
  Answer(guest);
  EXPECT_TRUE(removed.get_future().get().ok());
}

TEST_F(IntegrationTest, FileSystemsAreFrozenAndThawedInTime) {
  auto freeze = [&](uint32_t seconds) {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    partition.OnControl([&] {
      snapshot->Freeze(seconds, [promise](const absl::Status& s) { promise->set_value(s); });
    });
    return promise->get_future();
  };
  auto thaw = [&] {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    partition.OnControl(
        [&] { snapshot->Thaw([promise](const absl::Status& s) { promise->set_value(s); }); });
    return promise->get_future();
  };
  Guest guest;
  Open(guest, vmbus::kSnapshotClass);
  EXPECT_NE(Message(freeze(10).get()).find("daemon not running"), std::string_view::npos);
  Negotiate(guest, {5, 0});
  AwaitReady(*snapshot);
  auto expect = [&](uint8_t operation, uint32_t status) {
    Receive(guest);
    EXPECT_EQ(BodyAs<proto::Snapshot>(guest).operation, operation);
    guest.frame.status = status;
    Answer(guest);
  };
  auto cannot = freeze(10);
  expect(proto::kSnapshotCheck, proto::kStatusFail);
  EXPECT_FALSE(cannot.get().ok());
  auto frozen = freeze(10);
  EXPECT_FALSE(freeze(10).get().ok()) << "two at once: the second would undo the first";
  expect(proto::kSnapshotCheck, 0);
  expect(proto::kSnapshotFreeze, 0);
  EXPECT_TRUE(frozen.get().ok());
  EXPECT_FALSE(freeze(10).get().ok()) << "frozen already";
  auto thawed = thaw();
  expect(proto::kSnapshotThaw, 0);
  EXPECT_TRUE(thawed.get().ok());
  EXPECT_FALSE(thaw().get().ok()) << "not frozen";
  // Half a freeze is undone.
  auto half = freeze(10);
  expect(proto::kSnapshotCheck, 0);
  expect(proto::kSnapshotFreeze, proto::kStatusFail);
  expect(proto::kSnapshotThaw, 0);
  EXPECT_FALSE(half.get().ok());
  // Nobody thaws: it happens by itself, and the late thaw is told so.
  auto forgotten = freeze(1);
  expect(proto::kSnapshotCheck, 0);
  expect(proto::kSnapshotFreeze, 0);
  EXPECT_TRUE(forgotten.get().ok());
  expect(proto::kSnapshotThaw, 0);
  EXPECT_FALSE(thaw().get().ok());
}

TEST_F(IntegrationTest, AFileIsCopiedInPieces) {
  const UniqueFd source(memfd_create("source", MFD_CLOEXEC));
  std::vector<uint8_t> content(proto::kCopyFragment * 2 + 100);
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<uint8_t>(i * 7);
  ASSERT_EQ(write(source.get(), content.data(), content.size()),
            static_cast<ssize_t>(content.size()));
  auto copy = [&](const std::string& name, const std::string& directory) {
    auto promise = std::make_shared<std::promise<absl::StatusOr<uint64_t>>>();
    partition.OnControl([&] {
      FileCopyService::Job job;
      job.source = UniqueFd(dup(source.get()));
      job.name = name;
      job.directory = directory;
      job.overwrite = true;
      file_copy->Copy(std::move(job), [promise](auto result) { promise->set_value(result); });
    });
    return promise->get_future();
  };
  Guest guest;
  Open(guest, vmbus::kFileCopyClass);
  Negotiate(guest, {1, 1});
  AwaitReady(*file_copy);
  EXPECT_FALSE(copy("a/b", "/tmp/").get().ok());
  EXPECT_FALSE(copy("a", "tmp/").get().ok());
  EXPECT_FALSE(copy(std::string(300, 'a'), "/tmp/").get().ok());
  auto done = copy("name", "/tmp/");
  EXPECT_FALSE(copy("other", "/tmp/").get().ok()) << "one at a time";
  Receive(guest);
  const auto start = BodyAs<proto::FileCopyStart>(guest);
  EXPECT_EQ(start.header.operation, proto::kCopyStart);
  EXPECT_EQ(start.flags, proto::kCopyOverwrite);
  EXPECT_EQ(start.size_low, content.size());
  EXPECT_EQ(start.name[0], 'n');
  EXPECT_EQ(start.path[1], 't');
  Answer(guest);
  std::vector<uint8_t> got;
  for (int i = 0; i < 3; ++i) {
    Receive(guest);
    ASSERT_EQ(guest.body.size(), sizeof(proto::FileCopyWrite)) << "always whole";
    const auto piece = BodyAs<proto::FileCopyWrite>(guest);
    EXPECT_EQ(piece.offset_low, got.size());
    got.insert(got.end(), piece.data, piece.data + piece.size);
    Answer(guest);
  }
  EXPECT_EQ(got, content);
  Receive(guest);
  EXPECT_EQ(BodyAs<proto::FileCopyHeader>(guest).operation, proto::kCopyComplete);
  Answer(guest);
  const auto bytes = done.get();
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(*bytes, content.size());
  // A guest whose disk is full: the copy is called off.
  auto full = copy("name", "/tmp/");
  Receive(guest);
  Answer(guest);
  Receive(guest);
  guest.frame.status = proto::kStatusDiskFull;
  Answer(guest);
  Receive(guest);
  EXPECT_EQ(BodyAs<proto::FileCopyHeader>(guest).operation, proto::kCopyCancel);
  guest.frame.status = 0;
  Answer(guest);
  EXPECT_NE(Message(full.get().status()).find("disk is full"), std::string_view::npos);
}

TEST_F(IntegrationTest, AddressesAreAskedByTheMacAddress) {
  Guest guest;
  Open(guest, vmbus::kKeyValueClass);
  Negotiate(guest, {4, 0});
  AwaitReady(*key_values);
  std::promise<absl::StatusOr<KeyValueService::AddressInfo>> promise;
  partition.OnControl([&] {
    key_values->Addresses("00:15:5D:01:02:03", [&](auto info) { promise.set_value(info); });
  });
  Receive(guest);
  auto body = BodyAs<proto::IpInfo>(guest);
  EXPECT_EQ(body.operation, proto::kGetIpInfo);
  EXPECT_EQ(FromUtf16(body.adapter), "00:15:5D:01:02:03");
  const auto address = ToUtf16("10.0.0.7;fe80::1");
  std::memcpy(body.addresses, address.data(), address.size());
  // Text without an end fills its field and no more.
  std::memset(body.dns, 'x', sizeof(body.dns));
  SetBody(guest, body);
  Answer(guest);
  const auto info = promise.get_future().get();
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->addresses, "10.0.0.7;fe80::1");
  EXPECT_LE(info->dns.size(), sizeof(body.dns) * 2);
}

// Answers to nothing, of the wrong kind, too short, with lengths that lie, before their time.
TEST_F(IntegrationTest, WhatIsNoAnswerIsCountedAndForgotten) {
  Guest guest;
  Open(guest, vmbus::kHeartbeatClass);
  Receive(guest);
  const proto::Frame negotiation = guest.frame;
  auto refuse = [&](const char* what, const std::function<void()>& change) {
    SCOPED_TRACE(what);
    const uint64_t before = Stat(*heartbeat, "rejected");
    guest.frame = negotiation;
    guest.frame.flags = proto::kTransaction | proto::kResponse;
    guest.body.resize(16);
    guest.frame.body_size = 16;
    guest.transaction = 0;
    change();
    SendRaw(guest);
    AwaitStat(*heartbeat, "rejected", before + 1);
  };
  refuse("no common version", [&] { std::memset(guest.body.data(), 0, 16); });
  refuse("versions nobody offered", [&] {
    const uint16_t words[8] = {1, 1, 0, 0, 3, 0, 9, 9};
    std::memcpy(guest.body.data(), words, sizeof(words));
  });
  refuse("a request, not an answer", [&] { guest.frame.flags = proto::kRequest; });
  refuse("a body longer than the packet", [&] { guest.frame.body_size = 60000; });
  refuse("a short negotiation", [&] {
    guest.body.resize(8);
    guest.frame.body_size = 8;
  });
  refuse("an answer before any version", [&] { guest.frame.type = proto::kHeartbeat; });
  const uint16_t good[8] = {1, 1, 0, 0, 3, 0, 3, 0};
  guest.frame = negotiation;
  guest.body.resize(16);
  std::memcpy(guest.body.data(), good, sizeof(good));
  guest.frame.body_size = 16;
  guest.transaction = 0;
  Answer(guest);
  AwaitReady(*heartbeat);
  refuse("a second negotiation", [&] { std::memcpy(guest.body.data(), good, sizeof(good)); });
  refuse("another service's message", [&] { guest.frame.type = proto::kShutdown; });
  refuse("an answer to what was never asked", [&] {
    guest.frame.type = proto::kHeartbeat;
    guest.transaction = 1000;
  });
  {
    const uint64_t before = Stat(*heartbeat, "rejected");
    const std::array<std::byte, 8> tiny{};
    ASSERT_EQ(guest.channel.writer().Write(vmbus::kPacketInBand, 0, 1, {}, tiny),
              vmbus::RingStatus::kOk);
    guest.channel.Commit();
    AwaitStat(*heartbeat, "rejected", before + 1);
  }
  // A storm of answers does not keep the control thread from anything else.
  guest.frame.flags = proto::kTransaction | proto::kResponse;
  guest.frame.type = proto::kShutdown;
  for (int i = 0; i < 100; ++i) SendRaw(guest);
  partition.OnControl([] {});
  Receive(guest);
  EXPECT_EQ(guest.frame.type, proto::kHeartbeat);
}

TEST(Utf16, TextOfGuestsIsMadeHarmless) {
  EXPECT_EQ(FromUtf16(ToUtf16("Straße \U0001F600")), "Straße \U0001F600");
  const std::vector<uint8_t> lone = {0x00, 0xD8, 'a', 0, 0x1B, 0, '[', 0, 7};
  EXPECT_EQ(FromUtf16(lone), "\uFFFDa[");
  EXPECT_EQ(FromUtf16({}), "");
  // C1 controls (U+009B is an escape sequence), overrides of direction, separators, tags.
  EXPECT_EQ(FromUtf16(ToUtf16("a\u0080\u009b31m\u009fb")), "a31mb");
  EXPECT_EQ(FromUtf16(ToUtf16("a\u202ecod.exe\u2066\u2069\u200f\u061cb")), "acod.exeb");
  EXPECT_EQ(FromUtf16(ToUtf16("a\u2028\u2029\U000E0041b")), "ab");
  EXPECT_EQ(FromUtf16(ToUtf16("\u00a0\u05d0\u0627\u2030\u2070")), "\u00a0\u05d0\u0627\u2030\u2070");
  EXPECT_EQ(FromUtf16(ToUtf16("\xC3")), "\uFFFD");
  EXPECT_EQ(FromUtf16(ToUtf16("\xFF\xF0\x80")), "\uFFFD\uFFFD\uFFFD");
}

}  // namespace
}  // namespace partita::integration
