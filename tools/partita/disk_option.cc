#include "tools/partita/disk_option.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <vector>

#include "tools/control/identity.h"

namespace partita {

absl::StatusOr<DiskOption> ParseDiskOption(std::string_view text) {
  DiskOption option;
  size_t at = text.find(',');
  option.path = text.substr(0, at);
  if (option.path.empty()) return InvalidArgument("--disk needs a path");
  while (at != std::string_view::npos) {
    const size_t next = text.find(',', at + 1);
    const std::string_view word =
        text.substr(at + 1, next == std::string_view::npos ? next : next - at - 1);
    at = next;
    if (word == "ro") {
      option.read_only = true;
    } else if (word == "cache=writeback") {
      option.direct = false;
    } else if (word == "cache=none") {
      option.direct = true;
    } else if (word == "logical=512") {
      option.logical_block = 512;
    } else if (word == "logical=4096") {
      option.logical_block = 4096;
    } else if (word.starts_with("record=") && word.size() > strlen("record=")) {
      option.record = word.substr(strlen("record="));
    } else {
      return InvalidArgument("--disk does not know '" + std::string(word) +
                             "'; it takes ro, cache=writeback, cache=none, logical=512, "
                             "logical=4096 and record=FILE");
    }
  }
  return option;
}

absl::StatusOr<UniqueFd> OpenDisk(const DiskOption& option) {
  struct stat info {};
  if (stat(option.path.c_str(), &info) != 0) return SystemError("disk " + option.path);
  if (S_ISDIR(info.st_mode)) {
    return InvalidArgument("disk " + option.path +
                           " is a directory; a disk is a raw file or a "
                           "block device");
  }
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return InvalidArgument("disk " + option.path + " is neither a regular file nor a block device");
  }
  int flags = O_CLOEXEC | (option.read_only ? O_RDONLY : O_RDWR) | (option.direct ? O_DIRECT : 0);
  if (S_ISBLK(info.st_mode) && !option.read_only) flags |= O_EXCL;
  UniqueFd fd(open(option.path.c_str(), flags));
  if (!fd.valid()) {
    if (errno == EINVAL && option.direct) {
      return FailedPrecondition("disk " + option.path +
                                ": its file system has no O_DIRECT; use cache=writeback");
    }
    if (errno == EBUSY) return FailedPrecondition("disk " + option.path + " is in use");
    return SystemError("disk " + option.path);
  }
  struct flock lock {};
  lock.l_type = static_cast<short>(option.read_only ? F_RDLCK : F_WRLCK);
  lock.l_whence = SEEK_SET;
  if (fcntl(fd.get(), F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) {
      return FailedPrecondition("disk " + option.path + " is in use by another partition");
    }
    return SystemError("locking disk " + option.path);
  }
  uint64_t size = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode)) ioctl(fd.get(), BLKGETSIZE64, &size);
  if (size == 0 || size % option.logical_block != 0) {
    return InvalidArgument("disk " + option.path + " has " + std::to_string(size) +
                           " bytes, which is not a positive multiple of its sector size of " +
                           std::to_string(option.logical_block));
  }
  return fd;
}

std::string DiskIdentity(const DiskOption& option, std::string_view partition_name) {
  return StableIdentity(std::string(partition_name) + '\0' + option.path);
}

}  // namespace partita
