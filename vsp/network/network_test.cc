// The network adapter without a hypervisor: pure parsers first, then the whole path with the vsc
// driver at one end, VMBus between, and a loopback or a stream at the other.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <future>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsc/network_vsc.h"
#include "vsp/network/network_vsp.h"
#include "vsp/network/offload.h"
#include "vsp/network/rndis.h"

namespace partita::network {
namespace {

namespace proto = vmbus::network;
using vmbus::client::Result;

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}
template <typename T>
T LoadFrom(std::span<const std::byte> from) {
  T value{};
  EXPECT_GE(from.size(), sizeof(T));
  if (from.size() >= sizeof(T)) std::memcpy(&value, from.data(), sizeof(T));
  return value;
}

// --- RNDIS control ---

class RndisTest : public testing::Test {
 protected:
  std::vector<std::byte> Send(uint32_t type, uint32_t oid, std::span<const std::byte> value,
                              uint32_t offset = 20) {
    proto::RndisQuery query{.header = {type, static_cast<uint32_t>(sizeof(query) + value.size())},
                            .request_id = 7,
                            .oid = oid,
                            .length = static_cast<uint32_t>(value.size()),
                            .offset = offset,
                            .vc = 0};
    std::vector<std::byte> message(sizeof(query) + value.size());
    std::memcpy(message.data(), &query, sizeof(query));
    if (!value.empty()) std::memcpy(message.data() + sizeof(query), value.data(), value.size());
    return control.Handle(message, {.sent = 5});
  }
  std::vector<std::byte> Query(uint32_t oid, std::span<const std::byte> input = {}) {
    const auto answer = Send(proto::kRndisQuery, oid, input);
    const auto header = LoadFrom<proto::RndisQueryAnswer>(answer);
    EXPECT_EQ(header.request_id, 7u);
    EXPECT_EQ(header.header.length, answer.size());
    if (header.status != proto::kRndisSuccess) {
      EXPECT_EQ(header.offset, 0u) << "Linux would take this for an answer";
      return {};
    }
    EXPECT_EQ(header.offset, 16u);
    return {answer.begin() + sizeof(header), answer.end()};
  }
  uint32_t Set(uint32_t oid, std::span<const std::byte> value, uint32_t offset = 20) {
    return LoadFrom<proto::RndisSetAnswer>(Send(proto::kRndisSet, oid, value, offset)).status;
  }
  RndisCounters counters;
  RndisControl control{{.mac = {0, 0x15, 0x5D, 1, 2, 3},
                        .mtu = 1500,
                        .queues = 4,
                        .checksum = true,
                        .large_send = true,
                        .coalesced = true,
                        .any_address = true},
                       counters};
};

TEST_F(RndisTest, InitialisesAndHalts) {
  const proto::RndisInitialize initialize{.header = {proto::kRndisInitialize, sizeof(initialize)},
                                          .request_id = 9,
                                          .major = 1,
                                          .minor = 0,
                                          .max_transfer = 0x4000};
  const auto answer =
      LoadFrom<proto::RndisInitializeAnswer>(control.Handle(BytesOf(initialize), {}));
  EXPECT_EQ(answer.header.type, 0x80000002u);
  EXPECT_EQ(answer.header.length, 52u);
  EXPECT_EQ(answer.request_id, 9u);
  EXPECT_EQ(answer.status, 0u);
  EXPECT_TRUE(control.settings().initialized);
  const uint32_t filter = 0xD;
  EXPECT_EQ(Set(proto::kOidPacketFilter, BytesOf(filter)), proto::kRndisSuccess);
  EXPECT_EQ(control.settings().filter, filter);
  const proto::RndisSetAnswer halt{.header = {proto::kRndisHalt, 12}, .request_id = 1, .status = 0};
  EXPECT_TRUE(control.Handle(BytesOf(halt), {}).empty());
  EXPECT_FALSE(control.settings().initialized);
  EXPECT_EQ(control.settings().filter, 0u);
}

TEST_F(RndisTest, EveryOidThatLinuxSends) {
  EXPECT_EQ(LoadFrom<uint32_t>(Query(proto::kOidMaximumFrameSize)), 1500u);
  EXPECT_EQ(LoadFrom<MacAddress>(Query(proto::kOidPermanentAddress)),
            (MacAddress{0, 0x15, 0x5D, 1, 2, 3}));
  EXPECT_TRUE(Query(proto::kOidFriendlyName).empty());
  EXPECT_EQ(counters.unknown_oids.value(), 1u);
  EXPECT_EQ(LoadFrom<uint32_t>(Query(proto::kOidMediaConnectStatus)), 0u);
  control.SetLink(false);
  EXPECT_EQ(LoadFrom<uint32_t>(Query(proto::kOidMediaConnectStatus)), 1u);
  EXPECT_GT(LoadFrom<uint32_t>(Query(proto::kOidLinkSpeed)), 0u);
  EXPECT_EQ(LoadFrom<uint64_t>(Query(proto::kOidTransmitOk)), 5u);
  const auto scale = Query(proto::kOidReceiveScaleCapabilities, std::array<std::byte, 18>{});
  ASSERT_EQ(scale.size(), 18u) << "20 are refused";
  uint32_t queues = 0;
  std::memcpy(&queues, scale.data() + 12, sizeof(queues));
  EXPECT_EQ(queues, 4u);
}

TEST_F(RndisTest, OffloadCapabilitiesInEachSize) {
  struct Header {
    uint8_t type, revision;
    uint16_t size;
  };
  for (const auto& [revision, size] : {std::pair{3, 156}, {2, 144}, {1, 112}}) {
    const Header header{proto::kOffloadObject, static_cast<uint8_t>(revision),
                        static_cast<uint16_t>(size)};
    const auto answer = Query(proto::kOidOffloadCapabilities, BytesOf(header));
    ASSERT_EQ(answer.size(), static_cast<size_t>(size));
    const auto back = LoadFrom<Header>(answer);
    EXPECT_EQ(back.type, 0xA7);
    EXPECT_EQ(back.revision, revision);
    EXPECT_EQ(back.size, size);
    uint32_t tx4 = 0, lso = 0;
    std::memcpy(&tx4, answer.data() + 8, sizeof(tx4));
    std::memcpy(&lso, answer.data() + 84, sizeof(lso));
    EXPECT_EQ(tx4 & 0x54u, 0x54u);
    EXPECT_EQ(lso, 0xF53Cu);
  }
  const Header tiny{proto::kOffloadObject, 3, 8}, other{0x80, 3, 156};
  EXPECT_TRUE(Query(proto::kOidOffloadCapabilities, BytesOf(tiny)).empty());
  EXPECT_TRUE(Query(proto::kOidOffloadCapabilities, BytesOf(other)).empty());
  EXPECT_TRUE(Query(proto::kOidOffloadCapabilities).empty());
}

TEST_F(RndisTest, CoalescedFramesAreSwitchedByTheGuest) {
  std::array<uint8_t, 28> parameters{};
  parameters[22] = parameters[23] = proto::kParameterEnabled;
  EXPECT_EQ(Set(proto::kOidOffloadParameters, std::as_bytes(std::span(parameters))), 0u);
  EXPECT_TRUE(control.settings().coalesced);
  parameters[22] = parameters[23] = 0;  // no change
  EXPECT_EQ(Set(proto::kOidOffloadParameters, std::as_bytes(std::span(parameters))), 0u);
  EXPECT_TRUE(control.settings().coalesced);
  parameters[22] = proto::kParameterDisabled;
  EXPECT_EQ(Set(proto::kOidOffloadParameters, std::as_bytes(std::span(parameters))), 0u);
  EXPECT_FALSE(control.settings().coalesced);
}

TEST_F(RndisTest, TheGuestSetsItsAddress) {
  std::vector<uint8_t> value;
  auto put32 = [&](uint32_t v) {
    for (int i = 0; i < 4; ++i) value.push_back(static_cast<uint8_t>(v >> (8 * i)));
  };
  auto put_text = [&](std::string_view text) {
    for (const char c : text) {
      value.push_back(static_cast<uint8_t>(c));
      value.push_back(0);
    }
  };
  auto build = [&](std::string_view digits) {
    value.clear();
    put32(20), put32(28), put32(2), put32(48), put32(static_cast<uint32_t>(digits.size() * 2));
    put_text("NetworkAddress");
    put_text(digits);
  };
  build("00155DaAbBcC");
  EXPECT_EQ(Set(proto::kOidConfigurationParameter, std::as_bytes(std::span(value))), 0u);
  EXPECT_EQ(control.settings().mac, (MacAddress{0, 0x15, 0x5D, 0xAA, 0xBB, 0xCC}));
  for (const char* bad : {"01155DAABBCC", "00155DAABB", "00155DAABBCX"}) {
    build(bad);
    EXPECT_NE(Set(proto::kOidConfigurationParameter, std::as_bytes(std::span(value))), 0u) << bad;
  }
  build("00155DAABBCC");
  value[12] = 0xFF;  // the value lies outside
  EXPECT_NE(Set(proto::kOidConfigurationParameter, std::as_bytes(std::span(value))), 0u);
}

TEST_F(RndisTest, LyingMessagesAreCounted) {
  const uint32_t filter = 1;
  EXPECT_EQ(Set(proto::kOidPacketFilter, {}), proto::kRndisInvalidData);
  EXPECT_EQ(Set(proto::kOidPacketFilter, BytesOf(filter), 0xFFFFFFF0), proto::kRndisInvalidData);
  EXPECT_EQ(Set(proto::kOidPacketFilter, BytesOf(filter), 0), proto::kRndisInvalidData);
  EXPECT_EQ(Set(0x12345678, BytesOf(filter)), proto::kRndisNotSupported);
  const uint64_t before = counters.bad_messages.value();
  const proto::RndisHeader longer{proto::kRndisQuery, 1000}, tiny{proto::kRndisSet, 4},
      unknown{99, 8}, headless{proto::kRndisQuery, 8};
  for (const auto& header : {longer, tiny, unknown, headless}) {
    EXPECT_TRUE(control.Handle(BytesOf(header), {}).empty());
  }
  EXPECT_TRUE(control.Handle({}, {}).empty());
  EXPECT_EQ(counters.bad_messages.value(), before + 5);
}

// --- frames ---

proto::RndisFrame GoodFrame() {
  return {.header = {proto::kRndisPacket, 44 + 16 + 60},
          .data_offset = 52,
          .data_length = 60,
          .oob_offset = 0,
          .oob_length = 0,
          .oob_count = 0,
          .info_offset = 36,
          .info_length = 16,
          .vc = 0,
          .reserved = 0};
}

TEST(FrameTest, HeadersThatLie) {
  ASSERT_TRUE(ParseFrameHeader(GoodFrame(), 120));
  EXPECT_FALSE(ParseFrameHeader(GoodFrame(), 119));
  auto broken = [](auto change) {
    proto::RndisFrame frame = GoodFrame();
    change(frame);
    return !ParseFrameHeader(frame, 120).has_value();
  };
  EXPECT_TRUE(broken([](auto& f) { f.header.type = 2; }));
  EXPECT_TRUE(broken([](auto& f) { f.header.length = 43; }));
  EXPECT_TRUE(broken([](auto& f) { f.data_offset = 35; }));
  EXPECT_TRUE(broken([](auto& f) { f.data_offset = 0xFFFFFFFC; }));
  EXPECT_TRUE(broken([](auto& f) { f.data_length = 61; }));
  EXPECT_TRUE(broken([](auto& f) { f.data_length = 13; }));
  EXPECT_TRUE(broken([](auto& f) { f.data_length = 0xFFFFFFFF; }));
  EXPECT_TRUE(broken([](auto& f) { f.info_offset = 30; }));
  EXPECT_TRUE(broken([](auto& f) { f.info_length = 0xFFFFFFFF; }));
  EXPECT_TRUE(broken([](auto& f) { f.info_offset = 0xFFFFFFF8; }));
}

TEST(FrameTest, PacketInformation) {
  using Record = std::array<uint32_t, 4>;
  std::vector<Record> records = {{16, proto::kInfoChecksum, 12, 5},
                                 {16, proto::kInfoHash, 12, 6},
                                 {16, proto::kInfoVlan, 12, 0x71}};
  auto bytes = [&] { return std::as_bytes(std::span(records)); };
  auto requests = ParsePacketInfo(bytes());
  ASSERT_TRUE(requests);
  EXPECT_EQ(requests->checksum, 5u);
  EXPECT_EQ(requests->vlan, 0x71u);
  EXPECT_FALSE(requests->large_send);
  EXPECT_TRUE(ParsePacketInfo({}));
  for (const auto& [word, value] : {std::pair{0, 0u},
                                    {0, 11u},
                                    {0, 4096u},
                                    {0, 0xFFFFFFFFu},
                                    {2, 11u},
                                    {2, 13u},
                                    {2, 0xFFFFFFFEu}}) {
    auto saved = records;
    records[2][static_cast<size_t>(word)] = value;
    EXPECT_FALSE(ParsePacketInfo(bytes())) << word << " " << value;
    records = saved;
  }
  EXPECT_FALSE(ParsePacketInfo(bytes().first(40)));
}

// A TCP frame as Linux leaves it for LSO: lengths and IP checksum 0, TCP checksum without a length.
std::vector<std::byte> LargeFrame(bool ipv6, size_t payload) {
  const size_t ip = ipv6 ? 40 : 20;
  std::vector<uint8_t> f(14 + ip + 20 + payload);
  f[12] = ipv6 ? 0x86 : 0x08;
  f[13] = ipv6 ? 0xDD : 0x00;
  uint8_t* h = f.data() + 14;
  if (ipv6) {
    h[0] = 0x60;
    h[6] = 6;
    for (size_t i = 8; i < 40; ++i) h[i] = static_cast<uint8_t>(i * 7);
  } else {
    h[0] = 0x45;
    h[8] = 64;
    h[9] = 6;
    for (size_t i = 12; i < 20; ++i) h[i] = static_cast<uint8_t>(i * 13);
  }
  h[ip + 12] = 0x50;
  for (size_t i = 0; i < payload; ++i) h[ip + 20 + i] = static_cast<uint8_t>(i * 31 + 1);
  std::vector<std::byte> out(f.size());
  std::memcpy(out.data(), f.data(), f.size());
  return out;
}
uint32_t SlowSum(std::span<const std::byte> bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    sum += std::to_integer<uint32_t>(bytes[i]) << ((i & 1) == 0 ? 8 : 0);
    sum = (sum & 0xFFFF) + (sum >> 16);
  }
  return sum;
}

TEST(OffloadTest, LargeSendIsFinished) {
  for (const bool ipv6 : {false, true}) {
    auto frame = LargeFrame(ipv6, 30000);
    const uint32_t tcp = ipv6 ? 54 : 34;
    FrameRequests requests;
    requests.large_send = 1448 | tcp << 20 | proto::kLargeSendV2 | (ipv6 ? 1u << 31 : 0);
    VnetHeader header{};
    ASSERT_TRUE(PrepareTransmit(requests, static_cast<uint32_t>(frame.size()),
                                std::span(frame).first(kMaxFrameHeader), &header));
    EXPECT_EQ(header.gso_type, ipv6 ? kVnetGsoTcp6 : kVnetGsoTcp4);
    EXPECT_EQ(header.gso_size, 1448);
    EXPECT_EQ(header.header_length, tcp + 20);
    EXPECT_EQ(header.checksum_start, tcp);
    EXPECT_EQ(header.checksum_offset, 16);
    const auto ip = std::span(frame).subspan(14);
    const size_t length_at = ipv6 ? 4 : 2;
    EXPECT_EQ(std::to_integer<uint32_t>(ip[length_at]) << 8 |
                  std::to_integer<uint32_t>(ip[length_at + 1]),
              frame.size() - 14 - (ipv6 ? 40 : 0));
    if (!ipv6) {
      EXPECT_EQ(SlowSum(ip.first(20)), 0xFFFFu);
    }
    // Completed as one frame, the TCP checksum must be right.
    const iovec all{frame.data(), frame.size()};
    CompleteChecksum(std::span(&all, 1), static_cast<uint32_t>(frame.size()), tcp, 16);
    uint32_t sum = SlowSum(std::span(frame).subspan(tcp)) +
                   SlowSum(ipv6 ? ip.subspan(8, 32) : ip.subspan(12, 8)) + 6 +
                   static_cast<uint32_t>(frame.size() - tcp);
    while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
    EXPECT_EQ(sum, 0xFFFFu);
  }
}

TEST(OffloadTest, NonsenseIsRefused) {
  auto frame = LargeFrame(false, 3000);
  VnetHeader header{};
  auto large = [&](uint32_t value, size_t length, auto change) {
    auto copy = frame;
    change(copy);
    FrameRequests requests;
    requests.large_send = value;
    return PrepareTransmit(requests, static_cast<uint32_t>(length),
                           std::span(copy).first(std::min<size_t>(kMaxFrameHeader, length)),
                           &header);
  };
  auto same = [](auto&) {};
  const uint32_t good = 1448 | 34u << 20 | proto::kLargeSendV2;
  EXPECT_TRUE(large(good, frame.size(), same));
  EXPECT_FALSE(large(1448 | 1023u << 20 | proto::kLargeSendV2, frame.size(), same));
  EXPECT_FALSE(large(1448 | 14u << 20 | proto::kLargeSendV2, frame.size(), same));
  EXPECT_FALSE(large(good | 1u << 31, frame.size(), same)) << "not IPv6";
  EXPECT_FALSE(large(0xFFFFF | 34u << 20, frame.size(), same));
  EXPECT_FALSE(large(good, 40, same));
  EXPECT_FALSE(large(good, frame.size(), [](auto& f) { f[14] = std::byte{0x4F}; }));
  EXPECT_FALSE(large(good, frame.size(), [](auto& f) { f[23] = std::byte{17}; }));
  EXPECT_FALSE(large(good, frame.size(), [](auto& f) { f[34 + 12] = std::byte{0x10}; }));
  EXPECT_FALSE(large(good, 54, same)) << "no payload";
  EXPECT_TRUE(large(good, 54 + 1448, same));
  EXPECT_EQ(header.gso_type, kVnetGsoNone) << "one segment is no large send";
  FrameRequests checksum;
  checksum.checksum = proto::kTxIpv4 | proto::kTxTcp | 1000u << 16;
  EXPECT_FALSE(PrepareTransmit(checksum, 100, {}, &header));
  checksum.checksum = proto::kTxIpv4 | proto::kTxUdp | 34u << 16;
  EXPECT_TRUE(PrepareTransmit(checksum, 100, {}, &header));
  EXPECT_EQ(header.checksum_offset, 6);
}

TEST(OffloadTest, ChecksumOverPiecesOfEveryKind) {
  std::vector<std::byte> data(257);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 89 + 3);
  for (const uint32_t start : {0u, 1u, 14u, 33u}) {
    auto whole = data;
    std::fill_n(whole.begin() + start + 6, 2, std::byte{0});
    uint32_t sum = SlowSum(std::span(whole).subspan(start));
    const auto wanted = static_cast<uint16_t>(~sum);
    for (const size_t cut : {size_t{1}, size_t{40}, size_t{41}, size_t{start + 7}, size_t{200}}) {
      auto copy = whole;
      const iovec parts[] = {{copy.data(), cut}, {copy.data() + cut, copy.size() - cut}};
      CompleteChecksum(parts, static_cast<uint32_t>(copy.size()), start, 6);
      EXPECT_EQ(std::to_integer<uint32_t>(copy[start + 6]) << 8 |
                    std::to_integer<uint32_t>(copy[start + 7]),
                wanted)
          << start << " " << cut;
    }
  }
  // Positions outside change nothing.
  auto copy = data;
  const iovec all{copy.data(), copy.size()};
  CompleteChecksum(std::span(&all, 1), 257, 256, 16);
  CompleteChecksum(std::span(&all, 1), 257, 0xFFFFFFFF, 0xFFFFFFFF);
  EXPECT_EQ(copy, data);
}

TEST(OffloadTest, WhatTheGuestIsToldOfAReceivedFrame) {
  auto frame = LargeFrame(false, 100);
  bool finish = false;
  EXPECT_EQ(ReceiveChecksumInfo({}, frame, &finish), 0u);
  EXPECT_FALSE(finish);
  const VnetHeader partial{.flags = kVnetNeedsChecksum,
                           .gso_type = 0,
                           .header_length = 0,
                           .gso_size = 0,
                           .checksum_start = 34,
                           .checksum_offset = 16};
  EXPECT_EQ(ReceiveChecksumInfo(partial, frame, &finish), proto::kRxTcpOk | proto::kRxIpOk);
  EXPECT_FALSE(finish);
  frame[23] = std::byte{17};
  EXPECT_EQ(ReceiveChecksumInfo(partial, frame, &finish), proto::kRxUdpOk | proto::kRxIpOk);
  EXPECT_TRUE(finish) << "a DHCP client looks at the checksum itself";
  frame[23] = std::byte{132};
  VnetHeader other = partial;
  other.checksum_offset = 8;
  EXPECT_EQ(ReceiveChecksumInfo(other, frame, &finish), 0u);
  EXPECT_TRUE(finish);
  EXPECT_EQ(ReceiveChecksumInfo(partial, std::span(frame).first(10), &finish), proto::kRxTcpOk);
}

// --- the whole adapter ---

class AdapterTest : public testing::Test {
 protected:
  void Build(std::unique_ptr<NetBackend> backend, uint16_t vlan = 0, uint32_t queues = 1) {
    adapter = std::make_unique<NetworkVsp>(NetworkVsp::Options{.instance = {{5}},
                                                               .mac = {0, 0x15, 0x5D, 9, 8, 7},
                                                               .queues = queues,
                                                               .vlan = vlan,
                                                               .name = "test",
                                                               .notice =
                                                                   [this](std::string text) {
                                                                     MutexLock lock(mutex);
                                                                     notices.push_back(text);
                                                                   }},
                                           std::move(backend));
    adapter->Connect(partition.server());
    partition.OnControl([&] { ASSERT_NE(partition.server().AddDevice(*adapter), 0u); });
    ASSERT_EQ(connection.Connect(vmbus::kVersion5_3, 0), Result::kOk);
    ASSERT_EQ(connection.RequestOffers(), Result::kOk);
    Open(primary, 0);
    driver = std::make_unique<vsc::NetworkVsc>(connection, transport, primary);
    buffers = {.receive = {partition.Allocate(1 << 20), 1 << 20},
               .send = {partition.Allocate(256 << 10), 256 << 10},
               .scratch = partition.Allocate(4096)};
  }
  void TearDown() override {
    partition.Shutdown();
    adapter.reset();
  }
  void Open(vmbus::client::Channel& channel, uint16_t index) {
    const vmbus::Offer* offer = connection.Await(vmbus::kNetworkClass, index);
    ASSERT_NE(offer, nullptr);
    constexpr size_t kPages = 66;
    auto** list = reinterpret_cast<std::byte**>(partition.Allocate(4096));
    ASSERT_EQ(channel.Open(connection, transport, *offer, partition.Allocate(kPages * 4096), kPages,
                           list, {partition.Allocate(8192), 8192}, 0),
              Result::kOk);
  }
  std::map<std::string, uint64_t> Stats() {
    StatSink sink;
    adapter->DescribeTo(sink);
    return sink.values();
  }
  // A frame of the guest's to itself.
  static void Address(std::byte* frame) {
    std::memcpy(frame, kOwn.data(), kOwn.size());
    std::memcpy(frame + kOwn.size(), kOwn.data(), kOwn.size());
    frame[12] = frame[13] = std::byte{0x88};
  }
  // Until `name` is at least `least`.
  uint64_t StatAtLeast(const char* name, uint64_t least) {
    for (int i = 0; i < 5000 && Stats().at(name) < least; ++i) usleep(1000);
    return Stats().at(name);
  }
  // Sends frames of these lengths and collects `expected` that come back.
  std::vector<std::vector<std::byte>> Exchange(const std::vector<uint32_t>& lengths,
                                               size_t expected) {
    std::vector<std::vector<std::byte>> back;
    auto collect = [&](std::byte* data, uint32_t length) {
      back.emplace_back(data, data + length);
    };
    uint8_t fill = 1;
    for (const uint32_t length : lengths) {
      std::byte* at = driver->Prepare(length);
      while (at == nullptr) {
        EXPECT_TRUE(driver->Flush(primary));
        primary.Commit();
        while (driver->Poll(primary, collect)) {
        }
        primary.Commit();
        at = driver->Prepare(length);
        if (at == nullptr && !transport.Wait()) return back;
      }
      std::memset(at, fill++, length);
      Address(at);
    }
    EXPECT_TRUE(driver->Flush(primary));
    primary.Commit();
    while (back.size() < expected || driver->pending() > 0) {
      const bool got = driver->Poll(primary, collect);
      primary.Commit();
      if (!got && !transport.Wait()) {
        ADD_FAILURE() << "only " << back.size() << " frames of " << expected;
        break;
      }
    }
    return back;
  }

  // Takes coalesced frames; the lengths in which OneLargeFrame's comes.
  std::vector<size_t> PiecesOfTheLargeFrame();

  static constexpr MacAddress kOwn = {0, 0x15, 0x5D, 9, 8, 7};
  Mutex mutex;
  std::vector<std::string> notices ABSL_GUARDED_BY(mutex);
  testing_support::HostedPartition partition;
  std::unique_ptr<NetworkVsp> adapter;
  testing_support::HostedPartition::GuestTransport transport{partition};
  vmbus::client::Connection connection{transport};
  vmbus::client::Channel primary;
  vsc::NetworkVsc::Buffers buffers;
  std::unique_ptr<vsc::NetworkVsc> driver;
};

TEST_F(AdapterTest, FramesGoThroughAndBack) {
  Build(MakeLoopbackBackend(1));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  EXPECT_EQ(driver->mac()[5], 7);
  std::vector<uint32_t> lengths;
  for (uint32_t i = 0; i < 300; ++i) lengths.push_back(60 + i * 4);
  const auto back = Exchange(lengths, lengths.size());
  ASSERT_EQ(back.size(), lengths.size());
  for (size_t i = 0; i < back.size(); ++i) {
    ASSERT_EQ(back[i].size(), lengths[i]) << i;
    EXPECT_EQ(back[i][14], static_cast<std::byte>(i + 1));
    EXPECT_EQ(back[i].back(), static_cast<std::byte>(i + 1));
  }
  const auto stats = Stats();
  EXPECT_EQ(stats.at("network.sent"), 300u);
  EXPECT_EQ(stats.at("network.received"), 300u);
  EXPECT_EQ(stats.at("network.rejected.frames"), 0u);
}

TEST_F(AdapterTest, AccessModeTagsTheWireAndNotTheGuest) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const UniqueFd wire(ends[0]);
  auto backend = MakeStreamBackend(UniqueFd(ends[1]));
  ASSERT_TRUE(backend.ok());
  Build(*std::move(backend), 7);
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  Exchange({60}, 0);
  std::array<uint8_t, 128> got{};
  ASSERT_EQ(recv(wire.get(), got.data(), 4 + 64, MSG_WAITALL), 68);
  EXPECT_EQ(got[3], 64) << "four more bytes";
  EXPECT_EQ(got[4 + 12], 0x81);
  EXPECT_EQ(got[4 + 15], 7);
  EXPECT_EQ(got[4 + 16], 0x88);
  // Back with the right tag, with another, and with none: only the first arrives, without its tag.
  std::vector<uint8_t> frames;
  for (const int tag : {7, 8, 0}) {
    std::vector<uint8_t> frame(got.begin() + 4, got.begin() + 68);
    frame[15] = static_cast<uint8_t>(tag);
    if (tag == 0) frame[12] = frame[13] = 0x88;
    const uint8_t length[] = {0, 0, 0, 64};
    frames.insert(frames.end(), length, length + 4);
    frames.insert(frames.end(), frame.begin(), frame.end());
  }
  ASSERT_EQ(send(wire.get(), frames.data(), frames.size(), 0), static_cast<ssize_t>(frames.size()));
  const auto back = Exchange({60}, 1);
  ASSERT_EQ(back.size(), 1u);
  ASSERT_EQ(back[0].size(), 60u);
  EXPECT_EQ(back[0][12], std::byte{0x88});
  for (int i = 0; i < 1000 && Stats().at("network.dropped.vlan") < 2; ++i) usleep(1000);
  EXPECT_EQ(Stats().at("network.dropped.vlan"), 2u);
}

TEST_F(AdapterTest, AStreamThatIsCutInOddPlacesAndLies) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  UniqueFd wire(ends[0]);
  auto backend = MakeStreamBackend(UniqueFd(ends[1]));
  ASSERT_TRUE(backend.ok());
  Build(*std::move(backend));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  std::vector<uint8_t> stream;
  for (uint32_t i = 0; i < 20; ++i) {
    const uint32_t length = 100 + i, order = htonl(length);
    stream.insert(stream.end(), reinterpret_cast<const uint8_t*>(&order),
                  reinterpret_cast<const uint8_t*>(&order) + 4);
    stream.insert(stream.end(), kOwn.begin(), kOwn.end());
    stream.insert(stream.end(), length - kOwn.size(), static_cast<uint8_t>(i));
  }
  for (size_t at = 0; at < stream.size(); at += 37) {
    const size_t part = std::min<size_t>(37, stream.size() - at);
    ASSERT_EQ(send(wire.get(), stream.data() + at, part, 0), static_cast<ssize_t>(part));
  }
  const auto back = Exchange({60}, 20);
  ASSERT_EQ(back.size(), 20u);
  EXPECT_EQ(back[19].size(), 119u);
  const uint32_t huge = 0xFFFFFFFF;
  ASSERT_EQ(send(wire.get(), &huge, sizeof(huge), 0), 4);
  // The wire is dead now, the adapter is not: the link goes down, the user is told, and no command
  // brings back what is gone.
  for (int i = 0; i < 5000 && adapter->link_up(); ++i) usleep(1000);
  EXPECT_FALSE(adapter->link_up());
  adapter->SetLink(true);
  EXPECT_FALSE(adapter->link_up());
  Exchange({60, 60}, 0);
  MutexLock lock(mutex);
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("test: "), std::string::npos);
  EXPECT_NE(notices[0].find("link is down"), std::string::npos);
}

// A channel may be closed in the middle of a frame, in both directions: the other end goes on, and
// so does whoever opens the channel next.
TEST(StreamTest, AQueueGoesOnWhereTheLastOneStopped) {
  struct Owner final : FrameOwner {
    void OnSent(TransmitFrame&, bool ok) override { sent.push_back(ok); }
    ReceiveSlot* TakeSlot() override { return &slot; }
    void OnReceived(ReceiveSlot&, uint32_t length) override {
      frames.emplace_back(memory.begin(), memory.begin() + length);
    }
    std::vector<bool> sent;
    std::array<uint8_t, 2048> memory{};
    ReceiveSlot slot{.iovecs = {{}, {memory.data(), memory.size()}}, .capacity = 2048};
    std::vector<std::vector<uint8_t>> frames;
  };
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const UniqueFd wire(ends[0]);
  const int least = 1;
  ASSERT_EQ(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
  auto backend = MakeStreamBackend(UniqueFd(ends[1]));
  ASSERT_TRUE(backend.ok());
  struct User {
    Owner owner;
    std::unique_ptr<IoRing> ring;
    std::unique_ptr<NetQueue> queue;
    void Turn() {
      queue->PostReceives();
      ring->Submit(1, 20'000'000);
      ring->Reap();
    }
    void End() {
      queue->Cancel();
      while (!queue->Idle()) {
        ring->Submit(1);
        ring->Reap();
      }
    }
  };
  const auto open = [&](User& user) {
    auto ring = IoRing::Create({.files = (*backend)->files(0), .opcodes = (*backend)->opcodes()});
    ASSERT_TRUE(ring.ok()) << ring.status();
    user.ring = *std::move(ring);
    ASSERT_TRUE(user.ring->Enable().ok());
    auto queue = (*backend)->OpenQueue(user.owner, *user.ring, 0, 0);
    ASSERT_TRUE(queue.ok());
    user.queue = *std::move(queue);
  };
  std::vector<std::byte> large(60000, std::byte{1}), second(60, std::byte{2});
  const auto frame_of = [](std::vector<std::byte>& bytes) {
    TransmitFrame frame;
    frame.iovecs = {{}, {bytes.data(), bytes.size()}};
    frame.length = static_cast<uint32_t>(bytes.size());
    return frame;
  };
  std::vector<uint8_t> incoming(4 + 100, 7);
  const uint32_t length = htonl(100);
  std::memcpy(incoming.data(), &length, sizeof(length));
  TransmitFrame one = frame_of(large), two = frame_of(second), lost = frame_of(second);
  {
    User user;
    open(user);
    user.queue->PostReceives();
    user.queue->Send(one);
    user.queue->Send(lost);
    ASSERT_EQ(write(wire.get(), incoming.data(), 50), 50);
    for (int i = 0; i < 4; ++i) user.Turn();
    EXPECT_TRUE(user.owner.sent.empty()) << "the other end takes nothing";
    user.End();
    EXPECT_EQ(user.owner.sent, (std::vector<bool>{false, true}))
        << "the second never began and ends first; the first goes on without its guest";
  }
  std::fill(large.begin(), large.end(), std::byte{9});  // the guest's memory is its own again
  User user;
  open(user);
  ASSERT_EQ(write(wire.get(), incoming.data() + 50, 54), 54);
  user.queue->PostReceives();
  user.queue->Send(two);
  std::vector<std::byte> got;
  const size_t all = 4 + 60000 + 4 + second.size();
  for (int i = 0; i < 2000 && (got.size() < all || user.owner.frames.empty()); ++i) {
    user.Turn();
    std::array<std::byte, 65536> part{};
    const ssize_t size = recv(wire.get(), part.data(), part.size(), MSG_DONTWAIT);
    if (size > 0) got.insert(got.end(), part.begin(), part.begin() + size);
  }
  ASSERT_EQ(got.size(), all);
  EXPECT_TRUE(std::all_of(got.begin() + 4, got.begin() + 60004,
                          [](std::byte b) { return b == std::byte{1}; }));
  EXPECT_EQ(got.back(), std::byte{2});
  ASSERT_EQ(user.owner.frames.size(), 1u);
  EXPECT_EQ(user.owner.frames[0], std::vector<uint8_t>(100, 7));
  user.End();
}

// The kernel's part: what the filter refuses never gets into the TAP's queue, whoever reads it, and
// a queue that is attached later has the filter, too.
void FilterATap(bool* possible) {
  // The thread's own: it ends with it.
  *possible = unshare(CLONE_NEWNET) == 0;
  if (!*possible) return;
  std::vector<UniqueFd> fds;
  ifreq request{};
  for (int i = 0; i < 2; ++i) {
    fds.emplace_back(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    std::strcpy(request.ifr_name, "filtered");
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    *possible = ioctl(fds.back().get(), TUNSETIFF, &request) == 0;
    if (!*possible) return;
  }
  const int tap = fds[0].get(), second = fds[1].get();
  auto backend = MakeTapBackend(std::move(fds));
  ASSERT_TRUE(backend.ok()) << backend.status();
  const UniqueFd wire(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  ASSERT_EQ(ioctl(wire.get(), SIOCGIFFLAGS, &request), 0);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  ASSERT_EQ(ioctl(wire.get(), SIOCSIFFLAGS, &request), 0);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(if_nametoindex("filtered"));
  ASSERT_EQ(bind(wire.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const MacAddress own = {0, 0x15, 0x5D, 9, 8, 7}, foreign = {0, 0x15, 0x5D, 9, 8, 6};
  const auto put = [&](const MacAddress& to, uint8_t tag, uint8_t fill) {
    std::array<uint8_t, 80> frame{};
    frame.fill(fill);
    std::copy(to.begin(), to.end(), frame.begin());
    frame[12] = 0x81, frame[13] = 0, frame[14] = 0, frame[15] = tag;
    ASSERT_EQ(send(wire.get(), frame.data(), frame.size(), 0), ssize_t{frame.size()});
  };
  const auto arrived = [&] {  // ours alone: the host's own stack talks, too
    std::vector<int> fills;
    std::array<uint8_t, 4096> frame{};
    for (const int fd : {tap, second}) {
      while (read(fd, frame.data(), frame.size()) > 0) {
        if (frame[sizeof(VnetHeader) + 60] >= 0xA0) fills.push_back(frame[sizeof(VnetHeader) + 60]);
      }
    }
    return fills;
  };
  (*backend)->SetFilter(MakeReceiveFilter({}, own, 7, 0xD, true));
  ifreq attach{};
  attach.ifr_flags = IFF_ATTACH_QUEUE;
  ASSERT_EQ(ioctl(second, TUNSETQUEUE, &attach), 0) << strerror(errno);
  put(own, 8, 0xA1);
  put(foreign, 7, 0xA2);
  put(own, 7, 0xA3);
  EXPECT_EQ(arrived(), std::vector<int>{0xA3});
  (*backend)->SetFilter(MakeReceiveFilter({}, own, 7, 0xD, false));
  put(own, 7, 0xA4);
  EXPECT_EQ(arrived(), std::vector<int>{}) << "the link is down";
  (*backend)->SetFilter(MakeReceiveFilter({}, own, 0, 0xD, true));
  put(own, 8, 0xA5);
  EXPECT_EQ(arrived(), std::vector<int>{0xA5}) << "without access mode tags pass";
}
TEST(TapTest, TheDeviceDropsWhatIsNotForTheGuest) {
  bool possible = false;
  std::thread([&] { FilterATap(&possible); }).join();
  if (!possible) GTEST_SKIP() << "needs CAP_NET_ADMIN";
}

// Whether `count` bytes of this value lie in a row in memory that the loop writes to: looked at as
// a guest may, without asking anybody.
__attribute__((no_sanitize("thread"))) bool HasRow(std::span<const std::byte> memory, uint8_t value,
                                                   size_t count) {
  size_t row = 0;
  for (size_t i = 0; i < memory.size() && row < count; ++i) {
    row = memory.data()[i] == static_cast<std::byte>(value) ? row + 1 : 0;
  }
  return row >= count;
}

// Seen by the guest's memory: what is not for this guest was never written there.
TEST_F(AdapterTest, WhatIsNotForTheGuestNeverReachesItsMemory) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const UniqueFd wire(ends[0]);
  auto backend = MakeStreamBackend(UniqueFd(ends[1]));
  ASSERT_TRUE(backend.ok());
  Build(*std::move(backend), 7);
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  const auto put = [&](const MacAddress& to, uint8_t tag, uint8_t fill) {
    std::vector<uint8_t> frame = {0, 0, 0, 100};
    frame.insert(frame.end(), to.begin(), to.end());
    frame.resize(4 + 100, fill);
    frame[4 + 12] = 0x81, frame[4 + 13] = 0, frame[4 + 14] = 0, frame[4 + 15] = tag;
    ASSERT_EQ(send(wire.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
  };
  const auto seen = [&](uint8_t fill) { return HasRow(buffers.receive, fill, 32); };
  const MacAddress foreign = {0, 0x15, 0x5D, 9, 8, 6};
  put(kOwn, 8, 0xA1);     // another network
  put(foreign, 7, 0xA2);  // another station
  put(kOwn, 7, 0xA3);
  EXPECT_EQ(StatAtLeast("network.received", 1), 1u);
  EXPECT_TRUE(seen(0xA3));
  EXPECT_FALSE(seen(0xA1));
  EXPECT_FALSE(seen(0xA2));
  EXPECT_EQ(Stats().at("network.dropped.vlan"), 1u);
  EXPECT_EQ(Stats().at("network.dropped.unwanted"), 1u);
  adapter->SetLink(false);
  Exchange({}, 0);
  // The loop has seen the change when it has told the guest.
  put(kOwn, 7, 0xA4);
  EXPECT_EQ(StatAtLeast("network.dropped.unwanted", 2), 2u);
  EXPECT_FALSE(seen(0xA4));
}

TEST_F(AdapterTest, ForeignSourceAddressesStayOffTheWire) {
  Build(MakeNullBackend(1));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  const auto send = [&](uint8_t last_of_source, bool reserved) {
    std::byte* at = driver->Prepare(60);
    ASSERT_NE(at, nullptr);
    std::memset(at, 0, 60);
    Address(at);
    at[11] = std::byte{last_of_source};
    constexpr MacAddress kBridges = {0x01, 0x80, 0xC2, 0, 0, 0};
    if (reserved) std::memcpy(at, kBridges.data(), kBridges.size());
    ASSERT_TRUE(driver->Flush(primary));
    primary.Commit();
  };
  send(7, false);
  send(6, false);
  send(7, true);
  while (driver->pending() > 0) {
    const bool got = driver->Poll(primary, [](std::byte*, uint32_t) {});
    primary.Commit();
    ASSERT_TRUE(got || transport.Wait());
  }
  EXPECT_EQ(Stats().at("network.sent"), 1u);
  EXPECT_EQ(Stats().at("network.dropped.source_address"), 1u);
  EXPECT_EQ(Stats().at("network.dropped.reserved_group"), 1u);
}

// A guest with no room for a frame: what has arrived waits, a read is under way behind it, and
// frames that are handed over meanwhile move nothing under that read.
TEST(StreamTest, FramesThatWaitForSlotsStayWhereTheyAre) {
  struct Owner final : FrameOwner {
    void OnSent(TransmitFrame&, bool) override {}
    ReceiveSlot* TakeSlot() override { return slots == 0 ? nullptr : (--slots, &slot); }
    void OnReceived(ReceiveSlot&, uint32_t length) override {
      frames.emplace_back(memory.begin(), memory.begin() + length);
    }
    size_t slots = 0;
    std::array<uint8_t, 2048> memory{};
    ReceiveSlot slot{.iovecs = {{}, {memory.data(), memory.size()}}, .capacity = 2048};
    std::vector<std::vector<uint8_t>> frames;
  } owner;
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const UniqueFd wire(ends[0]);
  auto backend = MakeStreamBackend(UniqueFd(ends[1]));
  ASSERT_TRUE(backend.ok());
  auto ring = IoRing::Create({.files = (*backend)->files(0), .opcodes = (*backend)->opcodes()});
  ASSERT_TRUE(ring.ok()) << ring.status();
  ASSERT_TRUE((*ring)->Enable().ok());
  auto queue = (*backend)->OpenQueue(owner, **ring, 0, 0);
  ASSERT_TRUE(queue.ok());

  constexpr uint32_t kFrames = 64;
  const auto length_of = [](uint32_t i) { return 60 + i * 13; };
  uint32_t sent = 0;
  const auto send = [&] {
    std::vector<uint8_t> bytes(4 + length_of(sent), static_cast<uint8_t>(sent + 1));
    const uint32_t length = htonl(length_of(sent++));
    std::memcpy(bytes.data(), &length, sizeof(length));
    ASSERT_EQ(write(wire.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  };
  (*queue)->PostReceives();
  while (sent < kFrames) {
    // Two frames come while there is no slot; each ends a read, and the next one is posted.
    for (int i = 0; i < 2; ++i) {
      send();
      (*ring)->Submit(1);
      ASSERT_EQ((*ring)->Reap(), 1u);
      (*queue)->PostReceives();
      (*ring)->Submit(0);
    }
    owner.slots = sent % 3 == 0 ? 2 : 1;
    (*queue)->PostReceives();
  }
  owner.slots = kFrames;
  (*queue)->PostReceives();
  ASSERT_EQ(owner.frames.size(), kFrames);
  for (uint32_t i = 0; i < kFrames; ++i) {
    EXPECT_EQ(owner.frames[i], std::vector(length_of(i), static_cast<uint8_t>(i + 1))) << i;
  }
  (*queue)->Cancel();
  while (!(*queue)->Idle()) {
    (*ring)->Submit(1);
    (*ring)->Reap();
  }
}

TEST_F(AdapterTest, LinkChangesReachTheGuestAsIndications) {
  Build(MakeLoopbackBackend(1));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  // Nothing is asked: the status of the next message that comes by itself.
  const auto next_status = [&]() -> uint32_t {
    vmbus::Packet packet;
    while (primary.reader().Next(&packet) != vmbus::RingStatus::kOk) {
      primary.Commit();
      if (!primary.reader().UnmaskAndCheck() && !transport.Wait()) return 0;
    }
    proto::TransferPageRange range{};
    std::memcpy(&range, packet.headers.data() + sizeof(proto::TransferPageHeader), sizeof(range));
    const auto message = LoadFrom<proto::RndisIndicate>(buffers.receive.subspan(range.byte_offset));
    const proto::Nvsp done{.type = proto::kSendRndisPacketComplete, .body = {1}};
    EXPECT_EQ(primary.writer().Write(vmbus::kPacketCompletion, 0, packet.descriptor.transaction_id,
                                     {}, BytesOf(done)),
              vmbus::RingStatus::kOk);
    primary.Commit();
    EXPECT_EQ(message.header.type, proto::kRndisIndicateStatus);
    return message.status;
  };
  partition.OnControl([&] { adapter->SetLink(false); });
  EXPECT_EQ(next_status(), proto::kRndisMediaDisconnect);
  EXPECT_TRUE(Exchange({60, 60}, 0).empty()) << "sent into a wire that is not plugged in";
  partition.OnControl([&] { adapter->SetLink(true); });
  EXPECT_EQ(next_status(), proto::kRndisMediaConnect);
  EXPECT_EQ(Exchange({60, 60}, 2).size(), 2u);
}

TEST_F(AdapterTest, SubChannelsAreGrantedAsFarAsThereAreQueues) {
  Build(MakeLoopbackBackend(3), 0, 3);
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  uint32_t granted = 0;
  ASSERT_EQ(driver->RequestSubChannels(9, &granted), Result::kOk);
  EXPECT_EQ(granted, 2u);
  vmbus::client::Channel second, third;
  Open(second, 1);
  Open(third, 2);
  // A frame sent on a sub-channel comes back on it.
  std::byte* at = driver->Prepare(80);
  ASSERT_NE(at, nullptr);
  std::memset(at, 3, 80);
  Address(at);
  ASSERT_TRUE(driver->Flush(third));
  third.Commit();
  size_t frames = 0;
  while (frames == 0 || driver->pending() > 0) {
    const bool got = driver->Poll(third, [&](std::byte*, uint32_t length) {
      EXPECT_EQ(length, 80u);
      ++frames;
    });
    third.Commit();
    if (!got) {
      ASSERT_TRUE(transport.Wait());
    }
  }
  EXPECT_EQ(frames, 1u);
}

// Once per open, and never more than there are queues.
TEST_F(AdapterTest, AFloodOfSubChannelRequests) {
  Build(MakeLoopbackBackend(3), 0, 3);
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  uint32_t granted = 0;
  ASSERT_EQ(driver->RequestSubChannels(2, &granted), Result::kOk);
  EXPECT_EQ(granted, 2u);
  for (int i = 0; i < 500; ++i) {
    ASSERT_EQ(driver->RequestSubChannels(2, &granted), Result::kRefused);
  }
  EXPECT_EQ(Stats()["network.rejected.state"], 500u);
  EXPECT_EQ(partition.Stats()["vmbus.channels"], 3u);
}

// The control thread finds one question about a buffer at a time, however many the guest writes,
// and none goes without its answer.
TEST_F(AdapterTest, AFloodOfReceiveBuffers) {
  Build(MakeLoopbackBackend(1));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  std::promise<void> resume;
  partition.loop().Post([future = resume.get_future().share()] { future.wait(); });
  constexpr uint64_t kRequests = 100;
  for (uint64_t i = 1; i <= kRequests; ++i) {
    proto::Nvsp message{.type = i < kRequests ? proto::kSendReceiveBuffer : proto::kInit,
                        .body = {}};
    message.body[proto::kInitMaximum] = proto::kVersion6_1;
    ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested, i, {},
                                     BytesOf(message)),
              vmbus::RingStatus::kOk);
  }
  primary.Commit();
  // The last one needs no control thread: its answer would come if it were taken.
  vmbus::Packet packet;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(primary.reader().Next(&packet), vmbus::RingStatus::kEmpty);
    usleep(1000);
  }
  resume.set_value();
  for (uint64_t i = 1; i <= kRequests;) {
    if (primary.reader().Next(&packet) == vmbus::RingStatus::kOk) {
      EXPECT_EQ(packet.descriptor.transaction_id, i++);
      primary.Commit();
    } else {
      ASSERT_TRUE(transport.Wait());
    }
  }
}

// Guests below VMBus 4.0 take their buffers back while the channel is open, with frames that they
// never answered: they learn that the pages are theirs again, and can start anew.
TEST_F(AdapterTest, BuffersGoBackWhileTheChannelIsOpen) {
  Build(MakeLoopbackBackend(2), 0, 2);
  for (uint32_t round = 0; round < 3; ++round) {
    ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
    vmbus::client::Channel second;
    if (round == 0) {
      uint32_t granted = 0;
      ASSERT_EQ(driver->RequestSubChannels(1, &granted), Result::kOk);
      Open(second, 1);
    }
    const uint64_t before = Stats()["network.received"];
    std::memset(driver->Prepare(80), 3, 80);
    ASSERT_TRUE(driver->Flush(primary));
    primary.Commit();
    for (int i = 0; i < 5000 && Stats()["network.received"] == before; ++i) usleep(1000);
    for (const uint32_t type : {proto::kRevokeReceiveBuffer, proto::kRevokeSendBuffer}) {
      const proto::Nvsp message{.type = type, .body = {}};
      ASSERT_EQ(primary.writer().Write(vmbus::kPacketInBand, 0, 0, {}, BytesOf(message)),
                vmbus::RingStatus::kOk);
    }
    primary.Commit();
    // The ring's GPADL was the first; the second round's come behind the sub-channel's.
    const uint32_t first = 0xE1E10 + (round == 0 ? 1 : 2 + 2 * round);
    for (const uint32_t handle : {first, first + 1}) {
      EXPECT_EQ(connection.TearDownGpadl(primary.relid(), handle), Result::kOk) << round;
    }
    EXPECT_EQ(partition.Stats()["vmbus.rejected.gpadl"], 0u) << "they were there";
  }
}

TEST_F(AdapterTest, HostilePackets) {
  Build(MakeLoopbackBackend(1));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  auto send = [&](vmbus::PacketType type, proto::Nvsp message,
                  std::span<const std::byte> headers = {}, size_t cut = sizeof(proto::Nvsp)) {
    ASSERT_EQ(primary.writer().Write(type, vmbus::kCompletionRequested, 99, headers,
                                     BytesOf(message).first(cut)),
              vmbus::RingStatus::kOk);
  };
  const auto before = Stats();
  proto::Nvsp rndis{.type = proto::kSendRndisPacket, .body = {}};
  rndis.body[proto::kRndisSection] = 0xFFFFFF;  // outside
  rndis.body[proto::kRndisSectionSize] = 100;
  send(vmbus::kPacketInBand, rndis);
  rndis.body[proto::kRndisSection] = 0;
  rndis.body[proto::kRndisSectionSize] = 1 << 20;  // longer than a section
  send(vmbus::kPacketInBand, rndis);
  rndis.body[proto::kRndisSectionSize] = 100;  // in it: a message that lies
  const uint32_t lie[] = {1, 5000};
  std::memcpy(buffers.send.data(), lie, sizeof(lie));
  send(vmbus::kPacketInBand, rndis);
  rndis.body[proto::kRndisSection] = proto::kNoSection;
  struct {
    vmbus::GpaDirectHeader header;
    vmbus::GpaRange range;
    uint64_t pfn;
  } ranges = {{0, 1}, {100, 0}, 0xFFFFFFFFFF};
  send(vmbus::kPacketGpaDirect, rndis, BytesOf(ranges));
  ranges.range.byte_count = 0xFFFFFFFF;
  send(vmbus::kPacketGpaDirect, rndis, BytesOf(ranges));
  ranges.header.range_count = 0xFFFFFFFF;
  send(vmbus::kPacketGpaDirect, rndis, BytesOf(ranges));
  send(vmbus::kPacketGpaDirect, rndis, {});
  send(vmbus::kPacketInBand, rndis, {}, 4);
  send(vmbus::kPacketInBand, {.type = 4711, .body = {}});
  // A completion for nothing.
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketCompletion, 0, 12345, {}, BytesOf(rndis)),
            vmbus::RingStatus::kOk);
  proto::Nvsp buffer{.type = proto::kSendReceiveBuffer, .body = {}};
  buffer.body[0] = 0xDEAD;  // no such GPADL
  send(vmbus::kPacketInBand, buffer);
  primary.Commit();
  // It still works.
  EXPECT_EQ(Exchange({60, 61}, 2).size(), 2u);
  // The GPADL is looked up on another thread.
  for (int i = 0; i < 2000 && Stats().at("network.rejected.state") == 0; ++i) usleep(1000);
  const auto after = Stats();
  auto grew = [&](const char* name) { return after.at(name) - before.at(name); };
  EXPECT_EQ(grew("network.rejected.frames"), 1u);
  EXPECT_GE(grew("network.rejected.packets"), 7u);
  EXPECT_EQ(grew("network.rejected.completions"), 1u);
  EXPECT_EQ(grew("network.rejected.state"), 1u);
}

// Whoever takes memory from the guest is told what frames on their way out still use.
TEST_F(AdapterTest, PagesOfFramesAreCounted) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const UniqueFd wire(ends[0]);
  const int least = 1;  // the other end takes nothing: frames wait
  ASSERT_EQ(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
  auto backend = MakeStreamBackend(UniqueFd(ends[1]));
  ASSERT_TRUE(backend.ok());
  Build(*std::move(backend));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  EXPECT_TRUE(partition.PagesInFlight(*adapter).empty());

  constexpr size_t kPages = 15;
  struct {
    vmbus::GpaDirectHeader header;
    vmbus::GpaRange range;
    std::array<uint64_t, kPages> pfns;
  } ranges{.header = {0, 1}, .range = {kPages * 4096, 0}, .pfns = {}};
  std::byte* message = partition.Allocate(kPages * 4096);
  std::vector<uint64_t> pfns(kPages);
  std::iota(pfns.begin(), pfns.end(), partition.Pfn(message));
  std::copy(pfns.begin(), pfns.end(), ranges.pfns.begin());
  proto::RndisFrame frame{};
  frame.header = {proto::kRndisPacket, kPages * 4096};
  frame.data_offset = sizeof(frame) - proto::kRndisOffsetBase;
  frame.data_length = kPages * 4096 - sizeof(frame);
  std::memcpy(message, &frame, sizeof(frame));
  Address(message + sizeof(frame));
  proto::Nvsp rndis{.type = proto::kSendRndisPacket, .body = {}};
  rndis.body[proto::kRndisChannel] = proto::kDataChannel;
  rndis.body[proto::kRndisSection] = proto::kNoSection;
  ASSERT_EQ(primary.writer().Write(vmbus::kPacketGpaDirect, vmbus::kCompletionRequested, 1,
                                   BytesOf(ranges), BytesOf(rndis)),
            vmbus::RingStatus::kOk);
  primary.Commit();
  std::vector<uint64_t> found;
  for (int i = 0; i < 2000 && found.empty(); ++i) {
    found = partition.PagesInFlight(*adapter);
    if (found.empty()) usleep(1000);
  }
  EXPECT_EQ(found, pfns);
  std::vector<std::byte> taken(4 + frame.data_length);
  ASSERT_EQ(recv(wire.get(), taken.data(), taken.size(), MSG_WAITALL),
            static_cast<ssize_t>(taken.size()));
  for (int i = 0; i < 2000 && !found.empty(); ++i) {
    found = partition.PagesInFlight(*adapter);
    if (!found.empty()) usleep(1000);
  }
  EXPECT_TRUE(found.empty());
}

// Packets are taken as long as their answers find room: a guest that reads none costs no memory.
TEST_F(AdapterTest, AGuestThatReadsNoAnswersIsNotReadEither) {
  Build(MakeLoopbackBackend(1));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  const proto::Nvsp nonsense{.type = 4711, .body = {}};
  const size_t sent = testing_support::FillRing(primary, 50000, [&](size_t) {
    return primary.writer().Write(vmbus::kPacketInBand, vmbus::kCompletionRequested, 7, {},
                                  BytesOf(nonsense));
  });
  EXPECT_LT(sent, 10000u) << "two rings hold about three thousand each";
  vmbus::Packet packet;
  for (size_t i = 0; i < sent;) {
    if (primary.reader().Next(&packet) == vmbus::RingStatus::kOk) {
      EXPECT_EQ(packet.descriptor.transaction_id, 7u);
      ++i;
      continue;
    }
    primary.Commit();
    ASSERT_TRUE(primary.reader().UnmaskAndCheck() || transport.Wait()) << i << " of " << sent;
  }
  primary.Commit();
  EXPECT_EQ(Exchange({60}, 1).size(), 1u);
}

// A wire with one coalesced frame on it, for the guest that takes such.
class OneLargeFrame final : public NetBackend {
 public:
  static constexpr uint32_t kLength = 65'000;
  static std::byte At(size_t i) { return static_cast<std::byte>(i * 7 >> 3); }
  [[nodiscard]] const NetProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files(uint32_t) const override { return {}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return {}; }
  absl::StatusOr<std::unique_ptr<NetQueue>> OpenQueue(FrameOwner& owner, IoRing&, uint32_t,
                                                      int) override {
    return std::make_unique<Queue>(owner);
  }

 private:
  class Queue final : public NetQueue {
   public:
    explicit Queue(FrameOwner& owner) : owner_(owner) {}
    void Send(TransmitFrame& frame) override { owner_.OnSent(frame, true); }
    void PostReceives() override {
      ReceiveSlot* slot = wanted_ ? owner_.TakeSlot() : nullptr;
      if (slot == nullptr) return;
      wanted_ = false;
      slot->header = {};
      uint32_t done = 0;
      for (const iovec& v : std::span(slot->iovecs).subspan(1)) {
        for (size_t i = 0; i < v.iov_len && done < kLength; ++i) {
          static_cast<std::byte*>(v.iov_base)[i] = At(done++);
        }
      }
      owner_.OnReceived(*slot, kLength);
    }
    void Cancel() override {}
    [[nodiscard]] bool Idle() const override { return true; }
    void SetCoalesced(bool coalesced) override { wanted_ = coalesced; }

   private:
    FrameOwner& owner_;
    bool wanted_ = false;
  };
  NetProperties properties_ = {.coalesced = true};
};

std::vector<size_t> AdapterTest::PiecesOfTheLargeFrame() {
  EXPECT_EQ(driver->Initialize(buffers), Result::kOk);
  std::array<std::byte, 28> parameters{};
  parameters[proto::kParameterRsc4] = parameters[proto::kParameterRsc6] =
      std::byte{proto::kParameterEnabled};
  std::vector<size_t> pieces;
  size_t total = 0;
  bool same = true;
  const auto collect = [&](std::byte* data, uint32_t length) {
    pieces.push_back(length);
    for (uint32_t i = 0; i < length; ++i) same = same && data[i] == OneLargeFrame::At(total++);
  };
  // The answer to this comes first: with the next turn of the loop the frame does.
  EXPECT_EQ(driver->Set(proto::kOidOffloadParameters, parameters), Result::kOk);
  while (total < OneLargeFrame::kLength) {
    const bool got = driver->Poll(primary, collect);
    primary.Commit();
    if (!got && !transport.Wait()) break;
  }
  EXPECT_TRUE(same) << "not the bytes that came";
  EXPECT_EQ(Stats().at("network.received_large"), 1u);
  return pieces;
}

// Each piece costs the guest as much as a frame: Linux, with its 16 MiB, gets such a frame in one.
// A guest with less room needs many sections more than large ones.
TEST_F(AdapterTest, ACoalescedFrameIsOnePieceInALargeReceiveBuffer) {
  Build(std::make_unique<OneLargeFrame>());
  buffers.receive = {partition.Allocate(16 << 20), 16 << 20};
  EXPECT_EQ(PiecesOfTheLargeFrame(), (std::vector<size_t>{OneLargeFrame::kLength}));
}
TEST_F(AdapterTest, ACoalescedFrameIsManyPiecesInASmallReceiveBuffer) {
  Build(std::make_unique<OneLargeFrame>());
  EXPECT_EQ(PiecesOfTheLargeFrame(), [] {
    std::vector<size_t> pieces(16, 4096 - 96);
    pieces.push_back(OneLargeFrame::kLength % (4096 - 96));
    return pieces;
  }());
}

// Stock hv_netvsc waits for a control answer without end, so one that finds every section of the
// receive buffer with the guest has to wait, too, and not to be lost.
TEST_F(AdapterTest, ControlAnswersComeWhenEverySectionIsWithTheGuest) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const UniqueFd wire(ends[0]);
  auto backend = MakeStreamBackend(UniqueFd(ends[1]));
  ASSERT_TRUE(backend.ok());
  Build(*std::move(backend));
  ASSERT_EQ(driver->Initialize(buffers), Result::kOk);
  // 1 MiB of sections of a page each: 256. Frames come and nothing of them is ever read.
  std::vector<uint8_t> frame = {0, 0, 0, 60};
  frame.insert(frame.end(), kOwn.begin(), kOwn.end());
  frame.resize(4 + 60, 1);
  for (int i = 0; i < 400; ++i) {
    ASSERT_EQ(send(wire.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
  }
  EXPECT_GT(StatAtLeast("network.dropped.no_sections", 1), 0u) << "they do run out";
  const uint64_t received = Stats().at("network.received");
  EXPECT_LT(received, 256u);
  EXPECT_GT(received, 200u);
  // More questions than there are sections kept for answers.
  constexpr uint32_t kQuestions = 30;
  const proto::RndisQuery query{.header = {proto::kRndisQuery, sizeof(query)},
                                .request_id = 0,
                                .oid = proto::kOidMediaConnectStatus,
                                .length = 0,
                                .offset = 20,
                                .vc = 0};
  std::byte* page = partition.Allocate(4096);
  for (uint32_t i = 0; i < kQuestions; ++i) {
    proto::RndisQuery each = query;
    each.request_id = 1000 + i;
    std::memcpy(page + i * 64, &each, sizeof(each));
    struct {
      vmbus::GpaDirectHeader header;
      vmbus::GpaRange range;
      uint64_t pfn;
    } ranges = {{0, 1}, {sizeof(each), i * 64}, partition.Pfn(page)};
    proto::Nvsp rndis{.type = proto::kSendRndisPacket, .body = {}};
    rndis.body[proto::kRndisChannel] = proto::kControlChannel;
    rndis.body[proto::kRndisSection] = proto::kNoSection;
    ASSERT_EQ(primary.writer().Write(vmbus::kPacketGpaDirect, vmbus::kCompletionRequested, 77,
                                     BytesOf(ranges), BytesOf(rndis)),
              vmbus::RingStatus::kOk);
  }
  primary.Commit();
  EXPECT_GT(StatAtLeast("network.control.waited", 1), 0u);
  // Now the guest reads: all answers are there, in order, and then the frames that waited.
  uint32_t answers = 0;
  vmbus::Packet packet;
  while (answers < kQuestions) {
    if (primary.reader().Next(&packet) != vmbus::RingStatus::kOk) {
      primary.Commit();
      ASSERT_TRUE(primary.reader().UnmaskAndCheck() || transport.Wait()) << answers;
      continue;
    }
    if (packet.descriptor.type != vmbus::kPacketTransferPages) continue;
    proto::TransferPageRange range{};
    std::memcpy(&range, packet.headers.data() + sizeof(proto::TransferPageHeader), sizeof(range));
    const auto answer =
        LoadFrom<proto::RndisQueryAnswer>(buffers.receive.subspan(range.byte_offset));
    if (answer.header.type == (proto::kRndisQuery | proto::kRndisAnswer)) {
      EXPECT_EQ(answer.request_id, 1000 + answers);
      ++answers;
    }
    const proto::Nvsp done{.type = proto::kSendRndisPacketComplete, .body = {1}};
    ASSERT_EQ(primary.writer().Write(vmbus::kPacketCompletion, 0, packet.descriptor.transaction_id,
                                     {}, BytesOf(done)),
              vmbus::RingStatus::kOk);
    primary.Commit();
  }
  EXPECT_EQ(Stats().at("network.control.lost"), 0u);
  EXPECT_EQ(Stats().at("network.rejected.packets"), 0u);
}

}  // namespace
}  // namespace partita::network
