// Every interleaving of a producer and a consumer, switching before each access to a shared field:
// no schedule may end with a packet in the ring, the consumer asleep and nobody about to wake it.
// The ring is compiled with the switch point in place of nothing.
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace partita::vmbus {
void YieldForTest();
}
#define PARTITA_RING_YIELD() ::partita::vmbus::YieldForTest()
#include <gtest/gtest.h>

#include "vmbus/ring/ring.cc"  // NOLINT(bugprone-suspicious-include): with the macro above

namespace partita::vmbus {
namespace {

constexpr size_t kStack = 128 << 10;

// Two fibers and a schedule: at each step the schedule says which of them goes on.
class Explorer {
 public:
  // Runs one schedule; choices beyond `prefix` take the first runnable fiber. Returns the choices
  // that were open at each step, so that the caller can try the next schedule.
  struct Step {
    int chosen;
    bool other_possible;
  };
  std::vector<Step> Run(const std::vector<int>& prefix, void (*producer)(), void (*consumer)());

  static Explorer* current;
  void Yield() { swapcontext(&fibers_[running_], &scheduler_); }
  // The consumer sleeps until the producer signals.
  void Sleep() {
    asleep_ = true;
    Yield();
  }
  void Signal() { bell_ = true; }
  [[nodiscard]] bool deadlocked() const { return deadlocked_; }

 private:
  static void Enter(int which) {
    Explorer& self = *current;
    (which == 0 ? self.producer_ : self.consumer_)();
    self.finished_[which] = true;
    swapcontext(&self.fibers_[which], &self.scheduler_);
  }
  [[nodiscard]] bool Runnable(int which) const {
    if (finished_[which]) return false;
    return which == 0 || !asleep_ || bell_;
  }

  ucontext_t scheduler_{}, fibers_[2]{};
  std::unique_ptr<char[]> stacks_[2];
  void (*producer_)() = nullptr;
  void (*consumer_)() = nullptr;
  int running_ = 0;
  bool finished_[2] = {};
  bool asleep_ = false, bell_ = false, deadlocked_ = false;
};
Explorer* Explorer::current = nullptr;

std::vector<Explorer::Step> Explorer::Run(const std::vector<int>& prefix, void (*producer)(),
                                          void (*consumer)()) {
  current = this;
  producer_ = producer;
  consumer_ = consumer;
  for (int i = 0; i < 2; ++i) {
    stacks_[i] = std::make_unique<char[]>(kStack);
    getcontext(&fibers_[i]);
    fibers_[i].uc_stack.ss_sp = stacks_[i].get();
    fibers_[i].uc_stack.ss_size = kStack;
    makecontext(&fibers_[i], reinterpret_cast<void (*)()>(&Enter), 1, i);
  }
  std::vector<Step> steps;
  while (!finished_[0] || !finished_[1]) {
    const bool possible[2] = {Runnable(0), Runnable(1)};
    if (!possible[0] && !possible[1]) {
      deadlocked_ = true;
      break;
    }
    int choice = steps.size() < prefix.size() ? prefix[steps.size()] : (possible[0] ? 0 : 1);
    steps.push_back({choice, possible[1 - choice]});
    if (choice == 1 && asleep_) asleep_ = bell_ = false;
    running_ = choice;
    swapcontext(&scheduler_, &fibers_[choice]);
  }
  return steps;
}

// The two programs. State is rebuilt for every schedule.
struct World {
  alignas(4096) std::byte control[kRingPage] = {};
  alignas(4096) std::byte data[kRingPage] = {};
  std::byte* page = data;
  std::byte buffer[256];
  uint64_t received = 0;
  RingMemory Memory() {
    return {reinterpret_cast<RingControl*>(control), nullptr, std::span<std::byte* const>(&page, 1),
            kRingPage};
  }
};
World* world = nullptr;
constexpr uint64_t kPackets = 2;

void Producer() {
  RingWriter writer(world->Memory());
  for (uint64_t i = 0; i < kPackets; ++i) {
    if (writer.Write(kPacketInBand, 0, i, {}, {}) != RingStatus::kOk) std::abort();
    if (writer.Commit()) Explorer::current->Signal();
  }
}

template <bool kRecheck>
void Consumer() {
  RingReader reader(world->Memory(), world->buffer);
  while (world->received < kPackets) {
    reader.MaskInterrupts();
    Packet packet;
    while (reader.Next(&packet) == RingStatus::kOk) ++world->received;
    static_cast<void>(reader.Commit());
    if (world->received == kPackets) break;
    const bool more = reader.UnmaskAndCheck();
    if (!kRecheck || !more) Explorer::current->Sleep();
  }
}

// Depth-first over all schedules. Returns how many were run; `deadlocks` counts the bad ones.
uint64_t ExploreAll(void (*consumer)(), uint64_t* deadlocks) {
  std::vector<int> prefix;
  uint64_t schedules = 0;
  while (true) {
    auto fresh = std::make_unique<World>();
    world = fresh.get();
    Explorer explorer;
    const auto steps = explorer.Run(prefix, &Producer, consumer);
    Explorer::current = nullptr;
    ++schedules;
    if (explorer.deadlocked()) ++*deadlocks;
    // The last step where producer was chosen and the consumer could have been: try that instead.
    size_t at = steps.size();
    while (at > 0 && !(steps[at - 1].chosen == 0 && steps[at - 1].other_possible)) --at;
    if (at == 0) return schedules;
    prefix.clear();
    for (size_t i = 0; i + 1 < at; ++i) prefix.push_back(steps[i].chosen);
    prefix.push_back(1);
  }
}

TEST(RingInterleaving, NoScheduleLosesAWakeUp) {
  uint64_t deadlocks = 0;
  const uint64_t schedules = ExploreAll(&Consumer<true>, &deadlocks);
  EXPECT_EQ(deadlocks, 0u);
  EXPECT_GT(schedules, 1000u);
  RecordProperty("schedules", static_cast<int>(schedules));
}

// The explorer is worth its name only if it finds the bug that leaving out the re-check makes.
TEST(RingInterleaving, WithoutTheRecheckAWakeUpIsLost) {
  uint64_t deadlocks = 0;
  ExploreAll(&Consumer<false>, &deadlocks);
  EXPECT_GT(deadlocks, 0u);
}

}  // namespace

void YieldForTest() { Explorer::current->Yield(); }

}  // namespace partita::vmbus
