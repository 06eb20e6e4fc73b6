// Times of day as RFC 3339, in UTC with milliseconds.
#ifndef PARTITA_TOOLS_SERVICE_WALL_TIME_H_
#define PARTITA_TOOLS_SERVICE_WALL_TIME_H_

#include <time.h>

#include <cstdio>
#include <string>

namespace partita::service {

inline std::string WallTime() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char text[64];
  snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", parts.tm_year + 1900,
           parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
           now.tv_nsec / 1'000'000);
  return text;
}

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_WALL_TIME_H_
