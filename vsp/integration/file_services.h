// Integration services that concern the guest's files: freezing its file systems for a host-side
// copy (VSS), and copying a file into it. Both need a daemon in the guest. Control thread only.
#ifndef PARTITA_VSP_INTEGRATION_FILE_SERVICES_H_
#define PARTITA_VSP_INTEGRATION_FILE_SERVICES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "vsp/integration/integration_service.h"

namespace partita::integration {

class SnapshotService : public IntegrationService {
 public:
  explicit SnapshotService(EventLoop& loop);
  // Freezes the guest's file systems. Whatever happens, they are thawed after `seconds`: a guest
  // whose file systems stand still for long is a guest that hangs.
  void Freeze(uint32_t seconds, const std::function<void(absl::Status)>& done);
  // FailedPrecondition when they were not frozen, or not any more: the copy is not consistent.
  void Thaw(std::function<void(absl::Status)> done);
  [[nodiscard]] bool frozen() const { return frozen_ != 0; }

 protected:
  void OnStopped() override {
    frozen_ = 0;
    freezing_ = false;
  }

 private:
  void Request(uint8_t operation, uint32_t timeout_ms, std::function<void(Answer)> done);
  uint64_t frozen_ = 0;  // number of the freeze that holds; 0: none
  uint64_t freezes_ = 0;
  bool freezing_ = false;  // asked for, and not answered yet
};

class FileCopyService : public IntegrationService {
 public:
  struct Job {
    UniqueFd source;
    std::string name;       // in the guest
    std::string directory;  // in the guest, absolute
    bool overwrite = false;
    bool create_directory = false;
  };
  explicit FileCopyService(EventLoop& loop);
  // One file at a time. `done` gets the bytes that were copied.
  void Copy(Job job, std::function<void(absl::StatusOr<uint64_t>)> done);

 private:
  struct Running {
    Job job;
    uint64_t size = 0, offset = 0;
    std::function<void(absl::StatusOr<uint64_t>)> done;
  };
  void Next(const std::shared_ptr<Running>& running);
  void Fail(const std::shared_ptr<Running>& running, absl::Status status);
  bool busy_ = false;
};

}  // namespace partita::integration

#endif  // PARTITA_VSP_INTEGRATION_FILE_SERVICES_H_
