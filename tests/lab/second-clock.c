// Asks the real-time clock for an interrupt every second, for as long as this runs.
//
// For the lab's outer machine. Its software CPU can lose the flag that says "an interrupt is pending" when the flag
// is set by a device just as a nested guest is entered or left (docs/quirks.md). The interrupt itself is not lost: the
// next one that any device raises brings it back. So there has to be a device besides the one-shot timer.
#include <fcntl.h>
#include <linux/rtc.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void) {
  const int rtc = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
  if (rtc < 0 || ioctl(rtc, RTC_UIE_ON, 0) != 0) {
    perror("second-clock: /dev/rtc0");
    return 1;
  }
  unsigned long event = 0;
  while (read(rtc, &event, sizeof(event)) > 0) {
  }
  return 1;
}
