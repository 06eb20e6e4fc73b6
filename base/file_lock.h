// Locks on files: of a process, and of an open file.
#ifndef PARTITA_BASE_FILE_LOCK_H_
#define PARTITA_BASE_FILE_LOCK_H_

#include <fcntl.h>
#include <unistd.h>

namespace partita {

// Takes the whole file for this process alone, until it ends or closes any descriptor of the file;
// false: another process has it (or errno says why not). A child does not inherit it: a lock of the
// open file would live on in one that has yet to execute its program when its parent is killed.
[[nodiscard]] inline bool LockForProcess(int fd) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return fcntl(fd, F_SETLK, &lock) == 0;
}

// Gives back the lock of an open file. Now, not at close: an io_uring that had the descriptor
// registered lets go of it only some time after its owner is gone, and whoever comes next would
// find the file in use.
inline void ReleaseFileLock(int fd) {
  struct flock lock {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  fcntl(fd, F_OFD_SETLK, &lock);
}

}  // namespace partita

#endif  // PARTITA_BASE_FILE_LOCK_H_
