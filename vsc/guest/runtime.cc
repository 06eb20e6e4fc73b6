#include "vsc/guest/runtime.h"

#include <bits/functexcept.h>

#include <atomic>

extern "C" {
extern std::byte kernel_stacks[];

// What the compiler calls on its own.
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
  const auto* x = static_cast<const uint8_t*>(a);
  const auto* y = static_cast<const uint8_t*>(b);
  for (size_t i = 0; i < size; ++i) {
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  }
  return 0;
}
void* memmove(void* to, const void* from, size_t size) {
  if (to <= from) return memcpy(to, from, size);
  auto* d = static_cast<uint8_t*>(to);
  const auto* s = static_cast<const uint8_t*>(from);
  while (size-- > 0) d[size] = s[size];
  return to;
}
// (Under another name here: glibc declares memchr with C++ overloads.)
const void* FindByte(const void* from, int value, size_t size) asm("memchr");
const void* FindByte(const void* from, int value, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  for (size_t i = 0; i < size; ++i) {
    if (bytes[i] == static_cast<uint8_t>(value)) return bytes + i;
  }
  return nullptr;
}
size_t strlen(const char* text) {
  size_t size = 0;
  while (text[size] != 0) ++size;
  return size;
}
}

// libstdc++'s string_view reports a bad position through this.
namespace std {
void __throw_out_of_range_fmt(const char*, ...) { partita::guest::Fail("a position out of range"); }
}  // namespace std

namespace partita::guest {

void Print(std::string_view text) {
  for (const char c : text) asm volatile("outb %0, %w1" ::"a"(c), "d"(0x3F8));
}

void JsonLine::Key(std::string_view key) {
  Print(first_ ? "{\"" : ",\"");
  first_ = false;
  Print(key);
  Print("\":");
}
JsonLine& JsonLine::Number(std::string_view key, uint64_t value) {
  Key(key);
  char digits[20];
  size_t at = sizeof(digits);
  do {
    digits[--at] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  Print({digits + at, sizeof(digits) - at});
  return *this;
}
JsonLine& JsonLine::Text(std::string_view key, std::string_view value) {
  Key(key);
  Print("\"");
  Print(value);
  Print("\"");
  return *this;
}
JsonLine::~JsonLine() { Print("}\n"); }

void PowerOff() {
  Call(kSysPowerOff);
  __builtin_unreachable();
}
void Fail(std::string_view why) {
  JsonLine("error").Text("why", why);
  PowerOff();
}

std::byte* Allocate(size_t bytes) {
  const uint64_t start = system_info.heap;
  const uint64_t end = (start + bytes + 4095) & ~uint64_t{4095};
  if (end > system_info.memory_end) Fail("out of memory");
  system_info.heap = end;
  return reinterpret_cast<std::byte*>(start);
}

std::string_view Argument(std::string_view key) {
  std::string_view rest = system_info.command_line;
  while (!rest.empty()) {
    const size_t space = rest.find(' ');
    const std::string_view word = rest.substr(0, space);
    if (word.size() > key.size() && word.substr(0, key.size()) == key && word[key.size()] == '=') {
      return word.substr(key.size() + 1);
    }
    if (space == std::string_view::npos) break;
    rest.remove_prefix(space + 1);
  }
  return {};
}
uint64_t NumberArgument(std::string_view key, uint64_t otherwise) {
  const std::string_view text = Argument(key);
  if (text.empty()) return otherwise;
  uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') Fail("a number on the command line is not one");
    value = value * 10 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

uint64_t TscHz() { return Call(kSysReadMsr, hv::kMsrTscFrequency); }

uint64_t Interrupts(uint32_t vp) {
  return reinterpret_cast<const PerVp*>(kernel_stacks + vp * kKernelStack)->interrupts;
}
void WaitForInterrupt(uint64_t seen) { Call(kSysWait, seen); }

GuestTransport::GuestTransport(uint32_t vp)
    : vp_(vp), input_(reinterpret_cast<hv::PostMessageInput*>(Allocate(4096))) {
  // KVM's own hypercall page begins with VMCALL or VMMCALL (0F 01 ..), ours with ENDBR64.
  ring0_only_ = system_info.hypercall_page[0] == std::byte{0x0F} &&
                system_info.hypercall_page[1] == std::byte{0x01};
}

uint64_t GuestTransport::Hypercall(uint64_t control, uint64_t input, uint64_t output) {
  if (ring0_only_) return Call(kSysHypercall, control, input, output);
  uint64_t result = 0;
  register uint64_t r8 asm("r8") = output;
  asm volatile("call *%1"
               : "=a"(result)
               : "r"(system_info.hypercall_page), "c"(control), "d"(input), "r"(r8)
               : "memory", "cc");
  return result;
}

uint16_t GuestTransport::Post(uint32_t connection_id, const void* payload, size_t size) {
  input_->connection_id = connection_id;
  input_->reserved = 0;
  input_->message_type = hv::kMessageTypeVmbus;
  input_->payload_size = static_cast<uint32_t>(size);
  memcpy(input_->payload, payload, size);
  return static_cast<uint16_t>(
      Hypercall(hv::kCallPostMessage, reinterpret_cast<uintptr_t>(input_), 0));
}

void GuestTransport::Signal(uint32_t connection_id) {
  Hypercall(hv::kControlFast | hv::kCallSignalEvent, connection_id, 0);
}

bool GuestTransport::Receive(std::byte* out) {
  auto* slot = reinterpret_cast<hv::Message*>(system_info.message_pages + vp_ * 4096 +
                                              hv::kVmbusSint * sizeof(hv::Message));
  std::atomic_ref<uint32_t> type(slot->type);
  if (type.load() == 0) return false;
  memcpy(out, slot->payload, vmbus::kMaxMessage);
  type.store(0);
  if ((std::atomic_ref<uint8_t>(slot->flags).load() & hv::kMessagePending) != 0) {
    Call(kSysWriteMsr, hv::kMsrEom, 0);
  }
  return true;
}

bool GuestTransport::Wait() {
  ClearEvents();
  const uint64_t now = Interrupts(vp_);
  if (now == seen_) {
    WaitForInterrupt(seen_);
    seen_ = Interrupts(vp_);
  } else {
    seen_ = now;  // something came since the last look: look first
  }
  return true;
}

bool GuestTransport::TakeEvent(uint32_t relid) {
  auto* word = reinterpret_cast<uint64_t*>(system_info.event_pages + vp_ * 4096 +
                                           hv::kVmbusSint * 256 + relid / 64 * 8);
  const uint64_t bit = uint64_t{1} << (relid % 64);
  std::atomic_ref<uint64_t> flags(*word);
  return (flags.load() & bit) != 0 && (flags.fetch_and(~bit) & bit) != 0;
}

void GuestTransport::ClearEvents() {
  auto* words =
      reinterpret_cast<uint64_t*>(system_info.event_pages + vp_ * 4096 + hv::kVmbusSint * 256);
  for (size_t i = 0; i < 32; ++i) {
    std::atomic_ref<uint64_t> flags(words[i]);
    if (flags.load() != 0) flags.exchange(0);
  }
}

}  // namespace partita::guest
