// Prints the frequency of this machine's time stamp counter in kHz, which a software CPU hands on as its own.
//
// For the lab's outer machine, which would measure it while it boots and believe whatever a busy host made of that. Each
// end of the interval is the reading with the shortest way there and back, so that an interruption does not count.
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static double Nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void Read(double* time, uint64_t* tsc) {
  uint64_t shortest = UINT64_MAX;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t before = __rdtsc();
    const double now = Nanoseconds();
    const uint64_t after = __rdtsc();
    if (after - before < shortest) {
      shortest = after - before;
      *time = now;
      *tsc = before + shortest / 2;
    }
  }
}

int main(void) {
  double from = 0, to = 0;
  uint64_t first = 0, last = 0;
  Read(&from, &first);
  const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
  nanosleep(&pause, NULL);
  Read(&to, &last);
  printf("%.0f\n", (double)(last - first) / (to - from) * 1e6);
  return 0;
}
