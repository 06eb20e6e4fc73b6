// Kernel files of all kinds: `--unpack-kernel` reads what a user downloaded.
#include <sys/mman.h>
#include <unistd.h>

#include "tools/host/kernel_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const partita::UniqueFd fd(memfd_create("kernel", MFD_CLOEXEC));
  if (write(fd.get(), data, size) == static_cast<ssize_t>(size)) {
    static_cast<void>(partita::UnpackKernel(fd.get()).ok());
  }
  return 0;
}
