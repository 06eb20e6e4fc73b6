#include "tools/host/kvm_facts.h"

#include <fcntl.h>

#include "base/unique_fd.h"
#include "partition/kvm/kvm.h"

namespace partita {

KvmFacts LookAtKvm() {
  const UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.valid()) return {};
  const KvmCapabilities caps = ProbeKvm(kvm.get());
  return {.usable = true,
          .kernel_synic = caps.KernelSynic(),
          .user_synic = caps.UserSynic(),
          .max_vps = static_cast<uint32_t>(caps.max_vcpus)};
}

}  // namespace partita
