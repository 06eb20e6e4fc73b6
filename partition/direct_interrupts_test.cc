// When an interrupt may enter a processor past its local APIC: the rules of the Intel SDM, volume
// 3, "Handling Interrupts", which the local APIC would have applied.
#include "partition/direct_interrupts.h"

#include <gtest/gtest.h>

#include <cstring>

namespace partita {
namespace {

constexpr uint8_t kVector = 0x60;

InterruptState Ready() {
  return {.mp_state = KVM_MP_STATE_RUNNABLE,
          .interrupts_enabled = true,
          .busy = false,
          .apic_enabled = true,
          .priority = 0};
}

TEST(DirectInterrupts, EnterOnlyWhereTheLocalApicWouldLetThem) {
  EXPECT_EQ(Decide(Ready(), kVector), Injection::kNow);
  InterruptState state = Ready();
  state.mp_state = KVM_MP_STATE_HALTED;
  EXPECT_EQ(Decide(state, kVector), Injection::kNow);
  state.interrupts_enabled = false;  // cli; hlt
  EXPECT_EQ(Decide(state, kVector), Injection::kLater);
  state = Ready();
  state.busy = true;
  EXPECT_EQ(Decide(state, kVector), Injection::kLater);
  for (const auto& [priority, verdict] : {std::pair<uint8_t, Injection>{5, Injection::kNow},
                                          {6, Injection::kLater},
                                          {15, Injection::kLater}}) {
    state = Ready();
    state.priority = priority;
    EXPECT_EQ(Decide(state, kVector), verdict) << int{priority};
  }
  state = Ready();
  state.apic_enabled = false;
  EXPECT_EQ(Decide(state, kVector), Injection::kDrop);
  for (const uint32_t waiting : {KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED}) {
    state = Ready();
    state.mp_state = waiting;
    EXPECT_EQ(Decide(state, kVector), Injection::kDrop);
  }
}

TEST(DirectInterrupts, PriorityIsThatOfTheHighestInServiceOrTheTaskPriority) {
  kvm_lapic_state apic{};
  auto set = [&](size_t offset, uint32_t value) {
    std::memcpy(apic.regs + offset, &value, sizeof(value));
  };
  InterruptState state;
  ReadApic(apic, state);
  EXPECT_FALSE(state.apic_enabled);
  EXPECT_EQ(state.priority, 0);
  set(0xF0, 0x1FF);
  set(0x80, 0x35);
  ReadApic(apic, state);
  EXPECT_TRUE(state.apic_enabled);
  EXPECT_EQ(state.priority, 3);
  set(0x100 + 0x10 * 2, 1 << 1);       // vector 0x41
  set(0x100 + 0x10 * 7, 1 << 12 | 1);  // vectors 0xEC and 0xE0
  ReadApic(apic, state);
  EXPECT_EQ(state.priority, 0xE);
  set(0x80, 0xFF);
  ReadApic(apic, state);
  EXPECT_EQ(state.priority, 0xF);
}

TEST(DirectInterrupts, AVectorThatIsPendingNeedsNoSecondLook) {
  DirectInterrupts interrupts;
  EXPECT_TRUE(interrupts.Add(0xFF));
  EXPECT_FALSE(interrupts.Add(0xFF));
  EXPECT_TRUE(interrupts.Add(0x10));
}

}  // namespace
}  // namespace partita
