// Log lines to stderr, one write each. Anything a guest can provoke goes through LogLimited: at
// most `kLogBurst` lines per second for the process; the rest are counted and mentioned later.
#ifndef PARTITA_BASE_LOG_H_
#define PARTITA_BASE_LOG_H_

#include <cstdint>
#include <string_view>

namespace partita {

inline constexpr uint32_t kLogBurst = 10;

void Log(std::string_view line);
void LogLimited(std::string_view line);
// Guest-supplied text made harmless for a terminal: control characters become '?', length bounded.
void LogGuestText(std::string_view prefix, std::string_view text);

}  // namespace partita

#endif  // PARTITA_BASE_LOG_H_
