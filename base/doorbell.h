// How a guest's HvSignalEvent reaches a channel: the worker connects it to a SynIC backend, tests
// to a plain call. Implementations make the doorbell arrive without leaving the kernel where they
// can.
#ifndef PARTITA_BASE_DOORBELL_H_
#define PARTITA_BASE_DOORBELL_H_

#include <cstdint>

#include "base/status.h"

namespace partita {

class Doorbell {
 public:
  virtual ~Doorbell() = default;
  // From now on a signal to `connection_id` adds 1 to `event_fd` (not owned). Any thread.
  virtual absl::Status Bind(uint32_t connection_id, int event_fd) = 0;
  virtual void Unbind(uint32_t connection_id, int event_fd) = 0;
};

}  // namespace partita

#endif  // PARTITA_BASE_DOORBELL_H_
