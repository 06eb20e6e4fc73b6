// One VM as the service sees it: what is stored, the state it is in, and what its worker says.
#ifndef PARTITA_TOOLS_SERVICE_VM_H_
#define PARTITA_TOOLS_SERVICE_VM_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tools/service/store.h"
#include "tools/service/vm_state.h"
#include "tools/service/worker_link.h"

namespace partita::service {

// What was heard last; of a guest's words only what the worker has made harmless.
struct VmStatus {
  std::string heartbeat, backend, vmbus;
  std::vector<std::string> addresses;
  uint64_t memory_assigned_bytes = 0, memory_demand_bytes = 0, resets = 0;
  std::map<std::string, bool> services;  // by name: whether the guest's driver is there
  double cpu_usage_percent = 0;
  uint64_t cpu_ms = 0, rss_bytes = 0;  // of the worker's process
  uint64_t at_ms = 0;                  // when the process was looked at, CLOCK_MONOTONIC
};

struct Vm {
  StoredVm stored;
  VmState state = VmState::kOff;
  std::unique_ptr<WorkerLink> worker;
  VmStatus status;
  uint64_t started_ms = 0;       // CLOCK_MONOTONIC, of the worker's process
  uint64_t run = 0;              // tells one worker's callbacks from the next one's
  uint64_t heard_ms = 0;         // when the worker answered last
  std::string operation;         // what was started and has not ended
  std::optional<LastEnd> ended;  // told by the worker, which is not gone yet
  bool turned_off = false;       // by request: its end is no crash
  bool waiting_for_space = false, told_paused = false;
  bool keep_wanted = false;  // it is stopped with the host, and to run again with it
  bool polling = false;
  uint32_t polls = 0;                      // answered
  uint64_t restart_number = 0;             // a start that is due later; another request cancels it
  std::deque<uint64_t> crashes_ms;         // CLOCK_MONOTONIC
  std::map<std::string, std::string> hot;  // path of a disk that was added -> its device's id

  [[nodiscard]] const std::string& id() const { return stored.id; }
  [[nodiscard]] const std::string& name() const { return stored.definition.name(); }
};

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_VM_H_
