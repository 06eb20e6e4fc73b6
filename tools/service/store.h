// What the service keeps: one readable JSON file per VM, and one more for each that has a worker. A
// file is written anew, flushed, renamed and its directory flushed: after a crash the old one or
// the new one is there. A file that cannot be read is set aside and reported; it costs no other.
// One service per directory. One thread.
#ifndef PARTITA_TOOLS_SERVICE_STORE_H_
#define PARTITA_TOOLS_SERVICE_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "tools/control/definition.pb.h"

namespace partita::service {

struct LastEnd {
  int status = 0;  // as the exit status of `partita run`; -1: it said nothing
  std::string reason;
  std::string time;
};

struct StoredVm {
  std::string id;  // a GUID's text
  std::string created;
  uint64_t generation = 1;      // of the definition
  bool wanted_running = false;  // started and not ended in order: for StartIfRunning
  std::optional<LastEnd> last_end;
  control::PartitionDefinition definition;
};

// How to find a worker that runs.
struct RunFile {
  std::string socket;
  std::string secret;  // hexadecimal
  std::string boot_id;
};

class Store {
 public:
  // Makes the directory if there is none. Fails if another service has it.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& directory);

  // All VMs, and a line for each file that was set aside.
  std::vector<StoredVm> Load(std::vector<std::string>* damaged);
  absl::Status Save(const StoredVm& vm) const;
  absl::Status Remove(const std::string& id) const;

  absl::Status SaveRun(const std::string& id, const RunFile& run) const;
  [[nodiscard]] std::optional<RunFile> LoadRun(const std::string& id) const;
  void RemoveRun(const std::string& id) const;
  // Ids of all run-time files there are.
  [[nodiscard]] std::vector<std::string> Runs() const;
  // A new file that a worker writes its end into, and what is in it.
  absl::StatusOr<UniqueFd> NewReport(const std::string& id) const;
  [[nodiscard]] std::optional<LastEnd> ReadReport(const std::string& id) const;

  // The boot id of the host that was noted last, and the note.
  [[nodiscard]] std::string LastBoot() const;
  absl::Status NoteBoot(const std::string& boot_id) const;

  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  explicit Store(std::string directory) : directory_(std::move(directory)) {}
  std::string directory_;
  UniqueFd lock_, vms_, run_;
};

// This boot of the host.
std::string BootId();

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_STORE_H_
