#include "vmbus/client/connection.h"

namespace partita::vmbus::client {
namespace {

constexpr uint32_t kVersions[] = {kVersion5_3, kVersion5_2, kVersion5_1, kVersion5_0,
                                  kVersion4_1, kVersion4_0, kVersion3_0};
constexpr uint16_t kTryAgain = 0x0013;       // HV_STATUS_INSUFFICIENT_BUFFERS
constexpr uint32_t kMaxPostTries = 100'000;  // each an exit: seconds, on any machine
constexpr uint8_t kVmbusSint = 2;

uint32_t TypeOf(const std::byte* message) {
  Header header;
  std::memcpy(&header, message, sizeof(header));
  return header.type;
}

}  // namespace

Result Connection::Post(const void* message, size_t size) {
  for (uint32_t i = 0; i < kMaxPostTries; ++i) {
    const uint16_t status = transport_.Post(message_connection_, message, size);
    if (status == 0) return Result::kOk;
    if (status != kTryAgain) return Result::kRefused;
    // The parent's queue is full: take what it has for us, then go on.
    Poll();
  }
  return Result::kNoRoom;
}

void Connection::Poll() {
  while (transport_.Receive(message_)) Handle();
}

void Connection::Handle() {
  if (TypeOf(message_) == kOfferChannel && offer_count_ < kMaxOffers) {
    std::memcpy(&offers_[offer_count_++], message_, sizeof(Offer));
  }
  if (TypeOf(message_) == kRescindChannelOffer && rescinded_count_ < kMaxOffers) {
    RelidMessage rescind;
    std::memcpy(&rescind, message_, sizeof(rescind));
    rescinded_[rescinded_count_++] = rescind.relid;
  }
}

Result Connection::AwaitMessage(MessageType type) {
  while (true) {
    while (transport_.Receive(message_)) {
      if (TypeOf(message_) == type) return Result::kOk;
      Handle();
    }
    if (!transport_.Wait()) return Result::kTimedOut;
  }
}

Result Connection::Connect(uint32_t newest, uint32_t target_vp) {
  for (const uint32_t version : kVersions) {
    if (version > newest) continue;
    const bool modern = version >= kVersion5_0;
    InitiateContact contact{};
    contact.header.type = kInitiateContact;
    contact.version = version;
    contact.target_vp = target_vp;
    contact.interrupt_page_or_target = modern ? kVmbusSint : 0;
    message_connection_ = modern ? kMessageConnection5 : kMessageConnection;
    if (Post(&contact, sizeof(contact)) != Result::kOk) continue;
    if (const Result result = AwaitMessage(kVersionResponse); result != Result::kOk) return result;
    VersionResponse response;
    std::memcpy(&response, message_, sizeof(response));
    if (response.supported == 0) continue;
    version_ = version;
    message_connection_ = modern ? response.message_connection : kMessageConnection;
    return Result::kOk;
  }
  return Result::kRefused;
}

Result Connection::RequestOffers() {
  Header request{};
  request.type = kRequestOffers;
  if (const Result result = Post(&request, sizeof(request)); result != Result::kOk) return result;
  return AwaitMessage(kAllOffersDelivered);
}

const Offer* Connection::Find(const Guid& type, uint16_t subchannel_index) const {
  for (const Offer& offer : offers()) {
    if (offer.interface_type == type && offer.subchannel_index == subchannel_index) return &offer;
  }
  return nullptr;
}

const Offer* Connection::Await(const Guid& type, uint16_t subchannel_index) {
  while (true) {
    if (const Offer* offer = Find(type, subchannel_index)) return offer;
    if (transport_.Receive(message_)) {
      Handle();
    } else if (!transport_.Wait()) {
      return nullptr;
    }
  }
}

Result Connection::CreateGpadl(uint32_t relid, const void* memory, size_t pages, uint32_t* handle) {
  alignas(8) std::byte bytes[kMaxMessage];
  const auto* at = static_cast<const std::byte*>(memory);
  constexpr size_t kMaxPages = 8190;  // the range-buffer length has 16 bits
  if (pages == 0 || pages > kMaxPages) return Result::kNoRoom;
  *handle = next_gpadl_++;
  GpadlHeader header{};
  header.header.type = kGpadlHeader;
  header.relid = relid;
  header.gpadl = *handle;
  header.range_buffer_length = static_cast<uint16_t>(8 + 8 * pages);
  header.range_count = 1;
  header.byte_count = static_cast<uint32_t>(pages * kRingPage);
  GpadlBody body{};
  body.header.type = kGpadlBody;
  body.gpadl = *handle;
  size_t sent = 0;
  bool first = true;
  while (sent < pages) {
    const size_t head = first ? sizeof(header) : sizeof(body);
    const size_t room = first ? kGpadlHeaderPfns : kGpadlBodyPfns;
    std::memcpy(bytes, first ? static_cast<const void*>(&header) : &body, head);
    size_t count = 0;
    for (; count < room && sent < pages; ++count, ++sent) {
      const uint64_t pfn = transport_.PfnOf(at + sent * kRingPage);
      std::memcpy(bytes + head + count * sizeof(pfn), &pfn, sizeof(pfn));
    }
    const Result result = Post(bytes, head + count * sizeof(uint64_t));
    if (result != Result::kOk) return result;
    first = false;
  }
  if (const Result result = AwaitMessage(kGpadlCreated); result != Result::kOk) return result;
  GpadlCreated created;
  std::memcpy(&created, message_, sizeof(created));
  return created.status == 0 && created.gpadl == *handle ? Result::kOk : Result::kRefused;
}

Result Connection::TearDownGpadl(uint32_t relid, uint32_t handle) {
  GpadlTeardown request{};
  request.header.type = kGpadlTeardown;
  request.relid = relid;
  request.gpadl = handle;
  if (const Result result = Post(&request, sizeof(request)); result != Result::kOk) return result;
  return AwaitMessage(kGpadlTorndown);
}

Result Connection::Open(const Offer& offer, uint32_t gpadl, uint32_t send_pages,
                        uint32_t target_vp) {
  OpenChannel request{};
  request.header.type = kOpenChannel;
  request.relid = offer.relid;
  request.open_id = offer.relid;
  request.gpadl = gpadl;
  request.target_vp = target_vp;
  request.downstream_page_offset = send_pages;
  if (const Result result = Post(&request, sizeof(request)); result != Result::kOk) return result;
  if (const Result result = AwaitMessage(kOpenChannelResult); result != Result::kOk) return result;
  OpenChannelResult opened;
  std::memcpy(&opened, message_, sizeof(opened));
  return opened.status == 0 ? Result::kOk : Result::kRefused;
}

void Connection::Close(uint32_t relid) {
  RelidMessage request{};
  request.header.type = kCloseChannel;
  request.relid = relid;
  static_cast<void>(Post(&request, sizeof(request)));
}

uint32_t Connection::AwaitRescind() {
  while (rescinded_count_ == 0) {
    Poll();
    if (rescinded_count_ == 0 && !transport_.Wait()) return 0;
  }
  return TakeRescind();
}

uint32_t Connection::TakeRescind() {
  if (rescinded_count_ == 0) return 0;
  const uint32_t relid = rescinded_[0];
  for (size_t i = 1; i < rescinded_count_; ++i) rescinded_[i - 1] = rescinded_[i];
  --rescinded_count_;
  return relid;
}

Result Connection::Release(uint32_t relid) {
  for (size_t i = 0; i < offer_count_; ++i) {
    if (offers_[i].relid == relid) {
      for (size_t next = i + 1; next < offer_count_; ++next) offers_[next - 1] = offers_[next];
      --offer_count_;
      break;
    }
  }
  RelidMessage released{};
  released.header.type = kRelidReleased;
  released.relid = relid;
  return Post(&released, sizeof(released));
}

Result Connection::Unload() {
  Header request{};
  request.type = kUnload;
  if (const Result result = Post(&request, sizeof(request)); result != Result::kOk) return result;
  offer_count_ = rescinded_count_ = 0;
  return AwaitMessage(kUnloadResponse);
}

Result Channel::Open(Connection& connection, Transport& transport, const Offer& offer,
                     std::byte* memory, size_t pages, std::byte** page_list,
                     std::span<std::byte> buffer, uint32_t target_vp) {
  constexpr size_t kFewestPages = 4;  // a control page and one of data, each way
  if (pages < kFewestPages) return Result::kInvalid;
  transport_ = &transport;
  relid_ = offer.relid;
  connection_id_ = offer.connection_id;
  const size_t half = pages / 2;
  std::memset(memory, 0, pages * kRingPage);
  for (size_t i = 0; i < pages; ++i) page_list[i] = memory + i * kRingPage;
  const auto size = static_cast<uint32_t>((half - 1) * kRingPage);
  auto ring = [&](size_t first) {
    RingMemory memory_of;
    memory_of.control = reinterpret_cast<RingControl*>(page_list[first]);
    memory_of.control->feature_bits = kFeaturePendingSend;
    memory_of.pages = std::span<std::byte* const>(page_list + first + 1, half - 1);
    memory_of.size = size;
    return memory_of;
  };
  writer_ = RingWriter(ring(0));
  reader_ = RingReader(ring(half), buffer);
  Result result = connection.CreateGpadl(relid_, memory, half * 2, &gpadl_);
  if (result != Result::kOk) return result;
  result = connection.Open(offer, gpadl_, static_cast<uint32_t>(half), target_vp);
  // The memory is the caller's again, whatever the parent thinks of the channel.
  if (result != Result::kOk) static_cast<void>(connection.TearDownGpadl(relid_, gpadl_));
  return result;
}

Result Channel::Close(Connection& connection) {
  connection.Close(relid_);
  return connection.TearDownGpadl(relid_, gpadl_);
}

void Channel::Commit() {
  bool signal = reader_.Commit();
  if (writer_.Commit()) signal = true;
  if (signal) {
    ++doorbells_;
    transport_->Signal(connection_id_);
  }
}

bool Channel::AwaitPacket() {
  if (!reader_.masked()) return reader_.Available() || transport_->Wait();
  const bool arrived = reader_.UnmaskAndCheck() || transport_->Wait();
  reader_.MaskInterrupts();
  return arrived;
}

}  // namespace partita::vmbus::client
