#include "tools/service/supervisor.h"

#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "tools/host/unix_socket.h"
#include "tools/service/process_facts.h"
#include "tools/service/wall_time.h"

namespace partita::service {
namespace {

constexpr uint32_t kAskMs = 180'000;  // a worker answers within 150 s, whatever its guest does
constexpr size_t kSecretBytes = 32;
constexpr uint64_t kCrashWindowMs = 600'000;
constexpr size_t kMaxCrashes = 5;  // in that window; then it stays off

uint64_t NowMs() { return MonotonicNs() / 1'000'000; }

ApiError WrongState(const Vm& vm, VmEvent request) {
  return error::WrongState(vm.name(), Name(vm.state),
                           absl::StrCat(" and cannot ", std::string(Name(request)),
                                        "; legal in this state: ", LegalRequests(vm.state)));
}

// How a worker ended that said nothing.
std::string Silent(std::optional<int> wait_status) {
  if (!wait_status) return "the worker is gone and has not said why";
  if (WIFSIGNALED(*wait_status)) {
    return absl::StrCat("the worker was killed by signal ", WTERMSIG(*wait_status));
  }
  return "the worker ended without a word";
}

bool InOrder(const LastEnd& end) {
  return end.status == control::kExitPowerOff || end.status == control::kExitReset ||
         end.status >= control::kExitSignalBase;
}

}  // namespace

Supervisor::Supervisor(EventLoop& loop, Store& store, Inventory& inventory, Operations& operations,
                       EventLog& events, Options options)
    : loop_(loop),
      store_(store),
      inventory_(inventory),
      operations_(operations),
      events_(events),
      options_(std::move(options)) {}

Supervisor::~Supervisor() {
  for (auto& [run, thread] : opening_) thread.join();
}

std::string Supervisor::SocketPath(const Vm& vm) const {
  return absl::StrCat(options_.sockets, "/", vm.id());
}

Vm* Supervisor::At(const std::string& id, uint64_t run) const {
  Vm* vm = inventory_.Find(id);
  return vm != nullptr && vm->run == run ? vm : nullptr;
}

void Supervisor::MoveTo(Vm& vm, VmState state) {
  if (vm.state == state) return;
  vm.state = state;
  events_.Add("vm.state", vm.id(), vm.name(), std::string(Name(state)));
}

void Supervisor::Fact(Vm& vm, VmEvent fact) {
  if (const auto step = Step(vm.state, fact)) MoveTo(vm, step->next);
}

Outcome<VmStep> Supervisor::Check(const Vm& vm, VmEvent request) const {
  if (request == VmEvent::kSave) {
    return ApiError{501,
                    "vm.saved_unsupported",
                    "NotImplemented",
                    vm.name(),
                    "a VM cannot be saved yet: Partita has no save and restore",
                    {},
                    "Suspend it, or shut it down."};
  }
  const auto step = Step(vm.state, request);
  if (!step) return WrongState(vm, request);
  return *step;
}

Supervisor::Started Supervisor::Save(Vm& vm) { return Check(vm, VmEvent::kSave).error(); }

Supervisor::Started Supervisor::Start(Vm& vm) {
  auto step = Check(vm, VmEvent::kStart);
  if (!step.ok()) return step.error();
  if (vm.stored.definition.boot().kernel().empty()) {
    return ApiError{409,
                    "vm.no_kernel",
                    "InvalidOperation",
                    vm.name(),
                    absl::StrCat("'", vm.name(), "' has no kernel to boot"),
                    {},
                    "Set boot.kernel (Set-VM -KernelPath)."};
  }
  if (auto busy = inventory_.DisksInUse(vm)) return *busy;
  ++vm.restart_number;
  vm.run = next_run_++;
  vm.status = {};
  vm.ended.reset();
  vm.turned_off = vm.told_paused = vm.waiting_for_space = vm.keep_wanted = false;
  vm.hot.clear();
  vm.stored.wanted_running = true;
  inventory_.Note(vm);
  MoveTo(vm, step->next);
  vm.operation = operations_.Begin("start", vm.id());
  const std::string operation = vm.operation;
  const StartSources sources{
      .identity = GuidBytes(vm.id()), .disk_key = vm.id(), .without_kvm = options_.without_kvm};
  auto open = [this, definition = vm.stored.definition, sources, id = vm.id(), run = vm.run] {
    auto package =
        std::make_shared<absl::StatusOr<StartPackage>>(OpenPartition(definition, sources));
    loop_.Post([this, id, run, package, alive = std::weak_ptr<bool>(alive_)] {
      if (!alive.expired()) OnOpened(id, run, std::move(*package));
    });
  };
  try {
    opening_[vm.run] = std::thread(std::move(open));
  } catch (const std::system_error&) {
    opening_.erase(vm.run);
    FailStart(vm, error::Host(vm.name(), "the host has no thread left to open the VM's files"));
  }
  return operation;
}

void Supervisor::FailStart(Vm& vm, const ApiError& error) {
  vm.stored.last_end = LastEnd{.status = 1, .reason = error.message, .time = WallTime()};
  vm.stored.wanted_running = false;
  inventory_.Note(vm);
  unlink(SocketPath(vm).c_str());
  store_.RemoveRun(vm.id());  // last: while it is there the rest is found and removed
  vm.worker = nullptr;
  vm.run = 0;
  MoveTo(vm, VmState::kOff);
  events_.Add("vm.start_failed", vm.id(), vm.name(), error.message);
  operations_.Fail(std::exchange(vm.operation, ""), error);
}

void Supervisor::OnOpened(const std::string& id, uint64_t run,
                          absl::StatusOr<StartPackage> package) {
  if (const auto it = opening_.find(run); it != opening_.end()) {
    it->second.join();
    opening_.erase(it);
  }
  Vm* vm = At(id, run);
  if (vm == nullptr) return;
  if (vm->state != VmState::kStarting) {  // turned off meanwhile
    return AfterEnd(*vm, {.status = 0, .reason = "turned off by request", .time = WallTime()},
                    false);
  }
  absl::Status status = package.status();
  if (status.ok()) status = Spawn(*vm, *std::move(package));
  if (status.ok()) return;
  ApiError error = error::Host(
      vm->name(), absl::StrCat("'", vm->name(), "' could not be started: ", status.message()));
  error.cause.emplace_back(Message(status));
  FailStart(*vm, error);
}

// How to find the worker is on disk before there is one: a service that ends at any point in
// between finds it again, or finds that there is none.
absl::Status Supervisor::Spawn(Vm& vm, StartPackage package) {
  const std::string path = SocketPath(vm);
  unlink(path.c_str());  // of a worker that is gone: this VM has none
  std::string secret(kSecretBytes, '\0');
  if (getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    return SystemError("getrandom");
  }
  // First of all: what is made behind it is removed with it.
  RETURN_IF_ERROR(
      store_.SaveRun(vm.id(), {.socket = path, .secret = Hex(secret), .boot_id = BootId()}));
  constexpr size_t kBacklog = 4;
  ASSIGN_OR_RETURN(UniqueFd listener, ListenForOwner("worker", path, SOCK_SEQPACKET, kBacklog));
  ASSIGN_OR_RETURN(UniqueFd report, store_.NewReport(vm.id()));
  package.start.set_console(control::CONSOLE_HUB);
  package.start.set_listen_fd(package.Own(std::move(listener)));
  package.start.set_secret(secret);
  package.start.set_report_fd(package.Own(std::move(report)));
  ASSIGN_OR_RETURN(
      vm.worker, WorkerLink::Spawn(loop_, options_.worker, {.socket = path, .secret = Hex(secret)},
                                   package.start, package.descriptors(), LinkEvents(vm, vm.run)));
  vm.started_ms = vm.heard_ms = NowMs();
  return absl::OkStatus();
}

WorkerLink::Events Supervisor::LinkEvents(const Vm& vm, uint64_t run) {
  return {.event =
              [this, id = vm.id(), run](const control::Event& event) {
                if (Vm* at = At(id, run)) OnEvent(*at, event);
              },
          .words =
              [this, id = vm.id(), run](std::string_view words) {
                const Vm* at = At(id, run);
                if (at == nullptr) return;
                while (words.ends_with('\n')) words.remove_suffix(1);
                LogGuestText(absl::StrCat(at->name(), ": "), words);
              },
          .gone =
              [this, id = vm.id(), run](std::optional<int> wait_status) {
                if (Vm* at = At(id, run)) OnGone(*at, wait_status);
              }};
}

void Supervisor::OnEvent(Vm& vm, const control::Event& event) {
  vm.heard_ms = NowMs();
  if (event.has_condition()) return OnCondition(vm, event.condition());
  if (event.has_ended()) {
    vm.ended = LastEnd{
        .status = event.ended().status(), .reason = event.ended().reason(), .time = WallTime()};
    return;
  }
  if (!event.notice().empty()) events_.Add("vm.notice", vm.id(), vm.name(), event.notice());
  if (event.socket_wanted().wanted() != 0) {  // nobody listens for guests here
    control::Request request;
    request.set_id(UINT64_MAX);
    request.mutable_accept_socket()->set_wanted(event.socket_wanted().wanted());
    vm.worker->Send(request, {});
  }
  if (!event.started()) return;
  const bool starting = vm.state == VmState::kStarting;
  Fact(vm, VmEvent::kWorkerStarted);
  if (!starting) return;
  events_.Add("vm.started", vm.id(), vm.name(), "started");
  operations_.Succeed(std::exchange(vm.operation, ""));
}

void Supervisor::OnCondition(Vm& vm, const control::Condition& condition) {
  const bool space = std::exchange(vm.waiting_for_space, condition.waiting_for_space());
  vm.told_paused = condition.paused();
  if (condition.waiting_for_space()) {
    if (!space) events_.Add("vm.disk_full", vm.id(), vm.name(), "the host's disk is full");
    Fact(vm, VmEvent::kSpaceGone);
  } else {
    Fact(vm, condition.paused() ? VmEvent::kPausedNow : VmEvent::kGoesOn);
  }
}

void Supervisor::OnGone(Vm& vm, std::optional<int> wait_status) {
  std::optional<LastEnd> end = std::exchange(vm.ended, std::nullopt);
  if (!end) end = store_.ReadReport(vm.id());
  if (!end) end = LastEnd{.status = -1, .reason = Silent(wait_status), .time = WallTime()};
  AfterEnd(vm, *end, !vm.turned_off && !InOrder(*end));
}

void Supervisor::AfterEnd(Vm& vm, const LastEnd& end, bool crashed) {
  const VmState before = vm.state;
  vm.stored.last_end = end;
  crashed = crashed && before != VmState::kStarting;  // that is a start that failed
  vm.stored.wanted_running =
      vm.keep_wanted || (crashed && vm.stored.definition.actions().restart_on_crash());
  vm.keep_wanted = false;
  inventory_.Note(vm);
  unlink(SocketPath(vm).c_str());
  store_.RemoveRun(vm.id());  // last: while it is there the rest is found and removed
  // Its own callback may be what runs.
  loop_.Post([link = std::shared_ptr<WorkerLink>(std::move(vm.worker))] {});
  vm.worker = nullptr;
  vm.run = 0;
  vm.polling = false;
  Fact(vm, VmEvent::kWorkerEnded);
  events_.Add(crashed ? "vm.crashed" : "vm.ended", vm.id(), vm.name(), end.reason);
  const std::string operation = std::exchange(vm.operation, "");
  const bool wanted = before == VmState::kStopping;
  if (!operation.empty() && wanted) {
    operations_.Succeed(operation);
  } else if (!operation.empty()) {
    operations_.Fail(operation,
                     error::Host(vm.name(), absl::StrCat("'", vm.name(), "': ", end.reason)));
  }
  if (!crashed || !vm.stored.definition.actions().restart_on_crash()) return;
  const uint64_t now = NowMs();
  std::erase_if(vm.crashes_ms, [now](uint64_t at) { return now - at > kCrashWindowMs; });
  vm.crashes_ms.push_back(now);
  if (vm.crashes_ms.size() > kMaxCrashes) {
    vm.stored.wanted_running = false;
    inventory_.Note(vm);
    return events_.Add("vm.restart_given_up", vm.id(), vm.name(),
                       absl::StrCat("it ended ", vm.crashes_ms.size(), " times in 10 minutes"));
  }
  StartLater(vm, uint64_t{options_.back_off_ms} << (vm.crashes_ms.size() - 1),
             "restarted after a crash");
}

void Supervisor::StartLater(Vm& vm, uint64_t milliseconds, const std::string& why) {
  const uint64_t number = ++vm.restart_number;
  loop_.After(static_cast<uint32_t>(milliseconds),
              [this, id = vm.id(), number, why, alive = std::weak_ptr<bool>(alive_)] {
                if (alive.expired()) return;
                Vm* at = inventory_.Find(id);
                if (at == nullptr || at->restart_number != number || at->state != VmState::kOff)
                  return;
                events_.Add("vm.starting", at->id(), at->name(), why);
                auto started = Start(*at);
                if (!started.ok()) {
                  events_.Add("vm.start_failed", at->id(), at->name(), started.error().message);
                }
              });
}

Supervisor::Started Supervisor::TurnOff(Vm& vm) {
  auto step = Check(vm, VmEvent::kTurnOff);
  if (!step.ok()) return step.error();
  const bool answers = vm.state != VmState::kRunningCritical;
  if (!vm.operation.empty()) {
    ApiError given_up{
        409, "vm.turned_off", "InvalidOperation", vm.name(), "the VM was turned off", {}, ""};
    operations_.Fail(vm.operation, std::move(given_up));
  }
  vm.operation = operations_.Begin("turn_off", vm.id());
  const std::string operation = vm.operation;
  vm.turned_off = true;
  MoveTo(vm, step->next);
  if (vm.worker == nullptr) return operation;  // its files are being opened; OnOpened ends it
  if (!answers) {
    vm.worker->Kill();
    return operation;
  }
  control::Request request;
  request.mutable_power_off();
  vm.worker->Ask(std::move(request), {}, kAskMs, [](const auto&) {});
  KillLater(vm);
  return operation;
}

// A worker that does not end by itself: its disks may hang.
void Supervisor::KillLater(const Vm& vm) {
  loop_.After(options_.kill_ms,
              [this, id = vm.id(), run = vm.run, alive = std::weak_ptr<bool>(alive_)] {
                if (alive.expired()) return;
                const Vm* at = At(id, run);
                if (at != nullptr && at->worker != nullptr) at->worker->Kill();
              });
}

// One request to the worker that leads from one state to another.
Supervisor::Started Supervisor::AskWorker(Vm& vm, VmEvent event, const char* kind,
                                          control::Request request) {
  auto step = Check(vm, event);
  if (!step.ok()) return step.error();
  const std::string operation = operations_.Begin(kind, vm.id(), event == VmEvent::kShutdown);
  const bool passing = step->next != vm.state;
  if (passing) vm.operation = operation;
  MoveTo(vm, step->next);
  vm.worker->Ask(std::move(request), {}, kAskMs,
                 [this, id = vm.id(), run = vm.run, operation, event,
                  passing](const absl::StatusOr<control::Reply>& reply) {
                   Vm* at = At(id, run);
                   if (at == nullptr) return;
                   if (!reply.ok()) {
                     if (passing && at->operation == operation) Fact(*at, VmEvent::kRefused);
                     if (at->operation == operation) at->operation.clear();
                     return operations_.Fail(
                         operation,
                         error::Guest(at->name(), absl::StrCat("'", at->name(),
                                                               "': ", reply.status().message())));
                   }
                   if (event == VmEvent::kShutdown) return;  // the worker's end is the end of it
                   if (passing && at->operation == operation) {
                     at->operation.clear();
                     Fact(*at, VmEvent::kDone);
                   }
                   operations_.Succeed(operation);
                 });
  return operation;
}

Supervisor::Started Supervisor::Shutdown(Vm& vm, bool force) {
  control::Request request;
  request.mutable_shutdown_guest()->set_kind(control::ShutdownGuest::POWER_OFF);
  request.mutable_shutdown_guest()->set_force(force);
  Started started = AskWorker(vm, VmEvent::kShutdown, "shutdown", std::move(request));
  if (!started.ok()) return started;
  loop_.After(options_.shutdown_ms, [this, id = vm.id(), run = vm.run, operation = *started,
                                     alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    Vm* at = At(id, run);
    if (at == nullptr || at->operation != operation) return;
    at->operation.clear();
    Fact(*at, VmEvent::kRefused);
    operations_.Fail(operation, TimedOut(at->name(), "the guest has not shut down in time"));
  });
  return started;
}

Supervisor::Started Supervisor::Reboot(Vm& vm, bool force) {
  control::Request request;
  request.mutable_shutdown_guest()->set_kind(control::ShutdownGuest::REBOOT);
  request.mutable_shutdown_guest()->set_force(force);
  return AskWorker(vm, VmEvent::kReboot, "reboot", std::move(request));
}

Supervisor::Started Supervisor::Reset(Vm& vm) {
  control::Request request;
  request.mutable_reset_now();
  return AskWorker(vm, VmEvent::kReset, "reset", std::move(request));
}

Supervisor::Started Supervisor::Suspend(Vm& vm) {
  control::Request request;
  request.mutable_pause();
  return AskWorker(vm, VmEvent::kSuspend, "suspend", std::move(request));
}

Supervisor::Started Supervisor::Resume(Vm& vm) {
  control::Request request;
  request.mutable_resume();
  return AskWorker(vm, VmEvent::kResume, "resume", std::move(request));
}

std::optional<ApiError> Supervisor::Remove(Vm& vm) {
  auto step = Check(vm, VmEvent::kRemove);
  if (!step.ok()) return step.error();
  ++vm.restart_number;
  return inventory_.Remove(vm);
}

void Supervisor::Ask(Vm& vm, control::Request request, std::span<const int> descriptors,
                     WorkerLink::Answer answer) {
  if (vm.worker == nullptr) return answer(Unavailable("the VM has no worker"));
  vm.worker->Ask(std::move(request), descriptors, kAskMs, std::move(answer));
}

void Supervisor::Adopt(Vm& vm, const RunFile& run) {
  vm.run = next_run_++;
  vm.state = VmState::kRunningCritical;  // until it answers
  vm.started_ms = vm.heard_ms = NowMs();
  vm.worker = WorkerLink::Adopt(loop_, {.socket = run.socket, .secret = run.secret},
                                LinkEvents(vm, vm.run));
}

void Supervisor::Begin() {
  const std::string boot = BootId();
  for (const std::string& id : store_.Runs()) {
    const auto run = store_.LoadRun(id);
    Vm* vm = inventory_.Find(id);
    if (!run || run->boot_id != boot) {
      store_.RemoveRun(id);
      continue;
    }
    if (vm == nullptr) {  // kept: with its definition the worker is found again
      events_.Add("service.worker_without_vm", id, "", "a worker may run whose VM is not defined");
      continue;
    }
    Adopt(*vm, *run);
  }
  if (store_.LastBoot() != boot) {
    StartByThemselves();
    static_cast<void>(store_.NoteBoot(boot).ok());
  }
  loop_.After(options_.poll_ms, [this, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired()) PollAll();
  });
}

void Supervisor::StartByThemselves() {
  for (Vm* vm : inventory_.All()) {
    const auto& actions = vm->stored.definition.actions();
    const auto action = actions.automatic_start();
    const bool starts =
        action == control::ActionsDefinition::START ||
        (action == control::ActionsDefinition::START_IF_RUNNING && vm->stored.wanted_running);
    if (starts && vm->state == VmState::kOff) {
      StartLater(*vm, actions.start_delay_ms(), "started with the host");
    }
  }
}

std::string Supervisor::StopAll(uint32_t limit_ms) {
  std::string operation = operations_.Begin("stop_all", "");
  for (Vm* vm : inventory_.All()) {
    ++vm->restart_number;
    if (!HasWorker(vm->state)) continue;
    vm->keep_wanted = true;
    const bool orderly =
        vm->stored.definition.actions().automatic_stop() == control::ActionsDefinition::SHUT_DOWN;
    if (orderly && Shutdown(*vm, false).ok()) continue;
    static_cast<void>(TurnOff(*vm).ok());
  }
  const uint64_t end = NowMs() + limit_ms;
  auto look = std::make_shared<std::function<void()>>();
  *look = [this, operation, end, weak = std::weak_ptr(look), alive = std::weak_ptr<bool>(alive_)] {
    const auto self = weak.lock();
    if (alive.expired() || self == nullptr) return;
    bool left = false;
    for (Vm* vm : inventory_.All()) {
      if (!HasWorker(vm->state)) continue;
      left = true;
      const bool late = NowMs() >= end;
      const bool refused = vm->state != VmState::kStopping;  // the guest did not want to
      if ((late || refused) && !vm->turned_off) static_cast<void>(TurnOff(*vm).ok());
    }
    if (!left) return operations_.Succeed(operation);
    loop_.After(100, [self] { (*self)(); });
  };
  loop_.Post([look] { (*look)(); });
  return operation;
}

void Supervisor::PollAll() {
  for (Vm* vm : inventory_.All()) {
    if (HasWorker(vm->state) && vm->worker != nullptr) Poll(*vm);
  }
  loop_.After(options_.poll_ms, [this, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired()) PollAll();
  });
}

void Supervisor::Poll(Vm& vm) {
  LookAtProcess(vm);
  if (NowMs() - vm.heard_ms > options_.silent_ms && vm.state != VmState::kStopping) {
    if (Step(vm.state, VmEvent::kWorkerSilent)) {
      events_.Add("vm.worker_silent", vm.id(), vm.name(), "the worker does not answer");
    }
    Fact(vm, VmEvent::kWorkerSilent);
  }
  if (std::exchange(vm.polling, true)) return;
  control::Request request;
  request.mutable_get_status();
  vm.worker->Ask(std::move(request), {}, kAskMs,
                 [this, id = vm.id(), run = vm.run](const absl::StatusOr<control::Reply>& reply) {
                   Vm* at = At(id, run);
                   if (at == nullptr) return;
                   at->polling = false;
                   if (!reply.ok()) return;
                   at->heard_ms = NowMs();
                   TakeStatus(*at, *reply);
                   AskAddresses(*at);
                   if (at->state != VmState::kRunningCritical) return;
                   control::Condition condition;
                   condition.set_paused(at->told_paused);
                   condition.set_waiting_for_space(at->waiting_for_space);
                   OnCondition(*at, condition);
                 });
}

// Now and then; the guest's daemon, if there is one, looks at all of its adapters for it.
void Supervisor::AskAddresses(Vm& vm) {
  constexpr uint32_t kEach = 5;
  const auto pairs = vm.status.services.find("key-value pairs");
  if (vm.polls++ % kEach != 0 || vm.stored.definition.adapters().empty() ||
      pairs == vm.status.services.end() || !pairs->second) {
    return;
  }
  control::Request request;
  request.mutable_addresses();
  vm.worker->Ask(std::move(request), {}, kAskMs,
                 [this, id = vm.id(), run = vm.run](const absl::StatusOr<control::Reply>& reply) {
                   Vm* at = At(id, run);
                   if (at != nullptr && reply.ok()) TakeAddresses(*at, *reply);
                 });
}

}  // namespace partita::service
