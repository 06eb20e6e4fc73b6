#include "base/mutex.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace {
std::atomic<int64_t> wall_clock_ahead_seconds = 0;
}  // namespace

// Takes the place of libc's for the whole program: a wall clock that is about to be set back.
extern "C" int clock_gettime(clockid_t clock, timespec* out) noexcept {
  const auto result = static_cast<int>(syscall(SYS_clock_gettime, clock, out));
  if (clock == CLOCK_REALTIME) out->tv_sec += wall_clock_ahead_seconds.load();
  return result;
}

namespace partita {
namespace {

// A wait that is measured by the wall clock takes an hour longer when the clock is set back by an
// hour behind the moment in which the deadline was computed.
TEST(Mutex, AwaitForDoesNotFollowTheWallClock) {
  wall_clock_ahead_seconds = 3600;
  ASSERT_GT(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now()),
            time(nullptr) + 3000);
  Mutex mutex;
  bool give_up = false, held = true;
  std::atomic<bool> returned = false;
  std::thread waiter([&] {
    MutexLock lock(mutex);
    held = mutex.AwaitFor(std::chrono::milliseconds(1), [&] { return give_up; });
    returned = true;
  });
  for (int i = 0; i < 10'000 && !returned; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(returned);
  wall_clock_ahead_seconds = 0;
  {
    MutexLock lock(mutex);
    give_up = true;
  }
  waiter.join();
  EXPECT_FALSE(held);
}

}  // namespace
}  // namespace partita
