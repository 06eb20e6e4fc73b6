#include "vsc/guest/hostile.h"

#include <atomic>

#include "vmbus/protocol/storage_protocol.h"
#include "vsc/guest/runtime.h"
#include "vsc/storage_vsc.h"

namespace partita::guest {
namespace {

namespace proto = vmbus::storage;
using vmbus::client::Channel;
using vmbus::client::Connection;
using vmbus::client::Result;

constexpr size_t kRingPages = 34;
constexpr uint32_t kMessageTypes = 30;  // one more than the newest is

struct Random {
  uint64_t state;
  uint64_t Next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(Next() % bound); }
};

class Attack {
 public:
  void Run();

 private:
  void Post(uint32_t connection_id, const void* payload, size_t size);
  void Drain();
  void PagesOutsideRam();
  void Messages(uint32_t rounds, bool keep_contact);
  void UnreadAnswers();
  void Doorbells();
  void Gpadls();
  void Rings();
  void BreakRing(uint32_t kind);
  void LyingPacket();
  void AwaitReader();
  Connection& Reconnect();
  Result Open(Connection& connection);
  void ReadDisk();

  GuestTransport transport_{0};
  Random random_{NumberArgument("seed", 1) * 2 + 1};
  Connection* connection_ = nullptr;
  Channel channel_;
  std::byte* ring_ = Allocate(kRingPages * 4096);
  std::byte** list_ = reinterpret_cast<std::byte**>(Allocate(kRingPages * sizeof(std::byte*)));
  std::byte* buffer_ = Allocate(4096);
  std::byte* page_ = Allocate(4096);
  std::byte* connection_memory_ = Allocate(sizeof(Connection));
  uint64_t posted_ = 0, refused_ = 0, faults_ = 0, drained_ = 0, opened_ = 0;
};

void Attack::Post(uint32_t connection_id, const void* payload, size_t size) {
  ++posted_;
  if (transport_.Post(connection_id, payload, size) != 0) ++refused_;
}

void Attack::Drain() {
  std::byte message[vmbus::kMaxMessage];
  while (transport_.Receive(message)) ++drained_;
}

void Attack::PagesOutsideRam() {
  constexpr uint64_t kFar = uint64_t{1} << 45;
  for (const uint32_t msr : {hv::kMsrSimp, hv::kMsrSiefp, hv::kMsrVpAssistPage,
                             hv::kMsrReferenceTsc, hv::kMsrHypercall}) {
    const uint64_t before = Call(kSysReadMsr, msr);
    for (const uint64_t page : {kFar, ~uint64_t{0xFFF}, uint64_t{0xFEE00000}}) {
      if (Call(kSysTryWriteMsr, msr, page | hv::kMsrPageEnable) == 0) ++faults_;
    }
    Call(kSysTryWriteMsr, msr, before);
  }
  // SINTs with vectors the architecture reserves, and numbers that are no MSR of ours.
  for (const uint64_t vector : {0, 1, 15}) {
    if (Call(kSysTryWriteMsr, hv::kMsrSint0 + 5, vector) == 0) ++faults_;
  }
  for (const uint32_t msr : {0x400000F0u, 0x400001FFu, 0x40000011u}) {
    if (Call(kSysTryWriteMsr, msr, ~uint64_t{0}) == 0) ++faults_;
  }
}

// Every type with every kind of size and random contents, often with plausible ids. Under contact
// those that would end it are left out, so that the rest meets tables with something in them.
void Attack::Messages(uint32_t rounds, bool keep_contact) {
  for (uint32_t round = 0; round < rounds; ++round) {
    for (uint32_t type = 0; type <= kMessageTypes; ++type) {
      if (keep_contact && (type == vmbus::kInitiateContact || type == vmbus::kUnload)) continue;
      uint64_t words[vmbus::kMaxMessage / 8];
      for (uint64_t& word : words) {
        word = random_.Below(3) == 0 ? random_.Next() : random_.Below(4);
      }
      const uint64_t header = type;
      words[0] = header;
      const uint32_t sizes[] = {
          0, 4, 8, 12, 20, 40, random_.Below(vmbus::kMaxMessage + 1), vmbus::kMaxMessage};
      Post(random_.Below(8) == 0 ? static_cast<uint32_t>(random_.Next()) : 1 + 3 * random_.Below(2),
           words, sizes[round % 8]);
      Drain();
    }
  }
}

// Asks for far more answers than the slot holds and looks at none of them.
void Attack::UnreadAnswers() {
  vmbus::Header request{};
  request.type = vmbus::kRequestOffers;
  for (int i = 0; i < 1000; ++i) Post(vmbus::kMessageConnection5, &request, sizeof(request));
  vmbus::InitiateContact contact{};
  contact.header.type = vmbus::kInitiateContact;
  contact.version = vmbus::kVersion5_3;
  contact.interrupt_page_or_target = hv::kVmbusSint;
  for (int i = 0; i < 10000; ++i) Post(vmbus::kMessageConnection5, &contact, sizeof(contact));
}

void Attack::Doorbells() {
  for (uint32_t i = 0; i < 3000; ++i)
    transport_.Signal(i < 2500 ? i : static_cast<uint32_t>(random_.Next()));
}

// Announces GPADLs of pages that do not exist, whole and in part, until the parent has had enough.
void Attack::Gpadls() {
  for (uint32_t i = 0; i < 6000; ++i) {
    alignas(8) std::byte bytes[vmbus::kMaxMessage] = {};
    vmbus::GpadlHeader header{};
    header.header.type = vmbus::kGpadlHeader;
    header.relid = 1;
    header.gpadl = 0x10000 + i;
    const uint32_t pages = i % 2 == 0 ? 8000 : 20;
    header.range_buffer_length = static_cast<uint16_t>(8 + 8 * pages);
    header.range_count = 1;
    header.byte_count = pages * 4096;
    memcpy(bytes, &header, sizeof(header));
    for (size_t at = sizeof(header); at + 8 <= sizeof(bytes); at += 8) {
      const uint64_t pfn = random_.Next();
      memcpy(bytes + at, &pfn, sizeof(pfn));
    }
    Post(vmbus::kMessageConnection5, bytes, sizeof(bytes));
    Drain();
  }
}

Connection& Attack::Reconnect() {
  Drain();
  connection_ = new (connection_memory_) Connection(transport_);
  if (connection_->Connect(vmbus::kVersion5_3, 0) != Result::kOk) Fail("no new contact");
  if (connection_->RequestOffers() != Result::kOk) Fail("no offers after a new contact");
  return *connection_;
}

Result Attack::Open(Connection& connection) {
  const vmbus::Offer* offer = connection.Await(vmbus::kScsiClass, 0);
  if (offer == nullptr) Fail("the controller is gone");
  return channel_.Open(connection, transport_, *offer, ring_, kRingPages, list_, {buffer_, 4096},
                       0);
}

// Something that no writer of a ring would leave in it.
void Attack::BreakRing(uint32_t kind) {
  auto* control = reinterpret_cast<vmbus::RingControl*>(ring_);
  std::byte* data = ring_ + 4096;
  const uint32_t size = (kRingPages / 2 - 1) * 4096;
  vmbus::PacketDescriptor descriptor{};
  descriptor.type = vmbus::kPacketInBand;
  descriptor.offset8 = 2;
  descriptor.length8 = 8;
  descriptor.flags = vmbus::kCompletionRequested;
  uint32_t write_index = 80;
  switch (kind % 10) {
    case 0:
      write_index = size;
      break;
    case 1:
      write_index = 0xFFFFFFF8;
      break;
    case 2:
      write_index = 13;
      break;
    case 3:
      descriptor.length8 = 0;
      break;
    case 4:
      descriptor.length8 = 0xFFFF;
      break;
    case 5:
      descriptor.offset8 = 9;
      break;
    case 6:
      descriptor.offset8 = 1;
      break;
    case 7:
      write_index = 8;
      break;
    case 8:
      control->read_index = 0xFFFFFFFF;
      break;
    default:
      for (size_t i = 0; i < 4096; ++i) data[i] = static_cast<std::byte>(random_.Next());
      write_index = random_.Below(size) & ~7u;
      break;
  }
  if (kind % 10 != 9) memcpy(data, &descriptor, sizeof(descriptor));
  std::atomic_ref<uint32_t>(control->write_index).store(write_index);
}

// A well-formed packet whose contents lie.
void Attack::LyingPacket() {
  proto::Packet packet{};
  auto* bytes = reinterpret_cast<uint8_t*>(&packet);
  const bool wild = random_.Below(4) == 0;
  if (wild) {
    for (size_t i = 0; i < sizeof(packet); ++i) bytes[i] = static_cast<uint8_t>(random_.Next());
  }
  packet.operation = wild ? random_.Below(20) : proto::kExecuteSrb;
  if (!wild) {
    constexpr uint8_t kOpcodes[] = {0x28, 0x2A, 0x88, 0x8A, 0x42, 0x93,
                                    0x12, 0xA0, 0x1A, 0x35, 0x2F, 0xFF};
    packet.srb.cdb_length = static_cast<uint8_t>(random_.Below(3) == 0 ? random_.Next() : 16);
    packet.srb.cdb_or_sense[0] = kOpcodes[random_.Below(sizeof(kOpcodes))];
    for (size_t i = 1; i < 16; ++i) {
      packet.srb.cdb_or_sense[i] = static_cast<uint8_t>(random_.Below(2) == 0 ? random_.Next() : 0);
    }
    packet.srb.lun = static_cast<uint8_t>(random_.Below(3) == 0 ? random_.Next() : 0);
    packet.srb.data_length = random_.Below(2) == 0 ? static_cast<uint32_t>(random_.Next()) : 4096;
  }
  struct {
    vmbus::GpaDirectHeader header;
    vmbus::GpaRange range;
    uint64_t pfns[4];
  } gpa{};
  gpa.header.range_count = random_.Below(3) == 0 ? static_cast<uint32_t>(random_.Next()) : 1;
  gpa.range.byte_count = random_.Below(2) == 0 ? static_cast<uint32_t>(random_.Next()) : 16384;
  gpa.range.byte_offset = random_.Below(3) == 0 ? static_cast<uint32_t>(random_.Next()) : 0;
  for (uint64_t& pfn : gpa.pfns) {
    pfn = random_.Below(2) == 0 ? random_.Next() : transport_.PfnOf(page_);
  }
  const auto* payload = reinterpret_cast<const std::byte*>(&packet);
  const size_t size = random_.Below(4) == 0 ? random_.Below(sizeof(packet)) : sizeof(packet);
  const bool direct = random_.Below(3) != 0;
  const size_t headers = random_.Below(4) == 0 ? random_.Below(sizeof(gpa)) & ~7u : sizeof(gpa);
  static_cast<void>(channel_.writer().Write(
      direct ? vmbus::kPacketGpaDirect : vmbus::kPacketInBand, vmbus::kCompletionRequested, 77,
      {reinterpret_cast<const std::byte*>(&gpa), direct ? headers : 0}, {payload, size}));
}

// Until the parent has read all packets; not for ever, in case it gave the ring up.
void Attack::AwaitReader() {
  auto* control = reinterpret_cast<vmbus::RingControl*>(ring_);
  const uint64_t deadline = Tsc() + TscHz();
  while (Tsc() < deadline && std::atomic_ref<uint32_t>(control->read_index).load() !=
                                 std::atomic_ref<uint32_t>(control->write_index).load()) {
    asm volatile("pause");
  }
}

void Attack::Rings() {
  for (uint32_t round = 0; round < 60; ++round) {
    Connection& connection = Reconnect();
    if (Open(connection) != Result::kOk) Fail("the channel does not open again");
    ++opened_;
    if (round % 2 == 0) {
      BreakRing(round / 2);
      transport_.Signal(vmbus::kChannelConnectionBase + channel_.relid());
    } else {
      vsc::StorageVsc storage(transport_, channel_);
      if (storage.Initialize() != Result::kOk) Fail("the controller does not initialise");
      for (int i = 0; i < 40; ++i) LyingPacket();
      channel_.Commit();
      // Now and then the channel goes before the parent has looked.
      if (round % 8 != 7) AwaitReader();
    }
    // Every other time the channel is left open: the next contact has to close it.
    if (round % 4 < 2) static_cast<void>(channel_.Close(connection));
  }
}

void Attack::ReadDisk() {
  Connection& connection = Reconnect();
  if (Open(connection) != Result::kOk) Fail("the channel does not open at the end");
  vsc::StorageVsc storage(transport_, channel_);
  vsc::DiskGeometry geometry;
  if (storage.Initialize() != Result::kOk) Fail("no controller at the end");
  if (storage.ReadCapacity(0, page_, &geometry) != Result::kOk) Fail("no disk at the end");
  vsc::Completion completion;
  const uint8_t cdb[16] = {0x28, 0, 0, 0, 0, 0, 0, 0, 8};
  if (storage.Execute(0, cdb, {page_, 8 * geometry.block_size}, true, &completion) != Result::kOk ||
      !completion.ok) {
    Fail("the disk does not answer at the end");
  }
  JsonLine("disk").Number("first", static_cast<uint64_t>(page_[0]));
}

void Attack::Run() {
  PagesOutsideRam();
  Messages(16, false);  // before any contact
  Reconnect();
  Messages(64, true);
  Messages(32, false);
  Reconnect();
  UnreadAnswers();
  Reconnect();
  Gpadls();
  Doorbells();
  Rings();
  ReadDisk();
  JsonLine("hostile")
      .Number("posted", posted_)
      .Number("refused", refused_)
      .Number("faults", faults_)
      .Number("drained", drained_)
      .Number("opened", opened_);
}

}  // namespace

void RunHostile() {
  auto* attack = new (Allocate(sizeof(Attack))) Attack();
  attack->Run();
}

}  // namespace partita::guest
