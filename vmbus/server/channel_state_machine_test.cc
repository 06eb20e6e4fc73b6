// The control plane, message by message, without threads. Sequences follow the public description
// of VMBus (Linux, drivers/hv/channel_mgmt.c and channel.c).
#include "vmbus/server/channel_state_machine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace partita::vmbus {
namespace {

// Records what the machine asks for; opens succeed at once unless told otherwise.
class Recorder : public ChannelActions {
 public:
  void Send(uint32_t vp, std::span<const std::byte> message) override {
    last_vp = vp;
    sent.emplace_back(message.begin(), message.end());
  }
  void Open(const OpenRequest& request) override { opened.push_back(request); }
  void Close(uint32_t relid) override { closed.push_back(relid); }
  void Retarget(uint32_t relid, uint32_t vp) override { retargeted.emplace_back(relid, vp); }
  void Removed(uint32_t relid) override { removed.push_back(relid); }
  void DropMessages() override { ++drops; }

  template <typename T>
  T Take() {
    T value{};
    if (sent.empty()) {
      ADD_FAILURE() << "no message was sent";
      return value;
    }
    EXPECT_EQ(sent.front().size(), sizeof(T));
    std::memcpy(&value, sent.front().data(), std::min(sizeof(T), sent.front().size()));
    sent.erase(sent.begin());
    return value;
  }

  std::vector<std::vector<std::byte>> sent;
  std::vector<OpenRequest> opened;
  std::vector<uint32_t> closed, removed;
  std::vector<std::pair<uint32_t, uint32_t>> retargeted;
  uint32_t last_vp = 0;
  int drops = 0;
};

class MachineTest : public testing::Test {
 protected:
  template <typename T>
  void Post(const T& message, size_t size = sizeof(T)) {
    machine.OnMessage(std::as_bytes(std::span(&message, 1)).first(size));
  }
  void PostType(uint32_t type) {
    Header header{};
    header.type = type;
    Post(header);
  }
  void PostRelid(uint32_t type, uint32_t relid) {
    RelidMessage message{};
    message.header.type = type;
    message.relid = relid;
    Post(message);
  }
  void Contact(uint32_t version, uint32_t vp = 0) {
    InitiateContact contact{};
    contact.header.type = kInitiateContact;
    contact.version = version;
    contact.target_vp = vp;
    Post(contact);
  }
  void Connect(uint32_t version = kVersion5_3) {
    Contact(version);
    EXPECT_EQ(actions.Take<VersionResponse>().supported, 1);
  }
  // Connects, adds one device and takes its offer.
  uint32_t Offered() {
    const uint32_t relid = machine.AddChannel({.type = kScsiClass, .max_subchannels = 2});
    Connect();
    PostType(kRequestOffers);
    EXPECT_EQ(actions.Take<Offer>().relid, relid);
    EXPECT_EQ(actions.Take<Header>().type, kAllOffersDelivered);
    return relid;
  }
  void SendGpadl(uint32_t relid, uint32_t handle, size_t pages) {
    std::vector<uint64_t> pfns(pages);
    for (size_t i = 0; i < pages; ++i) pfns[i] = 100 + i;
    GpadlHeader header{};
    header.header.type = kGpadlHeader;
    header.relid = relid;
    header.gpadl = handle;
    header.range_buffer_length = static_cast<uint16_t>(8 + 8 * pages);
    header.range_count = 1;
    header.byte_count = static_cast<uint32_t>(pages * kRingPage);
    size_t at = 0;
    auto post = [&](const auto& head, size_t room) {
      const size_t count = std::min(room, pages - at);
      std::vector<std::byte> bytes(sizeof(head) + count * 8);
      std::memcpy(bytes.data(), &head, sizeof(head));
      std::memcpy(bytes.data() + sizeof(head), pfns.data() + at, count * 8);
      at += count;
      machine.OnMessage(bytes);
    };
    post(header, kGpadlHeaderPfns);
    GpadlBody body{};
    body.header.type = kGpadlBody;
    body.gpadl = handle;
    while (at < pages) post(body, kGpadlBodyPfns);
  }
  void Gpadl(uint32_t relid, uint32_t handle, size_t pages) {
    SendGpadl(relid, handle, pages);
    const auto created = actions.Take<GpadlCreated>();
    EXPECT_EQ(created.status, 0u);
    EXPECT_EQ(created.gpadl, handle);
  }
  void PostOpen(uint32_t relid, uint32_t handle, uint32_t downstream = 4) {
    OpenChannel open{};
    open.header.type = kOpenChannel;
    open.relid = relid;
    open.open_id = 77;
    open.gpadl = handle;
    open.target_vp = 1;
    open.downstream_page_offset = downstream;
    Post(open);
  }
  void Teardown(uint32_t relid, uint32_t handle) {
    GpadlTeardown teardown{};
    teardown.header.type = kGpadlTeardown;
    teardown.relid = relid;
    teardown.gpadl = handle;
    Post(teardown);
  }
  uint32_t Opened() {
    const uint32_t relid = Offered();
    Gpadl(relid, 5, 8);
    PostOpen(relid, 5);
    machine.OnOpened(relid, true);
    EXPECT_EQ(actions.Take<OpenChannelResult>().status, 0u);
    return relid;
  }
  uint64_t Rejected(const std::string& name) {
    StatSink sink;
    machine.DescribeTo(sink);
    return sink.values().at("vmbus.rejected." + name);
  }

  Recorder actions;
  ChannelStateMachine machine{{}, actions};
};

TEST_F(MachineTest, EveryVersionAndTheCeiling) {
  struct Case {
    uint32_t asked, ceiling;
    bool supported;
  };
  const Case cases[] = {
      {0x00020004, kVersion5_3, false},  {kVersion3_0, kVersion5_3, true},
      {kVersion4_0, kVersion5_3, true},  {kVersion4_1, kVersion5_3, true},
      {kVersion5_0, kVersion5_3, true},  {kVersion5_2, kVersion5_3, true},
      {kVersion5_3, kVersion5_3, true},  {0x00060000, kVersion5_3, false},
      {kVersion5_3, kVersion4_0, false}, {kVersion4_0, kVersion4_0, true},
      {0xFFFFFFFF, 0xFFFFFFFF, false},   {0, kVersion5_3, false},
  };
  for (const Case& c : cases) {
    Recorder recorder;
    ChannelStateMachine fresh({.max_version = c.ceiling}, recorder);
    InitiateContact contact{};
    contact.header.type = kInitiateContact;
    contact.version = c.asked;
    contact.target_vp = 3;
    fresh.OnMessage(std::as_bytes(std::span(&contact, 1)));
    const auto response = recorder.Take<VersionResponse>();
    EXPECT_EQ(response.supported, c.supported ? 1 : 0) << std::hex << c.asked;
    EXPECT_EQ(recorder.last_vp, 3u);  // always answered: the guest waits without a time-out
    if (c.supported && c.asked >= kVersion5_0) {
      EXPECT_EQ(response.message_connection, kMessageConnection);
    }
  }
}

TEST_F(MachineTest, OffersComeOnceAndInOrder) {
  const uint32_t first = machine.AddChannel({.type = kScsiClass});
  const uint32_t second = machine.AddChannel({.type = kNetworkClass});
  Connect();
  PostType(kRequestOffers);
  const auto offer = actions.Take<Offer>();
  EXPECT_EQ(offer.relid, first);
  EXPECT_EQ(offer.connection_id, kChannelConnectionBase + first);
  EXPECT_EQ(offer.dedicated_interrupt, 1);
  EXPECT_EQ(offer.interface_type, kScsiClass);
  EXPECT_EQ(actions.Take<Offer>().relid, second);
  EXPECT_EQ(actions.Take<Header>().type, kAllOffersDelivered);
  PostType(kRequestOffers);
  EXPECT_TRUE(actions.sent.empty());
  EXPECT_EQ(Rejected("state"), 1u);
  // A device added later is offered at once.
  const uint32_t third = machine.AddChannel({.type = kScsiClass});
  EXPECT_EQ(actions.Take<Offer>().relid, third);
}

TEST_F(MachineTest, GpadlOfManyMessagesThenOpenModifyCloseReopen) {
  const uint32_t relid = Offered();
  Gpadl(relid, 9, 100);  // one header and three bodies
  EXPECT_EQ(machine.FindGpadl(relid, 9)->pfns[99], 199u);
  PostOpen(relid, 9, 50);
  ASSERT_EQ(actions.opened.size(), 1u);
  EXPECT_EQ(actions.opened[0].target_vp, 1u);
  EXPECT_EQ(actions.opened[0].ring->pfns.size(), 100u);
  EXPECT_TRUE(actions.sent.empty());  // the answer waits for the device
  machine.OnOpened(relid, true);
  const auto result = actions.Take<OpenChannelResult>();
  EXPECT_EQ(result.open_id, 77u);
  EXPECT_EQ(result.status, 0u);

  ModifyChannel modify{};
  modify.header.type = kModifyChannel;
  modify.relid = relid;
  modify.target_vp = 6;
  Post(modify);
  EXPECT_EQ(actions.retargeted.back(), std::pair(relid, 6u));
  EXPECT_EQ(actions.Take<ModifyChannelResponse>().status, 0u);

  // TORNDOWN waits until the device has let go of the ring; OPEN while closing waits too.
  PostRelid(kCloseChannel, relid);
  EXPECT_EQ(actions.closed, std::vector<uint32_t>{relid});
  Teardown(relid, 9);
  EXPECT_TRUE(actions.sent.empty());
  Gpadl(relid, 10, 8);
  PostOpen(relid, 10);
  EXPECT_EQ(actions.opened.size(), 1u);
  machine.OnClosed(relid);
  EXPECT_EQ(actions.Take<GpadlTorndown>().gpadl, 9u);
  ASSERT_EQ(actions.opened.size(), 2u);
  machine.OnOpened(relid, true);
  EXPECT_EQ(actions.Take<OpenChannelResult>().status, 0u);
}

TEST_F(MachineTest, ModifyAnswersOnlyWhereTheGuestWaits) {
  for (const auto& [version, answers] :
       {std::pair(kVersion4_1, false), {kVersion5_2, false}, {kVersion5_3, true}}) {
    Recorder recorder;
    ChannelStateMachine fresh({}, recorder);
    InitiateContact contact{};
    contact.header.type = kInitiateContact;
    contact.version = version;
    fresh.OnMessage(std::as_bytes(std::span(&contact, 1)));
    recorder.sent.clear();
    ModifyChannel modify{};
    modify.header.type = kModifyChannel;
    modify.relid = 1;
    fresh.OnMessage(std::as_bytes(std::span(&modify, 1)));
    EXPECT_EQ(recorder.sent.size(), answers ? 1u : 0u) << std::hex << version;
  }
}

TEST_F(MachineTest, TearingDownAnOpenRingIsRefused) {
  const uint32_t relid = Opened();
  Teardown(relid, 5);
  EXPECT_TRUE(actions.sent.empty());
  EXPECT_NE(machine.FindGpadl(relid, 5), nullptr);
  EXPECT_EQ(Rejected("state"), 1u);
}

TEST_F(MachineTest, OpenWithABadRingFails) {
  const uint32_t relid = Offered();
  Gpadl(relid, 5, 8);
  for (const uint32_t downstream : {0u, 1u, 7u, 8u, 0xFFFFFFFFu}) {
    PostOpen(relid, 5, downstream);
    EXPECT_NE(actions.Take<OpenChannelResult>().status, 0u) << downstream;
  }
  PostOpen(relid, 99);  // no such GPADL
  EXPECT_NE(actions.Take<OpenChannelResult>().status, 0u);
  EXPECT_TRUE(actions.opened.empty());
  PostOpen(relid, 5);
  machine.OnOpened(relid, false);  // the device refuses
  EXPECT_NE(actions.Take<OpenChannelResult>().status, 0u);
  PostOpen(relid, 5);  // and may be asked again
  EXPECT_EQ(actions.opened.size(), 2u);
}

TEST_F(MachineTest, SubChannelsAreRescindedWhenThePrimaryCloses) {
  const uint32_t primary = Opened();
  ASSERT_EQ(machine.AddSubChannels(primary, 2), 2u);
  const auto one = actions.Take<Offer>();
  const auto two = actions.Take<Offer>();
  EXPECT_EQ(one.subchannel_index, 1);
  EXPECT_EQ(two.subchannel_index, 2);
  Gpadl(one.relid, 6, 8);
  PostOpen(one.relid, 6);
  EXPECT_EQ(actions.opened.back().primary, primary);
  machine.OnOpened(one.relid, true);
  EXPECT_EQ(actions.Take<OpenChannelResult>().status, 0u);

  PostRelid(kCloseChannel, one.relid);
  machine.OnClosed(one.relid);
  PostRelid(kCloseChannel, primary);
  machine.OnClosed(primary);
  EXPECT_EQ(actions.Take<RelidMessage>().relid, one.relid);
  EXPECT_EQ(actions.Take<RelidMessage>().relid, two.relid);
  PostRelid(kRelidReleased, one.relid);
  PostRelid(kRelidReleased, two.relid);
  EXPECT_EQ(actions.removed, (std::vector<uint32_t>{one.relid, two.relid}));
  EXPECT_EQ(machine.gpadl_pages(), 8u);  // only the primary's own is left
}

// A device offers so many sub-channels and not one more, however often they are asked for.
TEST_F(MachineTest, NoMoreSubChannelsThanOffered) {
  const uint32_t primary = Opened();
  EXPECT_EQ(machine.AddSubChannels(primary, 95), 2u);
  EXPECT_EQ(machine.AddSubChannels(primary, 1), 0u);
  EXPECT_EQ(actions.sent.size(), 2u);
  const auto one = actions.Take<Offer>();
  EXPECT_EQ(one.subchannel_index, 1);
  PostRelid(kRelidReleased, one.relid);
  EXPECT_EQ(machine.AddSubChannels(primary, 2), 1u);
  actions.sent.erase(actions.sent.begin());
  EXPECT_EQ(actions.Take<Offer>().subchannel_index, 1) << "the one that is free";
}

// A guest that never gives relids back gets no more by opening again; one that is only late with it
// gets what was granted.
TEST_F(MachineTest, SubChannelsOfEarlierOpensCount) {
  const uint32_t primary = Opened();
  std::vector<uint32_t> rescinded;
  for (int open = 0; open < 100; ++open) {
    EXPECT_EQ(machine.AddSubChannels(primary, 2), 2u);
    while (!actions.sent.empty()) {
      if (actions.sent.front().size() != sizeof(Offer)) break;
      rescinded.push_back(actions.Take<Offer>().relid);
    }
    PostRelid(kCloseChannel, primary);
    machine.OnClosed(primary);
    PostOpen(primary, 5);
    machine.OnOpened(primary, true);
    actions.sent.clear();
  }
  EXPECT_EQ(rescinded.size(), 4u);
  EXPECT_EQ(machine.AddSubChannels(primary, 2), 2u);
  EXPECT_TRUE(actions.sent.empty());
  PostRelid(kRelidReleased, rescinded[0]);
  EXPECT_EQ(actions.Take<Offer>().subchannel_index, 1);
  PostRelid(kRelidReleased, rescinded[1]);
  EXPECT_EQ(actions.Take<Offer>().subchannel_index, 2);
  PostRelid(kRelidReleased, rescinded[2]);
  EXPECT_TRUE(actions.sent.empty());
}

// The answer to a teardown says that nobody uses the pages any more.
TEST_F(MachineTest, ATeardownWaitsForTheLastUser) {
  const uint32_t relid = Opened();
  Gpadl(relid, 9, 4);
  EXPECT_EQ(machine.LendGpadl(relid, 10), 0u);
  const uint64_t loan = machine.LendGpadl(relid, 9);
  EXPECT_EQ(machine.LendGpadl(relid, 9), loan);
  Teardown(relid, 9);
  EXPECT_TRUE(actions.sent.empty());
  EXPECT_EQ(machine.LendGpadl(relid, 9), 0u) << "on its way out";
  machine.GpadlReturned(relid, 9, loan);
  EXPECT_TRUE(actions.sent.empty());
  machine.GpadlReturned(relid, 9, loan);
  EXPECT_EQ(actions.Take<GpadlTorndown>().gpadl, 9u);
  machine.GpadlReturned(relid, 9, loan);  // of one that is gone
  // One that ended with its connection says nothing to the next one, which may use its handle.
  Gpadl(relid, 9, 4);
  const uint64_t old = machine.LendGpadl(relid, 9);
  PostRelid(kCloseChannel, relid);
  machine.OnClosed(relid);
  PostType(kUnload);
  actions.sent.clear();
  Connect();
  PostType(kRequestOffers);
  actions.sent.clear();
  Gpadl(relid, 9, 4);
  EXPECT_NE(machine.LendGpadl(relid, 9), old);
  Teardown(relid, 9);
  machine.GpadlReturned(relid, 9, old);
  EXPECT_TRUE(actions.sent.empty());
}

TEST_F(MachineTest, RemovalRescindsSubChannelsFirstAndServesUntilTheGuestCloses) {
  const uint32_t primary = Opened();
  ASSERT_EQ(machine.AddSubChannels(primary, 1), 1u);
  const uint32_t sub = actions.Take<Offer>().relid;
  machine.RemoveChannel(primary);
  EXPECT_EQ(actions.Take<RelidMessage>().relid, sub);
  EXPECT_EQ(actions.Take<RelidMessage>().relid, primary);
  EXPECT_TRUE(actions.closed.empty()) << "the driver may still need its device";
  PostRelid(kCloseChannel, primary);
  EXPECT_EQ(actions.closed, std::vector<uint32_t>{primary});
  machine.OnClosed(primary);
  EXPECT_TRUE(actions.sent.empty());
  // The relid is not used again before the guest gives it back.
  EXPECT_NE(machine.AddChannel({}), primary);
  PostRelid(kRelidReleased, primary);
  EXPECT_EQ(actions.removed.back(), primary);
  // What was on its way when the rescind crossed it is ignored, and a GPADL still gets its answer.
  PostOpen(sub, 5);
  SendGpadl(sub, 12, 4);
  EXPECT_EQ(actions.Take<Offer>().header.type, kOfferChannel);  // of AddChannel above
  EXPECT_EQ(actions.Take<GpadlCreated>().gpadl, 12u);
}

TEST_F(MachineTest, AReleaseRightBehindTheCloseCountsOnceTheDeviceIsDone) {
  const uint32_t relid = Opened();
  machine.RemoveChannel(relid);
  PostRelid(kCloseChannel, relid);
  PostRelid(kRelidReleased, relid);  // the device has not let go yet
  EXPECT_TRUE(actions.removed.empty());
  machine.OnClosed(relid);
  EXPECT_EQ(actions.removed, std::vector<uint32_t>{relid});
}

TEST_F(MachineTest, UnloadWaitsForDevicesAndForgetsEverything) {
  const uint32_t relid = Opened();
  ASSERT_EQ(machine.AddSubChannels(relid, 1), 1u);
  actions.sent.clear();
  PostType(kUnload);
  EXPECT_TRUE(actions.sent.empty());
  machine.OnClosed(relid);
  EXPECT_EQ(actions.Take<Header>().type, kUnloadResponse);
  EXPECT_EQ(machine.gpadl_pages(), 0u);
  EXPECT_FALSE(machine.connected());
  PostType(kRequestOffers);
  EXPECT_TRUE(actions.sent.empty());
  // A new connection finds the primary again, and only it.
  Connect(kVersion4_0);
  PostType(kRequestOffers);
  EXPECT_EQ(actions.Take<Offer>().relid, relid);
  EXPECT_EQ(actions.Take<Header>().type, kAllOffersDelivered);
}

TEST_F(MachineTest, ContactInMidLifeIsAnsweredAfterTheOldRingsAreQuiet) {
  const uint32_t relid = Opened();
  Contact(kVersion5_3, 2);
  EXPECT_EQ(actions.closed, std::vector<uint32_t>{relid});
  EXPECT_TRUE(actions.sent.empty());
  machine.OnClosed(relid);
  EXPECT_EQ(actions.Take<VersionResponse>().supported, 1);
  EXPECT_EQ(actions.last_vp, 2u);
  EXPECT_EQ(actions.drops, 2);  // messages of the old connection must not arrive any more
  // Contact while a channel is still opening.
  PostType(kRequestOffers);
  actions.sent.clear();
  Gpadl(relid, 5, 8);
  PostOpen(relid, 5);
  Contact(kVersion5_3);
  EXPECT_TRUE(actions.sent.empty());
  machine.OnOpened(relid, true);
  EXPECT_TRUE(actions.sent.empty());
  machine.OnClosed(relid);
  EXPECT_EQ(actions.Take<VersionResponse>().supported, 1);
}

TEST_F(MachineTest, HostToGuestMessagesNeverReachAHandler) {
  Opened();
  for (const uint32_t type : {1u, 2u, 4u, 6u, 10u, 12u, 15u, 17u, 23u, 24u}) {
    std::array<std::byte, kMaxMessage> bytes{};
    std::memcpy(bytes.data(), &type, sizeof(type));
    machine.OnMessage(bytes);
  }
  EXPECT_EQ(Rejected("direction"), 10u);
  EXPECT_TRUE(actions.sent.empty());
}

TEST_F(MachineTest, ShortMessagesAreCountedAndIgnored) {
  Opened();
  const std::pair<uint32_t, size_t> sizes[] = {
      {kOpenChannel, sizeof(OpenChannel)},         {kCloseChannel, sizeof(RelidMessage)},
      {kGpadlHeader, sizeof(GpadlHeader)},         {kGpadlBody, sizeof(GpadlBody)},
      {kGpadlTeardown, sizeof(GpadlTeardown)},     {kRelidReleased, sizeof(RelidMessage)},
      {kInitiateContact, sizeof(InitiateContact)}, {kModifyChannel, sizeof(ModifyChannel)}};
  uint64_t expected = 0;
  for (const auto& [type, size] : sizes) {
    std::array<std::byte, kMaxMessage> bytes{};
    std::memcpy(bytes.data(), &type, sizeof(type));
    for (const size_t length : {size_t{0}, size_t{4}, size - 1}) {
      machine.OnMessage(std::span(bytes).first(length));
      ++expected;
    }
  }
  EXPECT_EQ(Rejected("size"), expected);
  EXPECT_TRUE(actions.sent.empty());
  EXPECT_EQ(machine.open_channels(), 1u);
}

TEST_F(MachineTest, GpadlsThatLieAreRefusedWithAnAnswer) {
  const uint32_t relid = Offered();
  struct Case {
    const char* what;
    uint16_t length, ranges;
    uint32_t bytes, offset;
  };
  const Case cases[] = {
      {"no range", 16, 0, kRingPage, 0},
      {"two ranges", 16, 2, kRingPage, 0},
      {"no bytes", 16, 1, 0, 0},
      {"offset beyond a page", 16, 1, kRingPage, kRingPage},
      {"length too short for the pages", 16, 1, 3 * kRingPage, 0},
      {"length too long for the pages", 64, 1, kRingPage, 0},
      {"more pages than the length can say", 8, 1, 0xFFFFF000, 0},
      {"count that wraps", 8, 1, 0xFFFFFFFF, 4095},
  };
  for (const Case& c : cases) {
    GpadlHeader header{};
    header.header.type = kGpadlHeader;
    header.relid = relid;
    header.gpadl = 50;
    header.range_buffer_length = c.length;
    header.range_count = c.ranges;
    header.byte_count = c.bytes;
    header.byte_offset = c.offset;
    Post(header);
    EXPECT_NE(actions.Take<GpadlCreated>().status, 0u) << c.what;
  }
  Gpadl(relid, 51, 4);
  SendGpadl(relid, 51, 4);  // the handle is taken
  EXPECT_NE(actions.Take<GpadlCreated>().status, 0u);
  SendGpadl(999, 52, 4);  // no such channel
  EXPECT_NE(actions.Take<GpadlCreated>().status, 0u);
  Teardown(relid, 4711);  // unknown, but the guest waits
  EXPECT_EQ(actions.Take<GpadlTorndown>().gpadl, 4711u);
}

TEST_F(MachineTest, GpadlCapsHoldAndAreGivenBack) {
  const uint32_t relid = Offered();
  for (uint32_t i = 0; i < 5000; ++i) SendGpadl(relid, 1000 + i, 60);
  EXPECT_GT(Rejected("limit"), 0u);
  EXPECT_LE(machine.gpadl_pages(), 262144u);
  actions.sent.clear();
  for (uint32_t i = 0; i < 5000; ++i) Teardown(relid, 1000 + i);
  EXPECT_EQ(machine.gpadl_pages(), 0u);
}

// Random messages of plausible and implausible shape: the machine stays within its caps, answers no
// more than it is asked, and a fresh contact always works afterwards.
TEST_F(MachineTest, RandomMessagesLeaveItSound) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    machine.AddChannel({.type = kScsiClass});
    for (int i = 0; i < 500; ++i) {
      std::array<std::byte, kMaxMessage> bytes{};
      for (auto& b : bytes) b = static_cast<std::byte>(random() % 4 == 0 ? random() : random() % 3);
      const auto type = static_cast<uint32_t>(random() % 28);
      std::memcpy(bytes.data(), &type, sizeof(type));
      const auto relid = static_cast<uint32_t>(random() % 8);
      std::memcpy(bytes.data() + 8, &relid, sizeof(relid));
      machine.OnMessage(std::span(bytes).first(random() % (kMaxMessage + 1)));
      while (!actions.opened.empty()) {
        machine.OnOpened(actions.opened.back().relid, random() % 4 != 0);
        actions.opened.pop_back();
      }
      while (!actions.closed.empty()) {
        machine.OnClosed(actions.closed.back());
        actions.closed.pop_back();
      }
    }
    EXPECT_LE(machine.gpadl_pages(), 262144u);
    actions.sent.clear();
  }
  Contact(kVersion5_3);
  EXPECT_EQ(actions.Take<VersionResponse>().supported, 1);
}

}  // namespace
}  // namespace partita::vmbus
