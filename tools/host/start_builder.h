// From a definition to a worker's Start message: opens everything that has a path or a name on this
// host, locks the disks, chooses the SynIC backend. Any thread; a slow file system makes it slow.
#ifndef PARTITA_TOOLS_HOST_START_BUILDER_H_
#define PARTITA_TOOLS_HOST_START_BUILDER_H_

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "tools/control/control.pb.h"
#include "tools/control/definition.pb.h"

namespace partita {

// The message and the descriptors that go with it, by position.
class StartPackage {
 public:
  control::Start start;
  // Takes a descriptor over; its position.
  int32_t Own(UniqueFd fd) {
    owned_.push_back(std::move(fd));
    return static_cast<int32_t>(owned_.size() - 1);
  }
  [[nodiscard]] std::vector<int> descriptors() const {
    std::vector<int> out;
    for (const UniqueFd& fd : owned_) out.push_back(fd.get());
    return out;
  }
  // Once the worker has them, and with them the disks' locks.
  void ReleaseDescriptors() { owned_.clear(); }

 private:
  std::vector<UniqueFd> owned_;
};

struct StartSources {
  std::string identity;  // 16 bytes, stable for the partition; devices' identities derive from it
  std::string disk_key;  // what the identities of its disks derive from
  int kernel_fd = -1;    // instead of the definition's kernel; not taken over
  bool without_kvm = false;  // for workers that are fakes: nothing of KVM is opened or chosen
};

// All but the console.
absl::StatusOr<StartPackage> OpenPartition(const control::PartitionDefinition& definition,
                                           const StartSources& sources);

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_START_BUILDER_H_
