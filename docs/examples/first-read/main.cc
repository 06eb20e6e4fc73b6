// The shortest complete VSC: from CPUID to the first sector of disk 0. One processor, ring 0,
// interrupts. docs/writing-a-vsc.md explains each step; its numbers are the comments here.
#include <atomic>

#include "base/hyperv_abi.h"
#include "vmbus/client/connection.h"
#include "vsc/storage_vsc.h"

// What the compiler and the library call; a kernel has these already.
extern "C" {
void* memcpy(void* to, const void* from, size_t size) {
  void* result = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
  return result;
}
void* memset(void* to, int value, size_t size) {
  void* result = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return result;
}
int memcmp(const void* a, const void* b, size_t size) {
  const auto* x = static_cast<const unsigned char*>(a);
  const auto* y = static_cast<const unsigned char*>(b);
  for (size_t i = 0; i < size; ++i) {
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  }
  return 0;
}
void interrupt_entry();
volatile uint64_t interrupts = 0;
}

namespace {

namespace hv = partita::hv;
namespace vmbus = partita::vmbus;
using vmbus::client::Channel;
using vmbus::client::Connection;
using vmbus::client::Result;

constexpr uint8_t kVector = 0x60;
constexpr size_t kRingPages = 18;  // eight pages of data and a control page each way

alignas(4096) std::byte hypercall_page[4096];
alignas(4096) std::byte message_page[4096];
alignas(4096) std::byte event_page[4096];
alignas(4096) std::byte ring[kRingPages * 4096];
alignas(4096) std::byte sector[4096];
alignas(8) std::byte packet_buffer[4096];
alignas(256) hv::PostMessageInput post_input;
std::byte* ring_page_list[kRingPages];
struct Gate {
  uint64_t low, high;
};
Gate idt[256];

void Out(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" ::"a"(value), "d"(port)); }
void Print(const char* text) {
  while (*text != 0) Out(0x3F8, static_cast<uint8_t>(*text++));
}
[[noreturn]] void PowerOff() {
  Out(0x600, (5 << 2) | (1 << 5));  // ACPI sleep register: S5
  while (true) asm volatile("cli; hlt");
}
[[noreturn]] void Fail(const char* why) {
  Print("failed: ");
  Print(why);
  Print("\n");
  PowerOff();
}
void WriteMsr(uint32_t msr, uint64_t value) {
  asm volatile("wrmsr" ::"c"(msr), "a"(static_cast<uint32_t>(value)),
               "d"(static_cast<uint32_t>(value >> 32))
               : "memory");
}
uint64_t ReadMsr(uint32_t msr) {
  uint32_t low = 0, high = 0;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return uint64_t{high} << 32 | low;
}
uint64_t Address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

// 1. Is this Hyper-V, or something that looks like it?
void Detect() {
  uint32_t a = 1, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
  if ((c >> 31) == 0) Fail("no hypervisor");
  a = hv::kCpuidVendor;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
  const uint32_t vendor[3] = {b, c, d};
  if (memcmp(vendor, "Microsoft Hv", sizeof(vendor)) != 0) Fail("not Hyper-V");
  a = hv::kCpuidInterface;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
  if (a != hv::kInterfaceSignature) Fail("no Hv#1 interface");
}

// 2. and 3. The hypercall page, and this processor's SynIC.
void SetUpHypervisor() {
  WriteMsr(hv::kMsrGuestOsId, 0x8100ull << 48);  // an open-source system
  WriteMsr(hv::kMsrHypercall, Address(hypercall_page) | hv::kMsrPageEnable);
  const uint64_t handler = Address(reinterpret_cast<const void*>(&interrupt_entry));
  constexpr uint64_t kInterruptGate = 0x8E00ull << 32 | 0x08ull << 16;  // present, segment 0x08
  idt[kVector] = {kInterruptGate | (handler & 0xFFFF) | (handler >> 16 & 0xFFFF) << 48,
                  handler >> 32};
  struct [[gnu::packed]] {
    uint16_t limit;
    uint64_t base;
  } pointer = {sizeof(idt) - 1, Address(idt)};
  asm volatile("lidt %0" ::"m"(pointer));
  constexpr uint32_t kApicBase = 0x1B, kApicSpurious = 0x80F;
  WriteMsr(kApicBase, ReadMsr(kApicBase) | 0xC00);  // x2APIC
  WriteMsr(kApicSpurious, 0x1FF);
  WriteMsr(hv::kMsrSimp, Address(message_page) | hv::kMsrPageEnable);
  WriteMsr(hv::kMsrSiefp, Address(event_page) | hv::kMsrPageEnable);
  WriteMsr(hv::kMsrSint0 + hv::kVmbusSint, kVector);
  WriteMsr(hv::kMsrScontrol, 1);
}

// 4. How the drivers reach the parent.
class Transport final : public vmbus::client::Transport {
 public:
  uint16_t Post(uint32_t connection_id, const void* payload, size_t size) override {
    post_input = {};
    post_input.connection_id = connection_id;
    post_input.message_type = hv::kMessageTypeVmbus;
    post_input.payload_size = static_cast<uint32_t>(size);
    memcpy(post_input.payload, payload, size);
    return static_cast<uint16_t>(Hypercall(hv::kCallPostMessage, Address(&post_input)));
  }
  void Signal(uint32_t connection_id) override {
    Hypercall(hv::kControlFast | hv::kCallSignalEvent, connection_id);
  }
  bool Receive(std::byte* out) override {
    auto* slot = reinterpret_cast<hv::Message*>(message_page) + hv::kVmbusSint;
    std::atomic_ref<uint32_t> type(slot->type);
    if (type.load() == 0) return false;
    memcpy(out, slot->payload, sizeof(slot->payload));
    type.store(0);  // the slot is free; only then ask for what was held back
    if ((std::atomic_ref<uint8_t>(slot->flags).load() & hv::kMessagePending) != 0) {
      WriteMsr(hv::kMsrEom, 0);
    }
    return true;
  }
  bool Wait() override {
    // Interrupts are off except in this one place: what came since the last look ends the halt.
    if (seen_ == interrupts) asm volatile("sti; hlt; cli" ::: "memory");
    seen_ = interrupts;
    // The event flags only say "look at your channel", which every caller does anyway.
    auto* flags = reinterpret_cast<uint64_t*>(event_page + hv::kVmbusSint * 256);
    for (int i = 0; i < 32; ++i) std::atomic_ref<uint64_t>(flags[i]).store(0);
    return true;
  }
  uint64_t PfnOf(const void* page) override { return Address(page) >> 12; }

 private:
  static uint64_t Hypercall(uint64_t control, uint64_t input) {
    uint64_t result = 0;
    register uint64_t output asm("r8") = 0;
    asm volatile("call *%[page]"
                 : "=a"(result), "+c"(control), "+d"(input), "+r"(output)
                 : [page] "r"(hypercall_page)
                 : "memory", "cc", "r9", "r10", "r11");
    return result;
  }
  uint64_t seen_ = 0;
};

void PrintHex(const std::byte* bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const auto value = static_cast<uint8_t>(bytes[i]);
    const char text[3] = {"0123456789abcdef"[value >> 4], "0123456789abcdef"[value & 15], 0};
    Print(text);
  }
  Print("\n");
}

}  // namespace

extern "C" [[noreturn]] void kernel_main() {
  Detect();
  SetUpHypervisor();
  // 5. Connect, and look for the SCSI controller. (Nobody runs static constructors here: the
  // objects are on the stack, which start.S makes large enough.)
  Transport transport;
  Connection connection(transport);
  Channel channel;
  if (connection.Connect(vmbus::kVersion5_3, 0) != Result::kOk) Fail("no VMBus");
  if (connection.RequestOffers() != Result::kOk) Fail("no offers");
  const vmbus::Offer* offer = connection.Find(vmbus::kScsiClass, 0);
  if (offer == nullptr) Fail("no SCSI controller");
  // 6. Its channel: two rings in one GPADL.
  if (channel.Open(connection, transport, *offer, ring, kRingPages, ring_page_list, packet_buffer,
                   0) != Result::kOk) {
    Fail("the channel does not open");
  }
  // 7. The device's own protocol.
  partita::vsc::StorageVsc disk(transport, channel);
  partita::vsc::DiskGeometry geometry;
  if (disk.Initialize() != Result::kOk) Fail("the controller does not answer");
  if (disk.ReadCapacity(0, sector, &geometry) != Result::kOk) Fail("no disk 0");
  if (disk.SubmitReadWrite(channel, 0, false, 0, 1, sector, geometry.block_size, 1) !=
      Result::kOk) {
    Fail("the ring is full");
  }
  channel.Commit();
  // 8. Wait: look at the ring, say that we sleep, look again, sleep.
  partita::vsc::Completion done;
  while (true) {
    const vmbus::RingStatus status = disk.Poll(channel, &done);
    if (status == vmbus::RingStatus::kOk) break;
    if (status != vmbus::RingStatus::kEmpty) Fail("the ring is broken");
    channel.Commit();
    if (!channel.reader().UnmaskAndCheck()) transport.Wait();
  }
  if (!done.ok) Fail("the read failed");
  Print("first sector: ");
  PrintHex(sector, 16);
  PowerOff();
}
