// Runs the VMs: carries out what the table of states says, starts workers, takes them up again
// after a restart of the service, and notices how they end. One thread; opening a VM's files has
// one of its own.
#ifndef PARTITA_TOOLS_SERVICE_SUPERVISOR_H_
#define PARTITA_TOOLS_SERVICE_SUPERVISOR_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/event_loop.h"
#include "tools/host/start_builder.h"
#include "tools/service/event_log.h"
#include "tools/service/inventory.h"
#include "tools/service/operations.h"
#include "tools/service/outcome.h"
#include "tools/service/store.h"
#include "tools/service/vm.h"

namespace partita::service {

class Supervisor {
 public:
  struct Options {
    std::string worker;              // the program
    std::string sockets;             // directory for workers' sockets
    bool without_kvm = false;        // workers are fakes
    uint32_t poll_ms = 2000;         // how often workers are asked how they are
    uint32_t silent_ms = 30'000;     // without an answer a worker does not answer
    uint32_t shutdown_ms = 300'000;  // for a guest that was asked to shut down
    uint32_t kill_ms = 20'000;       // for a worker that was told to end
    uint32_t back_off_ms = 1000;     // before the first restart after a crash
  };
  Supervisor(EventLoop& loop, Store& store, Inventory& inventory, Operations& operations,
             EventLog& events, Options options);
  ~Supervisor();

  // Takes up workers that run, and starts what starts by itself.
  void Begin();

  // Each is legal or not in the VM's state; the id of the operation.
  using Started = Outcome<std::string>;
  Started Start(Vm& vm);
  Started Shutdown(Vm& vm, bool force);
  Started Reboot(Vm& vm, bool force);
  Started TurnOff(Vm& vm);
  Started Reset(Vm& vm);
  Started Suspend(Vm& vm);
  Started Resume(Vm& vm);
  Started Save(Vm& vm);
  std::optional<ApiError> Remove(Vm& vm);
  // Asks the worker of a VM that has one.
  void Ask(Vm& vm, control::Request request, std::span<const int> descriptors,
           WorkerLink::Answer answer);
  // Stops every VM by its action; those that are left after `limit_ms` are turned off.
  std::string StopAll(uint32_t limit_ms);

 private:
  Outcome<VmStep> Check(const Vm& vm, VmEvent request) const;
  Started AskWorker(Vm& vm, VmEvent event, const char* kind, control::Request request);
  void MoveTo(Vm& vm, VmState state);
  void Fact(Vm& vm, VmEvent fact);
  void OnOpened(const std::string& id, uint64_t run, absl::StatusOr<StartPackage> package);
  absl::Status Spawn(Vm& vm, StartPackage package);
  WorkerLink::Events LinkEvents(const Vm& vm, uint64_t run);
  void OnEvent(Vm& vm, const control::Event& event);
  void OnGone(Vm& vm, std::optional<int> wait_status);
  void OnCondition(Vm& vm, const control::Condition& condition);
  void AfterEnd(Vm& vm, const LastEnd& end, bool crashed);
  void FailStart(Vm& vm, const ApiError& error);
  void KillLater(const Vm& vm);
  void StartLater(Vm& vm, uint64_t milliseconds, const std::string& why);
  void Adopt(Vm& vm, const RunFile& run);
  void StartByThemselves();
  void PollAll();
  void Poll(Vm& vm);
  void AskAddresses(Vm& vm);
  [[nodiscard]] std::string SocketPath(const Vm& vm) const;
  // The VM, if it still has the worker of that run.
  [[nodiscard]] Vm* At(const std::string& id, uint64_t run) const;

  EventLoop& loop_;
  Store& store_;
  Inventory& inventory_;
  Operations& operations_;
  EventLog& events_;
  const Options options_;
  uint64_t next_run_ = 1;
  std::map<uint64_t, std::thread> opening_;  // by run
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_SUPERVISOR_H_
