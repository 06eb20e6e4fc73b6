// What a partition sets up in KVM, seen from outside: needs /dev/kvm. Run directly and in the lab,
// where KVM has Hyper-V emulation.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <vector>

#include "base/hyperv_abi.h"
#include "partition/partition.h"

namespace partita {
namespace {

// Keeps the VPs it is given.
class VpCollector : public SynicPort, public GuestMessageSink {
 public:
  absl::Status AttachVp(const KvmVcpu& vcpu, AutoEoiInjector&) override {
    vps.push_back(&vcpu);
    return absl::OkStatus();
  }
  bool ReadMsr(uint32_t, uint32_t, uint64_t*) override { return false; }
  bool WriteMsr(uint32_t, uint32_t, uint64_t) override { return false; }
  void OnSynicExit(uint32_t, uint64_t, uint64_t, uint64_t) override {}
  hv::Status OnGuestMessage(uint32_t, uint32_t, std::span<const std::byte>) override {
    return hv::kSuccess;
  }
  std::vector<const KvmVcpu*> vps;
};

class PartitionKvmTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kvm.valid()) GTEST_SKIP() << "no /dev/kvm";
    caps = ProbeKvm(kvm.get());
    ram = *GuestRam::Create(64 << 20, PageKind::kSmall);
  }
  void Create(SynicKind synic, uint32_t vps) {
    PartitionOptions options;
    options.vp_count = vps;
    options.synic = synic;
    auto made = Partition::Create(kvm.get(), *ram, options,
                                  {.end = [](EndReason, const std::string&) {},
                                   .crash = [](const CrashReport&) {},
                                   .serial_output = [] {}});
    ASSERT_TRUE(made.ok()) << made.status();
    partition = *std::move(made);
    const absl::Status connected = partition->Connect(collector, collector);
    ASSERT_TRUE(connected.ok()) << connected;
  }
  UniqueFd kvm{open("/dev/kvm", O_RDWR | O_CLOEXEC)};
  KvmCapabilities caps;
  std::unique_ptr<GuestRam> ram;
  VpCollector collector;
  std::unique_ptr<Partition> partition;
};

// The time service's samples carry the reference time; the guest compares it with its own counter.
TEST_F(PartitionKvmTest, TheReferenceClockIsTheGuestsCounter) {
  if (!caps.KernelSynic()) GTEST_SKIP() << "no Hyper-V emulation in this KVM";
  Create(SynicKind::kKernel, 1);
  for (int i = 0; i < 10; ++i) {
    const auto before = collector.vps[0]->GetMsr(hv::kMsrTimeRefCount);
    const uint64_t ours = partition->clock().ReferenceTime();
    const auto after = collector.vps[0]->GetMsr(hv::kMsrTimeRefCount);
    ASSERT_TRUE(before.ok() && after.ok());
    EXPECT_LE(*before, ours);
    EXPECT_LE(ours, *after);
  }
}

// Linux compares these registers of all processors.
TEST_F(PartitionKvmTest, EveryVpHasTheMemoryTypesOfAMachineWithFirmware) {
  Create(caps.KernelSynic() ? SynicKind::kKernel : SynicKind::kUser, 4);
  ASSERT_EQ(collector.vps.size(), 4u);
  for (const KvmVcpu* vcpu : collector.vps) {
    EXPECT_EQ(*vcpu->GetMsr(0x1A0) & 1, 1u);
    EXPECT_EQ(*vcpu->GetMsr(0x2FF), 0x806u);
  }
}

TEST_F(PartitionKvmTest, Both8259sAreMasked) {
  Create(caps.KernelSynic() ? SynicKind::kKernel : SynicKind::kUser, 1);
  for (const uint32_t id : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE}) {
    kvm_irqchip chip{};
    chip.chip_id = id;
    ASSERT_EQ(ioctl(partition->vm().fd(), KVM_GET_IRQCHIP, &chip), 0);
    EXPECT_EQ(chip.chip.pic.imr, 0xFF);
    EXPECT_EQ(chip.chip.pic.irr, 0);
    // A raised line leads nowhere.
    partition->vm().SetIrqLine(machine::kSerialGsi, true);
    ASSERT_EQ(ioctl(partition->vm().fd(), KVM_GET_IRQCHIP, &chip), 0);
    EXPECT_EQ(chip.chip.pic.irr, 0);
    partition->vm().SetIrqLine(machine::kSerialGsi, false);
  }
}

}  // namespace
}  // namespace partita
