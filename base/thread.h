// Threads whose start may fail: a host at its limit of threads is no reason to abort a partition.
#ifndef PARTITA_BASE_THREAD_H_
#define PARTITA_BASE_THREAD_H_

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/status.h"

namespace partita {

// Runs `main` on a new thread. `what` says whose thread it is. Any thread.
template <typename Main>
[[nodiscard]] absl::StatusOr<std::thread> StartThread(std::string_view what, Main main) {
  try {
    return std::thread(std::move(main));
  } catch (const std::system_error& error) {  // the library has no other way to say it
    return SystemError(std::string("starting a thread for ") + std::string(what),
                       error.code().value());
  }
}

}  // namespace partita

#endif  // PARTITA_BASE_THREAD_H_
