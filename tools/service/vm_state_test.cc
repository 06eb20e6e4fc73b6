#include "tools/service/vm_state.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace partita::service {
namespace {

using E = VmEvent;
using S = VmState;
using A = VmAction;

// What must be so for every pair of a state and an event, whatever the table says in detail.
TEST(VmState, EveryPair) {
  for (const S state : kVmStates) {
    for (const E request : kVmRequests) {
      const auto step = Step(state, request);
      const bool ends = request == E::kTurnOff;
      // Off is the only state for what needs no worker.
      if (request == E::kStart || request == E::kRemove || request == E::kChange) {
        EXPECT_EQ(step.has_value(), state == S::kOff) << Name(state) << " " << Name(request);
      }
      // Whatever has a worker can be turned off.
      if (ends) {
        EXPECT_EQ(step.has_value(), HasWorker(state)) << Name(state);
      }
      if (ends && step) {
        EXPECT_EQ(*step, (VmStep{S::kStopping, A::kEnd}));
      }
      if (request == E::kSave) {
        EXPECT_FALSE(step) << Name(state);
      }
      if (step && request != E::kChange) {
        EXPECT_NE(step->action, A::kNone);
      }
      if (step) {
        EXPECT_NE(step->next, S::kSaved);
      }
    }
    for (const E fact : kVmFacts) {
      const auto step = Step(state, fact);
      if (step) {
        EXPECT_EQ(step->action, A::kNone) << "facts ask for nothing";
      }
      // A worker's end is Off from everywhere.
      if (fact == E::kWorkerEnded) {
        EXPECT_EQ(step.has_value(), HasWorker(state)) << Name(state);
        if (step) {
          EXPECT_EQ(step->next, S::kOff);
        }
      }
      // Nothing happens to what has no worker.
      if (!HasWorker(state)) {
        EXPECT_FALSE(step) << Name(state);
      }
    }
  }
}

// States in passing are left when what was asked is done, refused, or the worker ends.
TEST(VmState, NobodyIsStuck) {
  for (const S state : {S::kPausing, S::kResuming, S::kReset}) {
    for (const E fact : {E::kDone, E::kRefused, E::kWorkerEnded, E::kWorkerSilent}) {
      const auto step = Step(state, fact);
      ASSERT_TRUE(step) << Name(state);
      EXPECT_NE(step->next, state) << Name(state);
    }
  }
  EXPECT_EQ(Step(S::kStarting, E::kRefused)->next, S::kOff);
  EXPECT_EQ(Step(S::kStopping, E::kRefused)->next, S::kRunning);
}

// The whole of what is legal, in words: the answer to a request that is not.
TEST(VmState, LegalRequests) {
  EXPECT_EQ(LegalRequests(S::kOff), "start, remove, change");
  EXPECT_EQ(LegalRequests(S::kStarting), "turn off");
  EXPECT_EQ(LegalRequests(S::kRunning), "shut down, turn off, reboot, reset, suspend");
  EXPECT_EQ(LegalRequests(S::kPausing), "turn off");
  EXPECT_EQ(LegalRequests(S::kPaused), "turn off, reset, resume");
  EXPECT_EQ(LegalRequests(S::kResuming), "turn off");
  EXPECT_EQ(LegalRequests(S::kStopping), "turn off");
  EXPECT_EQ(LegalRequests(S::kReset), "turn off");
  EXPECT_EQ(LegalRequests(S::kRunningCritical), "turn off");
  EXPECT_EQ(LegalRequests(S::kPausedCritical), "turn off, reset");
  EXPECT_EQ(LegalRequests(S::kSaved), "nothing");
}

// A full life: the path that every VM goes.
TEST(VmState, Walk) {
  S state = S::kOff;
  const std::pair<E, S> walk[] = {{E::kStart, S::kStarting},
                                  {E::kWorkerStarted, S::kRunning},
                                  {E::kSuspend, S::kPausing},
                                  {E::kDone, S::kPaused},
                                  {E::kResume, S::kResuming},
                                  {E::kDone, S::kRunning},
                                  {E::kSpaceGone, S::kPausedCritical},
                                  {E::kGoesOn, S::kRunning},
                                  {E::kReset, S::kReset},
                                  {E::kDone, S::kRunning},
                                  {E::kWorkerSilent, S::kRunningCritical},
                                  {E::kWorkerStarted, S::kRunning},
                                  {E::kShutdown, S::kStopping},
                                  {E::kWorkerEnded, S::kOff}};
  for (const auto& [event, next] : walk) {
    const auto step = Step(state, event);
    ASSERT_TRUE(step) << Name(state);
    EXPECT_EQ(step->next, next);
    state = next;
  }
}

}  // namespace
}  // namespace partita::service
