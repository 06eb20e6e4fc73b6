// How many descriptors this process may have.
#ifndef PARTITA_BASE_DESCRIPTOR_LIMIT_H_
#define PARTITA_BASE_DESCRIPTOR_LIMIT_H_

#include <sys/resource.h>

namespace partita {

// Raises the soft limit to the hard one: each queue, disk and virtual processor is a descriptor.
// For programs without select().
inline void UseAllDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace partita

#endif  // PARTITA_BASE_DESCRIPTOR_LIMIT_H_
