#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <thread>
#include <vector>

#include "base/counters.h"
#include "base/event_loop.h"
#include "base/guest_memory.h"
#include "base/io_ring.h"
#include "base/thread.h"
#include "base/unique_fd.h"

namespace partita {
namespace {

class RecordingSink : public DirtySink {
 public:
  void Mark(uint64_t gpa, uint64_t length) override { marks.emplace_back(gpa, length); }
  std::vector<std::pair<uint64_t, uint64_t>> marks;
};

TEST(GuestMemory, RangesEndAtRegionBounds) {
  std::vector<std::byte> low(0x4000);
  std::vector<std::byte> high(0x2000);
  const std::array<GuestMemory::Region, 2> regions = {
      GuestMemory::Region{.gpa = 0, .size = 0x4000, .host = low.data()},
      GuestMemory::Region{.gpa = 0x100000000, .size = 0x2000, .host = high.data()}};
  GuestMemory memory(regions);
  struct Case {
    uint64_t gpa, length;
    bool inside;
  };
  const Case cases[] = {
      {0, 0x4000, true},
      {0, 0x4001, false},
      {0x3FFF, 1, true},
      {0x4000, 0, false},
      {0x3000, 0x1001, false},
      {0xFFFFFFFF, 2, false},
      {0x100000000, 8, true},
      {0x100001FF8, 8, true},
      {0x100001FF9, 8, false},
      {UINT64_MAX, 1, false},
      {UINT64_MAX - 7, 16, false},
      {8, UINT64_MAX, false},
      {0x100000000, UINT64_MAX - 0xFF, false},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(memory.Range(c.gpa, c.length) != nullptr, c.inside) << std::hex << c.gpa;
  }
  EXPECT_EQ(memory.Page(UINT64_MAX), nullptr);
  EXPECT_EQ(memory.Page(1), low.data() + 0x1000);
  EXPECT_EQ(memory.size(), 0x6000u);
}

TEST(GuestMemory, WritesReachTheDirtySinkAndFailedOnesDoNot) {
  std::vector<std::byte> ram(0x1000);
  const GuestMemory::Region region{.gpa = 0x1000, .size = 0x1000, .host = ram.data()};
  GuestMemory memory(std::span(&region, 1));
  RecordingSink sink;
  ASSERT_TRUE(memory.Store<uint32_t>(0x1000, 7));
  EXPECT_TRUE(sink.marks.empty());
  memory.SetDirtySink(&sink);
  ASSERT_TRUE(memory.Store<uint32_t>(0x1FFC, 9));
  EXPECT_FALSE(memory.Store<uint64_t>(0x1FFC, 9));
  ASSERT_EQ(sink.marks.size(), 1u);
  EXPECT_EQ(sink.marks[0], (std::pair<uint64_t, uint64_t>(0x1FFC, 4)));
  EXPECT_EQ(memory.Load<uint32_t>(0x1FFC), 9u);
}

TEST(Histogram, QuantilesAreWithinOneSixteenthAboveTheValue) {
  Histogram histogram;
  EXPECT_EQ(histogram.Quantile(0.5), 0u);
  for (uint64_t v = 1; v <= 10000; ++v) histogram.Record(v * 100);
  for (const double q : {0.5, 0.99, 0.999}) {
    const double exact = q * 1000000;
    EXPECT_GE(static_cast<double>(histogram.Quantile(q)), exact * 0.999) << q;
    EXPECT_LE(static_cast<double>(histogram.Quantile(q)), exact * 1.0626) << q;
  }
  histogram.Record(UINT64_MAX);
  EXPECT_EQ(histogram.Quantile(1.0), UINT64_MAX);
}

// A sum never falls: what a loop that has ended counted stays, and the next loop goes on from
// there.
TEST(PerLoop, SumsTheBlocksOfLoopsThatLiveAndThatHaveEnded) {
  struct Block {
    LoopCounter things;
    Histogram sizes;
  };
  PerLoop<Block> loops;
  const auto sum = [&] {
    uint64_t total = 0;
    loops.ForEach([&](const Block& block) { total += block.things.value(); });
    return total;
  };
  constexpr uint64_t kEach = 100000;
  for (uint64_t round = 1; round <= 3; ++round) {
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        const PerLoop<Block>::Lease block(loops);
        for (uint64_t n = 0; n < kEach; ++n) block->things.Add();
        block->sizes.Record(round);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(sum(), 4 * round * kEach);
  }
  size_t blocks = 0;
  Histogram all;
  loops.ForEach([&](const Block& block) {
    ++blocks;
    all.Merge(block.sizes);
  });
  EXPECT_LE(blocks, 4u);  // as many as there were loops at once
  EXPECT_EQ(all.count(), 12u);
  EXPECT_EQ(all.Quantile(1.0), 3u);
}

TEST(EventLoop, RunsPostedTasksTimersAndDescriptors) {
  auto loop = EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  auto event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  std::vector<int> order;
  ASSERT_TRUE((*loop)
                  ->Add(event->fd(), EPOLLIN,
                        [&](uint32_t) {
                          EXPECT_EQ(event->Take(), 1u);
                          order.push_back(2);
                          (*loop)->Remove(event->fd());
                          (*loop)->After(1, [&] {
                            order.push_back(3);
                            (*loop)->Stop();
                          });
                        })
                  .ok());
  std::thread other([&] {
    (*loop)->Post([&] {
      order.push_back(1);
      event->Set();
    });
  });
  (*loop)->Run();
  other.join();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

// Tasks that never end (each posts the next) leave descriptors and timers their turn.
TEST(EventLoop, TasksWithoutEndDoNotStarveDescriptors) {
  auto loop = EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  auto event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  constexpr uint64_t kFlood = 100'000;
  uint64_t tasks = 0, at_event = 0, at_timer = 0;
  const auto finish = [&] {
    if (at_event != 0 && at_timer != 0) (*loop)->Stop();
  };
  ASSERT_TRUE((*loop)
                  ->Add(event->fd(), EPOLLIN,
                        [&](uint32_t) {
                          std::ignore = event->Take();
                          at_event = tasks;
                          finish();
                        })
                  .ok());
  (*loop)->After(0, [&] {
    at_timer = tasks;
    finish();
  });
  event->Set();
  // Both kinds of flood: many at once, and each that brings another.
  std::function<void()> again = [&] {
    if (++tasks < 2 * kFlood) (*loop)->Post(again);
  };
  for (uint64_t i = 0; i < kFlood; ++i) (*loop)->Post([&] { ++tasks; });
  (*loop)->Post(again);
  (*loop)->Run();
  EXPECT_LE(at_event, 1000u);
  EXPECT_LE(at_timer, 1000u);
}

TEST(EventLoop, TasksKeepTheirOrder) {
  auto loop = EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) (*loop)->Post([&order, i] { order.push_back(i); });
  (*loop)->Post([&] { (*loop)->Stop(); });
  (*loop)->Run();
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

[[noreturn]] void AskForStacksThatFitNowhere() {
  pthread_attr_t plain, huge;
  pthread_getattr_default_np(&plain);
  pthread_attr_init(&huge);
  pthread_attr_setstacksize(&huge, size_t{1} << 50);
  bool right = pthread_setattr_default_np(&huge) == 0;
  auto refused = StartThread("a test", [] {});
  right = right && !refused.ok() &&
          Message(refused.status()).starts_with("starting a thread for a test: ");
  if (refused.ok()) refused->join();
  pthread_setattr_default_np(&plain);
  auto started = StartThread("a test", [] {});
  if (started.ok()) started->join();
  _exit(right && started.ok() ? 0 : 1);
}

// No thread to be had: an error with a reason, and the process lives.
TEST(Thread, ARefusedThreadIsAnError) {
  if (kSanitized) GTEST_SKIP() << "sanitizers look at the stack themselves";
  EXPECT_EXIT(AskForStacksThatFitNowhere(), testing::ExitedWithCode(0), "");
}

struct OneResult final : IoRing::Op {
  void OnComplete(int32_t value, uint32_t) override { result = value; }
  int32_t result = 1;
};

// A ring must run what it was made for and refuse every other opcode and every plain descriptor.
TEST(IoRing, RestrictionsHold) {
  auto event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  const int files[] = {event->fd()};
  const uint8_t opcodes[] = {IORING_OP_READ};
  auto ring = IoRing::Create({.entries = 8, .files = files, .opcodes = opcodes});
  ASSERT_TRUE(ring.ok()) << ring.status();
  ASSERT_TRUE((*ring)->Enable().ok());
  uint64_t value = 0;
  auto read = [&](int fd, uint8_t opcode, uint8_t flags) {
    OneResult op;
    io_uring_sqe* sqe = (*ring)->Prepare(&op);
    sqe->opcode = opcode;
    sqe->fd = fd;
    sqe->flags = flags;
    sqe->addr = reinterpret_cast<uintptr_t>(&value);
    sqe->len = sizeof(value);
    while (op.result == 1) {
      (*ring)->Submit(1);
      (*ring)->Reap();
    }
    return op.result;
  };
  event->Set();
  EXPECT_EQ(read(0, IORING_OP_READ, IOSQE_FIXED_FILE), 8);
  EXPECT_EQ(value, 1u);
  EXPECT_EQ(read(0, IORING_OP_WRITE, IOSQE_FIXED_FILE), -EACCES);
  event->Set();
  EXPECT_EQ(read(event->fd(), IORING_OP_READ, 0), -EACCES);
}

}  // namespace
}  // namespace partita
