// `--unpack-kernel`: takes the compressed payload out of a bzImage on the host, so that a slow
// machine need not run the kernel's own decompressor. The result is an ELF image in a memfd, booted
// by PVH. The file is untrusted: it is read piece by piece, and nothing is allocated by a size that
// it claims.
#ifndef PARTITA_TOOLS_HOST_KERNEL_IMAGE_H_
#define PARTITA_TOOLS_HOST_KERNEL_IMAGE_H_

#include "base/unique_fd.h"

namespace partita {

// `fd` is a bzImage whose payload is packed by gzip, bzip2, xz, lz4 (legacy framing) or zstd, or an
// ELF image, which is handed back as it is. A payload that is damaged, cut short or unpacks to
// another size than the image says is an error.
absl::StatusOr<UniqueFd> UnpackKernel(int fd);

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_KERNEL_IMAGE_H_
