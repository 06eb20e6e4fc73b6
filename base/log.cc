#include "base/log.h"

#include <time.h>
#include <unistd.h>

#include <atomic>
#include <string>

#include "base/guest_text.h"

namespace partita {
namespace {

// One second's budget for lines a guest can cause. Process-wide on purpose: stderr is one resource.
struct Budget {
  std::atomic<int64_t> second = 0;
  std::atomic<uint32_t> used = 0;
  std::atomic<uint64_t> suppressed = 0;
};

Budget& TheBudget() {
  static Budget budget;
  return budget;
}

}  // namespace

void Log(std::string_view line) {
  std::string text = "partita: ";
  text += line;
  text += '\n';
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

void LogLimited(std::string_view line) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  Budget& budget = TheBudget();
  if (budget.second.exchange(now.tv_sec) != now.tv_sec) budget.used = 0;
  if (budget.used.fetch_add(1) >= kLogBurst) {
    budget.suppressed.fetch_add(1);
    return;
  }
  if (const uint64_t missed = budget.suppressed.exchange(0); missed != 0) {
    Log("(" + std::to_string(missed) + " similar lines left out)");
  }
  Log(line);
}

void LogGuestText(std::string_view prefix, std::string_view text) {
  constexpr size_t kMaxText = 4096;
  std::string clean(text.substr(0, kMaxText));
  for (char& c : clean) {
    // ASCII only: a panic's text is cut at any byte, and half a character is none.
    const auto byte = static_cast<uint8_t>(c);
    if (c != '\n' && c != '\t' && (byte >= 0x80 || !ShowsOnly(byte))) c = '?';
  }
  size_t start = 0;
  while (start < clean.size()) {
    size_t end = clean.find('\n', start);
    if (end == std::string::npos) end = clean.size();
    std::string line(prefix);
    line.append(clean, start, end - start);
    Log(line);
    start = end + 1;
  }
}

}  // namespace partita
