// States of a VM and what leads from one to another: one pure table, events in, actions out. The
// names are those that Hyper-V shows.
#ifndef PARTITA_TOOLS_SERVICE_VM_STATE_H_
#define PARTITA_TOOLS_SERVICE_VM_STATE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace partita::service {

enum class VmState : uint8_t {
  kOff,
  kStarting,
  kRunning,
  kPausing,
  kPaused,
  kResuming,
  kStopping,
  kReset,
  kRunningCritical,  // the worker is there and does not answer
  kPausedCritical,   // the host's disk is full
  kSaved,            // nothing leads there yet
};
inline constexpr std::array kVmStates = {VmState::kOff,
                                         VmState::kStarting,
                                         VmState::kRunning,
                                         VmState::kPausing,
                                         VmState::kPaused,
                                         VmState::kResuming,
                                         VmState::kStopping,
                                         VmState::kReset,
                                         VmState::kRunningCritical,
                                         VmState::kPausedCritical,
                                         VmState::kSaved};

enum class VmEvent : uint8_t {
  // What somebody asks for.
  kStart,
  kShutdown,
  kTurnOff,
  kReboot,
  kReset,
  kSuspend,
  kResume,
  kSave,
  kRemove,
  kChange,  // of a setting that a running machine cannot change
  // What happens.
  kWorkerStarted,
  kWorkerEnded,  // in order or not
  kDone,         // what was asked of the worker is done
  kRefused,      // the worker or its guest did not do what was asked
  kPausedNow,    // the VPs stand, whoever asked
  kGoesOn,       // they run again
  kSpaceGone,    // a write waits for room on the host's disk
  kWorkerSilent,
};
inline constexpr std::array kVmRequests = {
    VmEvent::kStart,   VmEvent::kShutdown, VmEvent::kTurnOff, VmEvent::kReboot, VmEvent::kReset,
    VmEvent::kSuspend, VmEvent::kResume,   VmEvent::kSave,    VmEvent::kRemove, VmEvent::kChange};
inline constexpr std::array kVmFacts = {
    VmEvent::kWorkerStarted, VmEvent::kWorkerEnded, VmEvent::kDone,      VmEvent::kRefused,
    VmEvent::kPausedNow,     VmEvent::kGoesOn,      VmEvent::kSpaceGone, VmEvent::kWorkerSilent};

enum class VmAction : uint8_t {
  kNone,
  kSpawn,
  kAskShutdown,
  kAskReboot,
  kEnd,  // the worker, at once
  kAskReset,
  kAskPause,
  kAskResume,
  kForget,  // the definition
};

struct VmStep {
  VmState next;
  VmAction action;
  bool operator==(const VmStep&) const = default;
};

// Where an event leads. For a request, nullopt means that it is not legal in that state; for a fact
// that it changes nothing there.
std::optional<VmStep> Step(VmState state, VmEvent event);

std::string_view Name(VmState state);  // "Running"
std::string_view Name(VmEvent event);  // of a request, as a verb: "start"
bool Critical(VmState state);
bool HasWorker(VmState state);
// "start, remove": the requests that are legal in a state.
std::string LegalRequests(VmState state);

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_VM_STATE_H_
