// Asks the real-time clock for an interrupt every second, for as long as this runs, and keeps in FILE how many seconds went
// by since the first one: on that clock, which is the host's, and on this machine's own.
//
//   second-clock FILE
//
// For the lab's outer machine. Its software CPU can lose the flag that says "an interrupt is pending" when the flag
// is set by a device just as a nested guest is entered or left (docs/quirks.md). The interrupt itself is not lost: the
// next one that any device raises brings it back. So there has to be a device besides the one-shot timer.
#include <fcntl.h>
#include <linux/rtc.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static time_t SecondsOf(const struct rtc_time* t) {
  struct tm tm = {.tm_sec = t->tm_sec,   .tm_min = t->tm_min, .tm_hour = t->tm_hour,
                  .tm_mday = t->tm_mday, .tm_mon = t->tm_mon, .tm_year = t->tm_year};
  return timegm(&tm);
}

int main(int argc, char** argv) {
  const int rtc = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
  const int file = argc == 2 ? open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
  if (rtc < 0 || file < 0 || ioctl(rtc, RTC_UIE_ON, 0) != 0) {
    perror("second-clock: /dev/rtc0 or the file");
    return 1;
  }
  unsigned long event = 0;
  time_t first = 0;
  double start = 0;
  while (read(rtc, &event, sizeof(event)) > 0) {
    struct rtc_time now;
    struct timespec own;
    if (ioctl(rtc, RTC_RD_TIME, &now) != 0) continue;
    clock_gettime(CLOCK_MONOTONIC, &own);
    const double seconds = (double)own.tv_sec + (double)own.tv_nsec / 1e9;
    if (first == 0) {
      first = SecondsOf(&now);
      start = seconds;
    }
    char line[64];
    const int length = snprintf(line, sizeof(line), "%8ld %12.3f\n", (long)(SecondsOf(&now) - first), seconds - start);
    if (pwrite(file, line, (size_t)length, 0) != length) return 1;
  }
  return 1;
}
