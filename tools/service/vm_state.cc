#include "tools/service/vm_state.h"

namespace partita::service {
namespace {

using E = VmEvent;
using S = VmState;
using A = VmAction;

struct Row {
  S state;
  E event;
  S next;
  A action;
};

// clang-format off
constexpr Row kTable[] = {
    {S::kOff,             E::kStart,         S::kStarting,        A::kSpawn},
    {S::kOff,             E::kRemove,        S::kOff,             A::kForget},
    {S::kOff,             E::kChange,        S::kOff,             A::kNone},

    {S::kStarting,        E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kStarting,        E::kWorkerStarted, S::kRunning,         A::kNone},
    {S::kStarting,        E::kWorkerEnded,   S::kOff,             A::kNone},
    {S::kStarting,        E::kRefused,       S::kOff,             A::kNone},
    {S::kStarting,        E::kWorkerSilent,  S::kRunningCritical, A::kNone},

    {S::kRunning,         E::kShutdown,      S::kStopping,        A::kAskShutdown},
    {S::kRunning,         E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kRunning,         E::kReboot,        S::kRunning,         A::kAskReboot},
    {S::kRunning,         E::kReset,         S::kReset,           A::kAskReset},
    {S::kRunning,         E::kSuspend,       S::kPausing,         A::kAskPause},
    {S::kRunning,         E::kWorkerEnded,   S::kOff,             A::kNone},
    {S::kRunning,         E::kPausedNow,     S::kPaused,          A::kNone},
    {S::kRunning,         E::kSpaceGone,     S::kPausedCritical,  A::kNone},
    {S::kRunning,         E::kWorkerSilent,  S::kRunningCritical, A::kNone},

    {S::kPausing,         E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kPausing,         E::kDone,          S::kPaused,          A::kNone},
    {S::kPausing,         E::kPausedNow,     S::kPaused,          A::kNone},
    {S::kPausing,         E::kRefused,       S::kRunning,         A::kNone},
    {S::kPausing,         E::kSpaceGone,     S::kPausedCritical,  A::kNone},
    {S::kPausing,         E::kWorkerEnded,   S::kOff,             A::kNone},
    {S::kPausing,         E::kWorkerSilent,  S::kRunningCritical, A::kNone},

    {S::kPaused,          E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kPaused,          E::kReset,         S::kReset,           A::kAskReset},
    {S::kPaused,          E::kResume,        S::kResuming,        A::kAskResume},
    {S::kPaused,          E::kGoesOn,        S::kRunning,         A::kNone},
    {S::kPaused,          E::kSpaceGone,     S::kPausedCritical,  A::kNone},
    {S::kPaused,          E::kWorkerEnded,   S::kOff,             A::kNone},
    {S::kPaused,          E::kWorkerSilent,  S::kRunningCritical, A::kNone},

    {S::kResuming,        E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kResuming,        E::kDone,          S::kRunning,         A::kNone},
    {S::kResuming,        E::kGoesOn,        S::kRunning,         A::kNone},
    {S::kResuming,        E::kRefused,       S::kPaused,          A::kNone},
    {S::kResuming,        E::kSpaceGone,     S::kPausedCritical,  A::kNone},
    {S::kResuming,        E::kWorkerEnded,   S::kOff,             A::kNone},
    {S::kResuming,        E::kWorkerSilent,  S::kRunningCritical, A::kNone},

    {S::kStopping,        E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kStopping,        E::kRefused,       S::kRunning,         A::kNone},
    {S::kStopping,        E::kWorkerEnded,   S::kOff,             A::kNone},

    {S::kReset,           E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kReset,           E::kDone,          S::kRunning,         A::kNone},
    {S::kReset,           E::kRefused,       S::kRunning,         A::kNone},
    {S::kReset,           E::kSpaceGone,     S::kPausedCritical,  A::kNone},
    {S::kReset,           E::kWorkerEnded,   S::kOff,             A::kNone},
    {S::kReset,           E::kWorkerSilent,  S::kRunningCritical, A::kNone},

    // It answers again, or it is gone; nothing but its end can be asked for.
    {S::kRunningCritical, E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kRunningCritical, E::kWorkerStarted, S::kRunning,         A::kNone},
    {S::kRunningCritical, E::kPausedNow,     S::kPaused,          A::kNone},
    {S::kRunningCritical, E::kGoesOn,        S::kRunning,         A::kNone},
    {S::kRunningCritical, E::kSpaceGone,     S::kPausedCritical,  A::kNone},
    {S::kRunningCritical, E::kWorkerEnded,   S::kOff,             A::kNone},

    // A guest whose writes wait cannot shut down; resuming is for the disk to do.
    {S::kPausedCritical,  E::kTurnOff,       S::kStopping,        A::kEnd},
    {S::kPausedCritical,  E::kReset,         S::kReset,           A::kAskReset},
    {S::kPausedCritical,  E::kPausedNow,     S::kPaused,          A::kNone},
    {S::kPausedCritical,  E::kGoesOn,        S::kRunning,         A::kNone},
    {S::kPausedCritical,  E::kWorkerEnded,   S::kOff,             A::kNone},
    {S::kPausedCritical,  E::kWorkerSilent,  S::kRunningCritical, A::kNone},
};
// clang-format on

}  // namespace

std::optional<VmStep> Step(VmState state, VmEvent event) {
  for (const Row& row : kTable) {
    if (row.state == state && row.event == event) return VmStep{row.next, row.action};
  }
  return std::nullopt;
}

std::string_view Name(VmState state) {
  constexpr std::string_view kNames[] = {
      "Off",      "Starting", "Running",         "Pausing",        "Paused", "Resuming",
      "Stopping", "Reset",    "RunningCritical", "PausedCritical", "Saved"};
  return kNames[static_cast<size_t>(state)];
}

std::string_view Name(VmEvent event) {
  constexpr std::string_view kNames[] = {"start",   "shut down", "turn off", "reboot", "reset",
                                         "suspend", "resume",    "save",     "remove", "change"};
  const auto index = static_cast<size_t>(event);
  return index < std::size(kNames) ? kNames[index] : "";
}

bool Critical(VmState state) { return state == S::kRunningCritical || state == S::kPausedCritical; }

bool HasWorker(VmState state) { return state != S::kOff && state != S::kSaved; }

std::string LegalRequests(VmState state) {
  std::string out;
  for (const VmEvent request : kVmRequests) {
    if (!Step(state, request)) continue;
    if (!out.empty()) out += ", ";
    out += Name(request);
  }
  return out.empty() ? "nothing" : out;
}

}  // namespace partita::service
