// How a channel's loop thread is scheduled beside a VP that shares its CPU.
//
// A batch thread does not preempt at wake-up: a doorbell of a guest that shares this CPU does not
// interrupt the guest's burst; the loop runs when the VP halts or its slice ends, and finds all of
// it. A guest with one request at a time gains nothing by that: preempted at its doorbell, it finds
// the answer when it goes on and need not halt. So the loop gathers while bursts come.
#ifndef PARTITA_VSP_BURST_SCHEDULING_H_
#define PARTITA_VSP_BURST_SCHEDULING_H_

#include <pthread.h>
#include <sched.h>

#include <cstdint>

namespace partita {

// Belongs to the loop thread.
class BurstScheduling {
 public:
  // `shares_cpus`: the host has no CPU left beside the VPs'. Otherwise nothing is ever changed.
  explicit BurstScheduling(bool shares_cpus) : shares_cpus_(shares_cpus) {}

  // On the loop thread, before its first wait.
  void Start() {
    if (shares_cpus_) SetGathering(true);
  }
  // Before each wait: how many packets the last wake brought.
  void AfterWake(uint32_t packets) {
    constexpr uint32_t kLoneWakes = 4;   // in a row: this guest has one request at a time
    constexpr uint32_t kLeftAlone = 64;  // wakes until gathering is tried again
    if (!shares_cpus_ || packets == 0) return;
    if (!gathering_) {
      if (packets > 1 || --until_gathering_ == 0) SetGathering(true);
      lone_wakes_ = 0;
    } else if (packets > 1) {
      lone_wakes_ = 0;
    } else if (++lone_wakes_ >= kLoneWakes) {
      SetGathering(false);
      until_gathering_ = kLeftAlone;
    }
  }
  [[nodiscard]] bool gathering() const { return gathering_; }

 private:
  void SetGathering(bool gather) {
    const sched_param none{};
    pthread_setschedparam(pthread_self(), gather ? SCHED_BATCH : SCHED_OTHER, &none);
    gathering_ = gather;
  }

  const bool shares_cpus_;
  bool gathering_ = false;
  uint32_t lone_wakes_ = 0;       // in a row, that found one packet
  uint32_t until_gathering_ = 0;  // wakes
};

}  // namespace partita

#endif  // PARTITA_VSP_BURST_SCHEDULING_H_
