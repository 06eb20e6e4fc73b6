// Giving back the open-file-description lock on a descriptor.
#ifndef PARTITA_BASE_FILE_LOCK_H_
#define PARTITA_BASE_FILE_LOCK_H_

#include <fcntl.h>
#include <unistd.h>

namespace partita {

// Now, not at close: an io_uring that had the descriptor registered lets go of it only some time
// after its owner is gone, and whoever comes next would find the file in use.
inline void ReleaseFileLock(int fd) {
  struct flock lock {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  fcntl(fd, F_OFD_SETLK, &lock);
}

}  // namespace partita

#endif  // PARTITA_BASE_FILE_LOCK_H_
