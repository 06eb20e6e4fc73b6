#include "tools/partita/guest_image.h"

#include <sys/mman.h>
#include <unistd.h>

extern "C" const unsigned char partita_guest_image[];
extern "C" const unsigned char partita_guest_image_end[];

namespace partita {

absl::StatusOr<UniqueFd> GuestImage() {
  UniqueFd fd(memfd_create("enlightened-guest", MFD_CLOEXEC));
  if (!fd.valid()) return SystemError("creating a memfd for the enlightened guest");
  const auto size = static_cast<size_t>(partita_guest_image_end - partita_guest_image);
  if (write(fd.get(), partita_guest_image, size) != static_cast<ssize_t>(size)) {
    return SystemError("writing the enlightened guest's image");
  }
  return fd;
}

}  // namespace partita
