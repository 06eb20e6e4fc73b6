// What this host's KVM offers, in the words of a summary; `partita host` says it in full.
#ifndef PARTITA_TOOLS_HOST_KVM_FACTS_H_
#define PARTITA_TOOLS_HOST_KVM_FACTS_H_

#include <cstdint>

namespace partita {

struct KvmFacts {
  bool usable = false;  // /dev/kvm is there and may be opened
  bool kernel_synic = false, user_synic = false;
  uint32_t max_vps = 0;
};
KvmFacts LookAtKvm();

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_KVM_FACTS_H_
