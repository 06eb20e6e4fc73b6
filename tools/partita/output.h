// Writes to a descriptor that somebody else reads (a terminal, a pipe) without ever waiting for it:
// a thread of its own does. One owner; what is behind a reader that has gone away is dropped.
#ifndef PARTITA_TOOLS_PARTITA_OUTPUT_H_
#define PARTITA_TOOLS_PARTITA_OUTPUT_H_

#include <memory>
#include <string_view>

#include "base/unique_fd.h"

namespace partita {

class Output {
 public:
  static constexpr size_t kRoom = 64 << 10;

  // `fd` is not owned. The thread begins with the first Write.
  static absl::StatusOr<Output> Create(int fd);
  Output(Output&&) = default;
  Output& operator=(Output&&) = default;
  ~Output();

  // Takes everything; ask HasRoom before, or what a stuck reader leaves behind grows.
  void Write(std::string_view text);
  [[nodiscard]] bool HasRoom() const;
  [[nodiscard]] bool Drained() const;
  // Readable when something was written since TakeProgress.
  [[nodiscard]] int progress_fd() const;
  void TakeProgress() const;

 private:
  struct State;
  explicit Output(std::shared_ptr<State> state) : state_(std::move(state)) {}
  // Shared with the thread, which may be stuck in its write when the owner goes.
  std::shared_ptr<State> state_;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_OUTPUT_H_
