// `--unpack-kernel`: takes the compressed payload out of a bzImage on the host, so that a slow
// machine need not run the kernel's own decompressor. The result is an ELF image in a memfd, booted
// by PVH.
#ifndef PARTITA_TOOLS_PARTITA_KERNEL_IMAGE_H_
#define PARTITA_TOOLS_PARTITA_KERNEL_IMAGE_H_

#include "base/unique_fd.h"

namespace partita {

// `fd` is a bzImage with a gzip-free payload: xz, legacy lz4 or zstd (what Debian ships).
absl::StatusOr<UniqueFd> UnpackKernel(int fd);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_KERNEL_IMAGE_H_
