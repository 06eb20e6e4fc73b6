// The enlightened guest, embedded in this program.
#ifndef PARTITA_TOOLS_PARTITA_GUEST_IMAGE_H_
#define PARTITA_TOOLS_PARTITA_GUEST_IMAGE_H_

#include "base/unique_fd.h"

namespace partita {

// A memfd holding the ELF image.
absl::StatusOr<UniqueFd> GuestImage();

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_GUEST_IMAGE_H_
