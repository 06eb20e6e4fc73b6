// The parts of a partition that need no hypervisor: CPUID, hypercalls, tables, devices, loaders.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/hyperv_abi.h"
#include "partition/boot/acpi.h"
#include "partition/boot/boot.h"
#include "partition/chipset/cmos.h"
#include "partition/chipset/serial.h"
#include "partition/hypervisor/cpuid.h"
#include "partition/hypervisor/hypercall_page.h"
#include "partition/hypervisor/hypercalls.h"
#include "partition/hypervisor/reference_clock.h"
#include "partition/machine.h"
#include "partition/memory/guest_ram.h"

namespace partita {
namespace {

// --- CPUID: golden tables, one per backend. A change here changes what every guest sees. ---

kvm_cpuid_entry2 Leaf(uint32_t function, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.eax = eax, entry.ebx = ebx, entry.ecx = ecx, entry.edx = edx;
  return entry;
}

struct Golden {
  uint32_t leaf, eax, ebx, ecx, edx;
};

void ExpectLeaves(const CpuidTable& table, const std::vector<Golden>& golden) {
  ASSERT_EQ(table.size(), golden.size());
  for (size_t i = 0; i < golden.size(); ++i) {
    SCOPED_TRACE(testing::Message() << std::hex << golden[i].leaf);
    EXPECT_EQ(table[i].function, golden[i].leaf);
    EXPECT_EQ(table[i].eax, golden[i].eax);
    EXPECT_EQ(table[i].ebx, golden[i].ebx);
    EXPECT_EQ(table[i].ecx, golden[i].ecx);
    EXPECT_EQ(table[i].edx, golden[i].edx);
  }
}

TEST(Cpuid, GoldenTableOfTheUserBackend) {
  ExpectLeaves(HypervLeaves({.synic = SynicKind::kUser}, {}),
               {{0x40000000, 0x40000006, 0x7263694D, 0x666F736F, 0x76482074},
                {0x40000001, 0x31237648, 0, 0, 0},
                {0x40000002, 20348, 10 << 16, 0, 0},
                {0x40000003, 0x00000AE7, 0x00000030, 0, 0x00000500},
                {0x40000004, 0x00000220, 0xFFFFFFFF, 0, 0},
                {0x40000005, 64, 64, 0, 0},
                {0x40000006, 0, 0, 0, 0}});
}

TEST(Cpuid, TimersAndTscPageFollowTheOptions) {
  const auto timers = HypervLeaves({.synic = SynicKind::kUser, .synthetic_timers = true}, {});
  EXPECT_EQ(timers[3].eax, 0x00000AEFu);
  EXPECT_EQ(timers[3].edx, 0x00080500u);
  const auto no_page = HypervLeaves({.synic = SynicKind::kUser, .reference_tsc = false}, {});
  EXPECT_EQ(no_page[3].eax, 0x000008E7u);
}

TEST(Cpuid, GoldenTableOfTheKernelBackend) {
  // A KVM that offers everything, including what a guest must never see.
  const CpuidTable everything = {Leaf(0x40000003, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0xFFFFFFFF),
                                 Leaf(0x40000004, 0xFFFFFFFF, 0, 0, 0)};
  const auto table = HypervLeaves({.synic = SynicKind::kKernel}, everything);
  EXPECT_EQ(table[3].eax, 0x00000AFFu);
  EXPECT_EQ(table[3].ebx, 0x00000030u);
  EXPECT_EQ(table[3].edx, 0x00080500u);
  EXPECT_EQ(table[4].eax, 0x00000E24u);
  // EOI by MSR only where the host has no hardware for the local APIC.
  EXPECT_EQ(HypervLeaves({.synic = SynicKind::kKernel, .eoi_assist = true}, everything)[4].eax,
            0x00000E2Cu);
  EXPECT_EQ(HypervLeaves({.synic = SynicKind::kUser, .eoi_assist = true}, everything)[4].eax,
            0x00000220u);
  // One that offers nothing gets nothing, except the advice that is ours.
  const auto bare = HypervLeaves({.synic = SynicKind::kKernel}, {Leaf(0x40000003, 0, 0, 0, 0)});
  EXPECT_EQ(bare[3].eax, 0u);
  EXPECT_EQ(bare[4].eax, 0x220u);
}

TEST(Cpuid, NoLeafOfKvmSurvivesAndTheTopologyIsCoherent) {
  const CpuidTable supported = {
      Leaf(0x1, 0, 0, 0x28, 0),          Leaf(0xB, 0, 0, 0, 0),
      Leaf(0x40000000, 1, 2, 3, 4),      Leaf(0x40000001, 0x1000, 0, 0, 0),
      Leaf(0x80000001, 0, 0, 1 << 2, 0), Leaf(0x80000007, 0, 0, 0, 1 << 8)};
  const auto table = BuildCpuid({.vp_count = 4}, supported, {}, 3);
  int at_interface = 0;
  for (const auto& entry : table) {
    if (entry.function == 0x40000001) {
      ++at_interface;
      EXPECT_EQ(entry.eax, hv::kInterfaceSignature);
    }
    EXPECT_FALSE(entry.function >= 0x40000007 && entry.function < 0x80000000);
    if (entry.function == 1) {
      EXPECT_EQ(entry.ebx >> 24, 3u);
      EXPECT_EQ((entry.ebx >> 16) & 0xFF, 4u);
      EXPECT_EQ(entry.ecx, 1u << 31);
    }
    if (entry.function == 0x80000001) {
      EXPECT_EQ(entry.ecx, 0u);  // no SVM
    }
    if (entry.function == 0x80000007) {
      EXPECT_EQ(entry.edx, 0u);
    }
  }
  EXPECT_EQ(at_interface, 1);
}

// --- reference clock ---

// Where the host does not trust its TSC neither may the guest: the clock is the host's, and the
// reference TSC page says so.
TEST(ReferenceClock, FollowsTheHostAndMarksThePageInvalid) {
  uint64_t now = 5'000'000'000;
  ReferenceClock clock;
  clock.FollowHost([&now] { return now; }, now);
  EXPECT_EQ(clock.ReferenceTime(), 0u);
  now += 1'000'000'000;
  EXPECT_EQ(clock.ReferenceTime(), 10'000'000u);
  EXPECT_EQ(clock.ReferenceTime(), 10'000'000u);  // whatever the TSC did meanwhile
  EXPECT_EQ(clock.Page().sequence, 0u);
  EXPECT_EQ(clock.NanosecondsUntil(10'000'005), 500u);
  EXPECT_EQ(clock.NanosecondsUntil(9'000'000), 0u);
}

// --- hypercalls ---

class CountingSink : public GuestMessageSink {
 public:
  hv::Status OnGuestMessage(uint32_t connection, uint32_t,
                            std::span<const std::byte> payload) override {
    last_connection = connection;
    last_size = payload.size();
    return hv::kSuccess;
  }
  uint32_t last_connection = 0;
  size_t last_size = 999;
};

TEST(Hypercalls, ControlWordAndInputAreChecked) {
  std::vector<std::byte> ram(0x3000);
  const GuestMemory::Region region{.gpa = 0, .size = ram.size(), .host = ram.data()};
  GuestMemory memory(std::span(&region, 1));
  CountingSink sink;
  Hypercalls calls(memory, sink);
  hv::PostMessageInput input{};
  input.connection_id = 0xFF000004;  // the upper 8 bits are reserved
  input.message_type = 1;
  input.payload_size = 40;
  ASSERT_TRUE(memory.Store(0x1000, input));
  EXPECT_EQ(calls.Call(hv::kCallPostMessage, 0x1000, 0), hv::kSuccess);
  EXPECT_EQ(sink.last_connection, 4u);
  EXPECT_EQ(sink.last_size, 40u);
  struct Case {
    uint64_t control, input, status;
  };
  const Case cases[] = {
      {hv::kCallPostMessage, 0x1004, hv::kInvalidAlignment},
      {hv::kCallPostMessage, 0x2F08, hv::kInvalidAlignment},  // runs out of RAM
      {hv::kCallPostMessage, UINT64_MAX - 7, hv::kInvalidAlignment},
      {hv::kCallPostMessage | hv::kControlFast, 0x1000, hv::kInvalidInput},
      {hv::kCallPostMessage | (1ull << 32), 0x1000, hv::kInvalidInput},  // a rep count
      {hv::kCallPostMessage | (1ull << 63), 0x1000, hv::kInvalidInput},
      {hv::kCallSignalEvent | hv::kControlFast, 0x2001, hv::kInvalidConnectionId},
      {hv::kCallSignalEvent | hv::kControlFast, 0x100002001, hv::kInvalidParameter},
      {hv::kCallSignalEvent, 0x1001, hv::kInvalidAlignment},
      {0x0002, 0, hv::kInvalidCode},
      {0xFFFF, 0, hv::kInvalidCode},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(calls.Call(c.control, c.input, 0), c.status)
        << std::hex << c.control << " " << c.input;
  }
  for (const auto& [type, size] : {std::pair(0u, 8u), {0x80000001u, 8u}, {1u, 241u}, {1u, ~0u}}) {
    input.message_type = type;
    input.payload_size = size;
    ASSERT_TRUE(memory.Store(0x1000, input));
    EXPECT_EQ(calls.Call(hv::kCallPostMessage, 0x1000, 0), hv::kInvalidParameter);
  }
}

// The page is executed here, in this process, with its two I/O instructions replaced by returns of
// different values: which path a call takes, and that no register but RAX changes.
TEST(HypercallPage, OnlyAFastSignalInRangeIsADoorbell) {
  auto page = BuildHypercallPage();
  EXPECT_EQ(page[0], std::byte{0xF3});  // ENDBR64
  EXPECT_EQ(page[3], std::byte{0xFA});
  size_t out = 0, in = 0;
  for (size_t i = 0; i < 64; ++i) {
    if (page[i] == std::byte{0xEE} && page[i + 1] == std::byte{0xC3}) out = i;
    if (page[i] == std::byte{0xE5}) in = i;
  }
  ASSERT_NE(out, 0u);
  ASSERT_NE(in, 0u);
  page[out] = std::byte{0x90};
  page[in] = std::byte{0xB0};  // mov al, imm8: the port number
  void* code = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(code, MAP_FAILED);
  std::memcpy(code, page.data(), page.size());
  struct Case {
    uint64_t control, input;
    bool doorbell;
  };
  const Case cases[] = {
      {0x1005D, 0x2000, true},  {0x1005D, 0x27FF, true}, {0x1005D, 0x2800, false},
      {0x1005D, 0x1FFF, false}, {0x1005D, 0, false},     {0x1005D, 0x100002001, false},
      {0x5D, 0x2001, false},    {0x5C, 0x2001, false},   {0x1005D | 1ull << 32, 0x2001, false},
  };
  for (const Case& c : cases) {
    uint64_t rax = 0, rcx = c.control, rdx = c.input, r8 = 8, r9 = 9, r10 = 10, r11 = 11;
    asm volatile(
        "mov %[r8v], %%r8; mov %[r9v], %%r9; mov %[r10v], %%r10; mov %[r11v], %%r11\n"
        "sub $128, %%rsp; call *%[code]; add $128, %%rsp\n"
        "mov %%r8, %[r8v]; mov %%r9, %[r9v]; mov %%r10, %[r10v]; mov %%r11, %[r11v]"
        : "=a"(rax), "+c"(rcx),
          "+d"(rdx), [r8v] "+m"(r8), [r9v] "+m"(r9), [r10v] "+m"(r10), [r11v] "+m"(r11)
        : [code] "r"(code)
        : "r8", "r9", "r10", "r11", "memory", "cc");
    EXPECT_EQ((rax & 0xFF) == machine::kHypercallPort, !c.doorbell) << std::hex << c.input;
    if (c.doorbell) {
      EXPECT_EQ(rax, 0u);
    }
    EXPECT_EQ(rcx, c.control);
    EXPECT_EQ(rdx, c.input);
    EXPECT_EQ(r8 + r9 + r10 + r11, 38u);
  }
  munmap(code, kPageSize);
}

// --- ACPI ---

TEST(Acpi, TablesAreSoundAndReachable) {
  auto ram = GuestRam::Create(64 << 20, PageKind::kSmall);
  ASSERT_TRUE(ram.ok());
  GuestMemory& memory = (*ram)->memory();
  const auto rsdp = WriteAcpiTables(memory, {.vp_count = 64});
  ASSERT_TRUE(rsdp.ok());
  auto sum = [&](uint64_t gpa, uint32_t length) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(memory.Range(gpa, length));
    return std::accumulate(bytes, bytes + length, 0) & 0xFF;
  };
  EXPECT_EQ(sum(*rsdp, 36), 0);
  EXPECT_EQ(sum(*rsdp, 20), 0);
  const uint64_t xsdt = *memory.Load<uint64_t>(*rsdp + 24);
  const auto tables = *memory.Load<uint32_t>(xsdt + 4);
  EXPECT_EQ(sum(xsdt, tables), 0);
  std::map<std::string, uint64_t> found;
  for (uint64_t at = xsdt + 36; at < xsdt + tables; at += 8) {
    const uint64_t table = *memory.Load<uint64_t>(at);
    const auto length = *memory.Load<uint32_t>(table + 4);
    EXPECT_EQ(sum(table, length), 0);
    found[std::string(reinterpret_cast<const char*>(memory.Range(table, 4)), 4)] = table;
  }
  ASSERT_TRUE(found.contains("FACP") && found.contains("APIC"));
  const auto flags = *memory.Load<uint32_t>(found["FACP"] + 112);
  EXPECT_TRUE((flags & (1 << 20)) != 0);  // hardware-reduced
  const uint64_t dsdt = *memory.Load<uint64_t>(found["FACP"] + 140);
  EXPECT_EQ(sum(dsdt, *memory.Load<uint32_t>(dsdt + 4)), 0);
  const std::string body(reinterpret_cast<const char*>(memory.Range(dsdt, 1024)), 1024);
  EXPECT_NE(body.find("VMBus"), std::string::npos);
  EXPECT_EQ(body.find("_S4"), std::string::npos);  // hv_balloon ignores requests where S4 exists
}

// --- devices ---

TEST(Serial, OutputInputAndInterrupts) {
  bool line = false;
  int wakes = 0;
  SerialPort port([&](bool level) { line = level; }, [&] { ++wakes; });
  port.Write(0, 'h');
  port.Write(0, 'i');
  EXPECT_EQ(wakes, 1);  // one wake per emptied buffer
  EXPECT_EQ(port.TakeOutput(), "hi");
  EXPECT_FALSE(line);
  port.Write(1, 3);  // receive and transmitter-empty interrupts
  EXPECT_TRUE(line);
  EXPECT_EQ(port.Read(2) & 0xF, 2);  // identifies and acknowledges the transmitter
  EXPECT_FALSE(line);
  EXPECT_EQ(port.Input(std::string_view("xy")), 2u);
  EXPECT_TRUE(line);
  EXPECT_EQ(port.Read(2) & 0xF, 4);
  EXPECT_EQ(port.Read(5) & 1, 1);
  EXPECT_EQ(port.Read(0), 'x');
  EXPECT_TRUE(line);
  EXPECT_EQ(port.Read(0), 'y');
  EXPECT_FALSE(line);
  EXPECT_EQ(port.Read(5) & 1, 0);
}

// A console nobody reads costs bytes, never a VP.
TEST(Serial, AStuckReaderLosesCountedBytes) {
  SerialPort port([](bool) {}, [] {});
  for (size_t i = 0; i < SerialPort::kOutputLimit + 1000; ++i) port.Write(0, 'x');
  StatSink sink;
  port.DescribeTo(sink);
  EXPECT_EQ(sink.values().at("serial.bytes"), SerialPort::kOutputLimit);
  EXPECT_EQ(sink.values().at("serial.dropped"), 1000u);
  const std::string huge(100000, 'y');
  EXPECT_EQ(port.Input(huge), SerialPort::kInputLimit);
}

TEST(Cmos, TellsTheHostsTime) {
  CmosClock clock([] { return time_t{1795346281}; });  // 2026-11-22 11:18:01 UTC
  auto read = [&](uint8_t index) {
    clock.Write(0, index);
    return clock.Read(1);
  };
  EXPECT_EQ(read(0), 0x01);
  EXPECT_EQ(read(2), 0x18);
  EXPECT_EQ(read(4), 0x11);
  EXPECT_EQ(read(7), 0x22);
  EXPECT_EQ(read(8), 0x11);
  EXPECT_EQ(read(9), 0x26);
  EXPECT_EQ(read(0x32), 0x20);
  EXPECT_EQ(read(0xA) & 0x80, 0);
  EXPECT_EQ(read(0xD), 0x80);
}

class CmosTest : public testing::Test {
 protected:
  uint8_t Read(uint8_t index) {
    clock.Write(0, index);
    return clock.Read(1);
  }
  void SetStatusB(uint8_t value) {
    clock.Write(0, 0xB);
    clock.Write(1, value);
  }
  time_t now = 1795391999;  // 2026-11-22 23:59:59 UTC
  CmosClock clock{[this] { return now; }};
};

// The second ends between two registers: 23:59 belongs to the 22nd, whatever is read when.
TEST_F(CmosTest, ATimeNeverHasPartsOfTwoSeconds) {
  Read(0xA);
  EXPECT_EQ(Read(0), 0x59);
  now += 1;
  EXPECT_EQ(Read(2), 0x59);
  EXPECT_EQ(Read(4), 0x23);
  EXPECT_EQ(Read(7), 0x22);
  Read(0xA);  // a new reading
  EXPECT_EQ(Read(0), 0x00);
  EXPECT_EQ(Read(4), 0x00);
  EXPECT_EQ(Read(7), 0x23);
}

TEST_F(CmosTest, PollingOneRegisterSeesTimePass) {
  EXPECT_EQ(Read(0), 0x59);
  now += 1;
  EXPECT_EQ(Read(0), 0x00);
  now += 1;
  EXPECT_EQ(Read(0), 0x01);
  now += 10;
  EXPECT_EQ(Read(2), 0x00);  // what was taken long ago is not shown
  EXPECT_EQ(Read(0), 0x11);
}

TEST_F(CmosTest, StatusBChoosesTheFormAndHoldsTheClock) {
  SetStatusB(0x06);  // binary
  EXPECT_EQ(Read(0xB), 0x06);
  EXPECT_EQ(Read(0), 59);
  EXPECT_EQ(Read(4), 23);
  EXPECT_EQ(Read(0x32), 20);
  SetStatusB(0x00);          // 12 hours
  EXPECT_EQ(Read(4), 0x91);  // 11 in the afternoon
  now += 1;
  EXPECT_EQ(Read(4), 0x12);  // midnight
  now += 12 * 3600;
  EXPECT_EQ(Read(4), 0x92);  // noon
  SetStatusB(0x82);
  EXPECT_EQ(Read(0), 0x00);
  now += 5;
  EXPECT_EQ(Read(0), 0x00);  // held
  SetStatusB(0x02);
  EXPECT_EQ(Read(0), 0x05);
  SetStatusB(0x72);  // there are no interrupts to enable
  EXPECT_EQ(Read(0xB), 0x02);
}

// --- loaders: files a user may hand us ---

class LoaderTest : public testing::Test {
 protected:
  UniqueFd File(std::span<const uint8_t> bytes) {
    UniqueFd fd(memfd_create("kernel", MFD_CLOEXEC));
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    return fd;
  }
  absl::Status Load(std::span<const uint8_t> bytes, std::string command_line = "") {
    const UniqueFd fd = File(bytes);
    return LoadKernel((*ram)->memory(),
                      {.kernel_fd = fd.get(), .command_line = std::move(command_line)})
        .status();
  }
  template <typename T>
  static void Put(std::vector<uint8_t>& bytes, size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof(T));
  }
  static std::vector<uint8_t> BzImage() {
    std::vector<uint8_t> image(8192);
    image[0x1F1] = 1;
    Put<uint16_t>(image, 0x1FE, 0xAA55);
    image[0x201] = 0x66;
    std::memcpy(image.data() + 0x202, "HdrS", 4);
    Put<uint16_t>(image, 0x206, 0x20F);
    Put<uint32_t>(image, 0x22C, 0x7FFFFFFF);
    Put<uint32_t>(image, 0x230, 0x200000);
    Put<uint16_t>(image, 0x236, 1);
    Put<uint64_t>(image, 0x258, 0x1000000);
    Put<uint32_t>(image, 0x260, 0x100000);
    return image;
  }
  absl::StatusOr<std::unique_ptr<GuestRam>> ram = GuestRam::Create(64 << 20, PageKind::kSmall);
};

TEST_F(LoaderTest, BzImageBoots64Bit) {
  const auto image = BzImage();
  const UniqueFd fd = File(image);
  const auto entry = LoadKernel((*ram)->memory(), {.kernel_fd = fd.get(), .command_line = "quiet"});
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->rip, 0x1000200u);
  EXPECT_EQ((*ram)->memory().Load<uint32_t>(machine::kBootParams + 0x228), machine::kCommandLine);
  EXPECT_EQ((*ram)->memory().Load<uint8_t>(machine::kBootParams + 0x1E8), 3);  // memory map
}

TEST_F(LoaderTest, DamagedImagesGetAClearLine) {
  EXPECT_FALSE(Load(std::vector<uint8_t>(10)).ok());
  EXPECT_FALSE(Load(std::vector<uint8_t>(8192)).ok());
  auto image = BzImage();
  Put<uint16_t>(image, 0x206, 0x200);  // too old
  EXPECT_FALSE(Load(image).ok());
  image = BzImage();
  Put<uint64_t>(image, 0x258, 0xFFFFFFFFFFFFF000);  // wants to live nowhere
  EXPECT_FALSE(Load(image).ok());
  image = BzImage();
  Put<uint32_t>(image, 0x260, 0xFFFFFFFF);  // needs 4 GiB
  EXPECT_FALSE(Load(image).ok());
  image = BzImage();
  image[0x1F1] = 200;  // setup longer than the file
  EXPECT_FALSE(Load(image).ok());
  EXPECT_FALSE(Load(BzImage(), std::string(5000, 'x')).ok());  // command line too long
}

TEST_F(LoaderTest, DamagedElfImagesGetAClearLine) {
  auto elf = [] {
    std::vector<uint8_t> image(4096);
    std::memcpy(image.data(), "\177ELF\2\1\1", 7);
    Put<uint16_t>(image, 18, 62);  // x86-64
    Put<uint64_t>(image, 32, 64);  // program headers
    Put<uint16_t>(image, 54, 56);
    Put<uint16_t>(image, 56, 1);
    Put<uint32_t>(image, 64, 1);  // PT_LOAD
    Put<uint64_t>(image, 64 + 24, 0x200000);
    return image;
  };
  EXPECT_FALSE(Load(elf()).ok());  // no PVH note
  auto image = elf();
  Put<uint64_t>(image, 32, UINT64_MAX - 10);
  EXPECT_FALSE(Load(image).ok());
  image = elf();
  Put<uint16_t>(image, 56, 0xFFFF);
  EXPECT_FALSE(Load(image).ok());
  image = elf();
  Put<uint64_t>(image, 64 + 8, 1);            // offset
  Put<uint64_t>(image, 64 + 32, UINT64_MAX);  // file size
  EXPECT_FALSE(Load(image).ok());
  image = elf();
  Put<uint64_t>(image, 64 + 40, UINT64_MAX);  // memory size
  EXPECT_FALSE(Load(image).ok());
  image = elf();
  Put<uint32_t>(image, 64, 4);  // PT_NOTE with lengths that lie
  Put<uint64_t>(image, 64 + 8, 1024);
  Put<uint64_t>(image, 64 + 32, 64);
  Put<uint32_t>(image, 1024, 0xFFFFFFFF);
  Put<uint32_t>(image, 1028, 0xFFFFFFFF);
  EXPECT_FALSE(Load(image).ok());
}

}  // namespace
}  // namespace partita
