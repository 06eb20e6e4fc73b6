// Ring 0 of the enlightened guest: tables, SynIC set-up, application processors, system calls.
// Compiled without SSE and kept short, because hosts with a paravirtual KVM interpret it.
#include "base/hyperv_abi.h"
#include "vsc/guest/guest_abi.h"

namespace partita::guest {

void UserMain(uint64_t vp);  // ring 3, VP 0

namespace {

constexpr uint32_t kMsrApicBase = 0x1B;
constexpr uint32_t kMsrX2ApicSpurious = 0x80F;
constexpr uint32_t kMsrX2ApicIcr = 0x830;
constexpr uint64_t kGuestOsId = 0x8100ull << 48;  // "open source", as the TLFS asks of such systems
constexpr uintptr_t kTrampoline = 0x8000;
constexpr size_t kIoBitmap = 0x2800 / 8 + 1;  // serial port, power, hypercall and doorbell ports

struct [[gnu::packed]] Tss {
  uint32_t reserved;
  uint64_t rsp0;
  uint64_t rsp12[2];
  uint64_t reserved2;
  uint64_t ist[7];
  uint64_t reserved3;
  uint16_t reserved4;
  uint16_t io_bitmap;
  uint8_t bitmap[kIoBitmap];
};
struct [[gnu::packed]] TablePointer {
  uint16_t limit;
  uint64_t base;
};
struct Gate {
  uint16_t offset_low, selector;
  uint8_t ist, type;
  uint16_t offset_mid;
  uint32_t offset_high, reserved;
};
struct alignas(64) VpTables {
  uint64_t gdt[8];
  Tss tss;
};

VpTables tables[kMaxVps];
Gate idt[256];
alignas(4096) std::byte hypercall_page[4096];
alignas(4096) std::byte message_pages[kMaxVps][4096];
alignas(4096) std::byte event_pages[kMaxVps][4096];
alignas(16) std::byte user_stacks[kMaxVps][kUserStack];

void WriteMsr(uint32_t msr, uint64_t value) {
  asm volatile("wrmsr" ::"c"(msr), "a"(static_cast<uint32_t>(value)),
               "d"(static_cast<uint32_t>(value >> 32)));
}
uint64_t ReadMsr(uint32_t msr) {
  uint32_t low = 0, high = 0;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return (uint64_t{high} << 32) | low;
}
void Out(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" ::"a"(value), "d"(port)); }
void Print(const char* text) {
  while (*text != 0) Out(0x3F8, static_cast<uint8_t>(*text++));
}
void PrintHex(uint64_t value) {
  for (int shift = 60; shift >= 0; shift -= 4) {
    Out(0x3F8, static_cast<uint8_t>("0123456789abcdef"[(value >> shift) & 15]));
  }
}

}  // namespace

extern "C" {
extern std::byte kernel_stacks[];
extern std::byte ap_trampoline[], ap_trampoline_end[];
extern std::byte image_end[];
extern uint64_t starting_stack;
extern uint8_t sint_auto_eoi;
extern const uint64_t fault_table[12];
void sint_stub();
void halt_once();
uint64_t try_wrmsr(uint32_t msr, uint64_t value);
[[noreturn]] void enter_user(void (*function)(uint64_t), uint64_t argument, std::byte* stack);
[[noreturn]] void kernel_fault(uint64_t vector, const uint64_t* frame);
uint64_t kernel_syscall(uint64_t number, uint64_t a, uint64_t b, uint64_t c);
[[noreturn]] void kernel_main(const uint32_t* start_info);
[[noreturn]] void kernel_ap_main();
}

SystemInfo system_info;

namespace {

PerVp& VpBlock(uint64_t vp) { return *reinterpret_cast<PerVp*>(kernel_stacks + vp * kKernelStack); }

PerVp& ThisVp() {
  uintptr_t rsp = 0;
  asm volatile("mov %%rsp, %0" : "=r"(rsp));
  return *reinterpret_cast<PerVp*>(rsp & ~(kKernelStack - 1));
}

void SetGate(unsigned vector, uintptr_t target) {
  idt[vector] = {.offset_low = static_cast<uint16_t>(target),
                 .selector = 0x08,
                 .ist = 0,
                 .type = 0x8E,
                 .offset_mid = static_cast<uint16_t>(target >> 16),
                 .offset_high = static_cast<uint32_t>(target >> 32),
                 .reserved = 0};
}

void BuildIdt() {
  for (unsigned i = 0; i < 12; i += 2) {
    SetGate(static_cast<unsigned>(fault_table[i]), fault_table[i + 1]);
  }
  SetGate(kSintVector, reinterpret_cast<uintptr_t>(&sint_stub));
}

// Descriptors, local APIC and SynIC of the VP that runs this.
void SetUpVp(uint64_t vp) {
  VpTables& t = tables[vp];
  const uintptr_t tss = reinterpret_cast<uintptr_t>(&t.tss);
  constexpr uint64_t kLimit = sizeof(Tss) - 1;
  t.gdt[1] = 0x00AF9B000000FFFF;  // 0x08: ring 0 code
  t.gdt[2] = 0x00CF93000000FFFF;  // 0x10: ring 0 data
  t.gdt[3] = 0x00CFF3000000FFFF;  // 0x18: ring 3 data
  t.gdt[4] = 0x00AFFB000000FFFF;  // 0x20: ring 3 code
  t.gdt[6] = kLimit | ((tss & 0xFFFFFF) << 16) | (0x89ull << 40) | ((tss >> 24 & 0xFF) << 56);
  t.gdt[7] = tss >> 32;
  t.tss.rsp0 = reinterpret_cast<uintptr_t>(kernel_stacks + (vp + 1) * kKernelStack);
  t.tss.io_bitmap = __builtin_offsetof(Tss, bitmap);
  t.tss.bitmap[kIoBitmap - 1] = 0xFF;  // the bitmap's end mark; every port before it is allowed
  const TablePointer gdt = {sizeof(t.gdt) - 1, reinterpret_cast<uintptr_t>(t.gdt)};
  const TablePointer idt_pointer = {sizeof(idt) - 1, reinterpret_cast<uintptr_t>(idt)};
  asm volatile("lgdt %0; lidt %1; ltr %w2" ::"m"(gdt), "m"(idt_pointer), "r"(0x30));

  WriteMsr(kMsrApicBase, ReadMsr(kMsrApicBase) | 0xC00);  // x2APIC
  WriteMsr(kMsrX2ApicSpurious, 0x1FF);
  auto page = [](std::byte* p) { return reinterpret_cast<uintptr_t>(p) | hv::kMsrPageEnable; };
  WriteMsr(hv::kMsrSimp, page(message_pages[vp]));
  WriteMsr(hv::kMsrSiefp, page(event_pages[vp]));
  WriteMsr(hv::kMsrSint0 + hv::kVmbusSint,
           kSintVector | (sint_auto_eoi != 0 ? hv::kSintAutoEoi : 0));
  WriteMsr(hv::kMsrScontrol, 1);
  VpBlock(vp).index = vp;
}

bool HasWord(const char* text, const char* word) {
  for (; *text != 0; ++text) {
    size_t same = 0;
    while (word[same] != 0 && text[same] == word[same]) ++same;
    if (word[same] == 0) return true;
  }
  return false;
}

void ReadResetValues() {
  constexpr uint32_t kSingle[] = {hv::kMsrGuestOsId,    hv::kMsrHypercall,    hv::kMsrVpIndex,
                                  hv::kMsrReferenceTsc, hv::kMsrVpAssistPage, hv::kMsrScontrol,
                                  hv::kMsrSversion,     hv::kMsrSiefp,        hv::kMsrSimp};
  size_t at = 0;
  auto read = [&](uint32_t msr) { system_info.reset_values[at++] = {msr, ReadMsr(msr)}; };
  for (const uint32_t msr : kSingle) read(msr);
  for (uint32_t sint = 0; sint < hv::kSintCount; ++sint) read(hv::kMsrSint0 + sint);
  for (uint32_t msr = hv::kMsrCrashP0; msr <= hv::kMsrCrashCtl; ++msr) read(msr);
  read(hv::kMsrEom);
  read(hv::kMsrReset);
}

[[noreturn]] void PowerOff() {
  Out(0x600, (5 << 2) | (1 << 5));
  while (true) asm volatile("cli; hlt");
}

uint64_t StartVp(uint64_t vp, uint64_t function, uint64_t argument) {
  PerVp& block = VpBlock(vp);
  block.entry = reinterpret_cast<void (*)(uint64_t)>(function);
  block.argument = argument;
  block.index = vp;
  starting_stack = reinterpret_cast<uintptr_t>(kernel_stacks + (vp + 1) * kKernelStack);
  constexpr uint64_t kInit = 0x4500, kStartUp = 0x4600;
  WriteMsr(kMsrX2ApicIcr, (vp << 32) | kInit);
  WriteMsr(kMsrX2ApicIcr, (vp << 32) | kStartUp | (kTrampoline >> 12));
  // One at a time: the stack's address is handed over in one place.
  while (*const_cast<volatile uint64_t*>(&starting_stack) != 0) asm volatile("pause");
  return 0;
}

}  // namespace

extern "C" {

void kernel_fault(uint64_t vector, const uint64_t* frame) {
  Print("\n{\"event\":\"fault\",\"vector\":\"");
  PrintHex(vector);
  Print("\",\"rip\":\"");
  PrintHex(frame[1]);
  Print("\",\"code\":\"");
  PrintHex(frame[0]);
  Print("\"}\n");
  PowerOff();
}

uint64_t kernel_syscall(uint64_t number, uint64_t a, uint64_t b, uint64_t c) {
  switch (number) {
    case kSysReadMsr:
      return ReadMsr(static_cast<uint32_t>(a));
    case kSysWriteMsr:
      WriteMsr(static_cast<uint32_t>(a), b);
      return 0;
    case kSysHypercall: {
      uint64_t result = 0;
      register uint64_t r8 asm("r8") = c;
      asm volatile("call *%1"
                   : "=a"(result)
                   : "r"(hypercall_page), "c"(a), "d"(b), "r"(r8)
                   : "memory", "cc", "r9", "r10", "r11");
      return result;
    }
    case kSysWait: {
      PerVp& block = ThisVp();
      while (block.interrupts == a) halt_once();
      return block.interrupts;
    }
    case kSysTryWriteMsr:
      return try_wrmsr(static_cast<uint32_t>(a), b);
    case kSysCpuid: {
      auto* out = reinterpret_cast<uint32_t*>(b);
      asm volatile("cpuid"
                   : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                   : "a"(static_cast<uint32_t>(a)), "c"(static_cast<uint32_t>(c)));
      return 0;
    }
    case kSysStartVp:
      return StartVp(a, b, c);
    default:
      PowerOff();
  }
}

void kernel_main(const uint32_t* start_info) {
  // hvm_start_info: command line at 24, memory map at 40, its length at 48.
  const auto* words = reinterpret_cast<const uint64_t*>(start_info);
  system_info.command_line = reinterpret_cast<const char*>(words[3]);
  struct Entry {
    uint64_t address, size;
    uint32_t type, reserved;
  };
  const auto* map = reinterpret_cast<const Entry*>(words[5]);
  constexpr uint64_t kHigh = 1ull << 32;
  for (uint32_t i = 0; i < start_info[12]; ++i) {
    if (map[i].type != 1) continue;
    const uint64_t end = map[i].address + map[i].size;
    if (map[i].address == 0x100000) system_info.memory_end = end;
    if (map[i].address >= kHigh) system_info.high_memory_end = end;
  }
  system_info.hypercall_page = hypercall_page;
  system_info.message_pages = message_pages[0];
  system_info.event_pages = event_pages[0];
  system_info.heap = reinterpret_cast<uintptr_t>(image_end);
  BuildIdt();
  sint_auto_eoi = HasWord(system_info.command_line, "autoeoi=1") ? 1 : 0;
  ReadResetValues();
  SetUpVp(0);
  WriteMsr(hv::kMsrGuestOsId, kGuestOsId);
  WriteMsr(hv::kMsrHypercall, reinterpret_cast<uintptr_t>(hypercall_page) | hv::kMsrPageEnable);
  auto* to = reinterpret_cast<std::byte*>(kTrampoline);
  for (const std::byte* from = ap_trampoline; from != ap_trampoline_end; ++from) *to++ = *from;
  enter_user(&UserMain, 0, user_stacks[0] + kUserStack - 8);
}

void kernel_ap_main() {
  PerVp& block = ThisVp();
  SetUpVp(block.index);
  const auto entry = block.entry;
  const uint64_t argument = block.argument;
  *const_cast<volatile uint64_t*>(&starting_stack) = 0;
  enter_user(entry, argument, user_stacks[block.index] + kUserStack - 8);
}

}  // extern "C"
}  // namespace partita::guest
