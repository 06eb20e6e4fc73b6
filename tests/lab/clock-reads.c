/* Reads the monotonic clock COUNT times by system call and COUNT times through the vDSO; it must never go back. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long nanoseconds(const struct timespec* t) { return t->tv_sec * 1000000000LL + t->tv_nsec; }

int main(int argc, char** argv) {
  const long count = argc > 1 ? atol(argv[1]) : 10000;
  long reads = 0;
  long long last = 0;
  struct timespec now;
  for (long i = 0; i < 2 * count; ++i) {
    const int failed =
        i < count ? (int)syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now) : clock_gettime(CLOCK_MONOTONIC, &now);
    if (failed || nanoseconds(&now) < last) return 1;
    last = nanoseconds(&now);
    ++reads;
  }
  printf("FACT clock_reads=%ld\n", reads);
  return 0;
}
