#include "tools/host/disk_option.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <vector>

#include "tools/control/identity.h"

namespace partita {

absl::StatusOr<control::DiskDefinition> ParseDiskOption(std::string_view text) {
  control::DiskDefinition option;
  option.set_logical_block_bytes(512);
  option.set_format("raw");
  size_t at = text.find(',');
  option.set_path(std::string(text.substr(0, at)));
  if (option.path().empty()) return InvalidArgument("--disk needs a path");
  while (at != std::string_view::npos) {
    const size_t next = text.find(',', at + 1);
    const std::string_view word =
        text.substr(at + 1, next == std::string_view::npos ? next : next - at - 1);
    at = next;
    if (word == "ro") {
      option.set_read_only(true);
    } else if (word == "cache=writeback") {
      option.set_direct(false);
    } else if (word == "cache=none") {
      option.set_direct(true);
    } else if (word == "logical=512") {
      option.set_logical_block_bytes(512);
    } else if (word == "logical=4096") {
      option.set_logical_block_bytes(4096);
    } else if (word.starts_with("record=") && word.size() > strlen("record=")) {
      option.set_record(std::string(word.substr(strlen("record="))));
    } else {
      return InvalidArgument("--disk does not know '" + std::string(word) +
                             "'; it takes ro, cache=writeback, cache=none, logical=512, "
                             "logical=4096 and record=FILE");
    }
  }
  return option;
}

absl::StatusOr<UniqueFd> OpenDisk(const control::DiskDefinition& option) {
  if (option.format() != "raw") {
    return InvalidArgument("disk " + option.path() + ": no format '" + option.format() + "'");
  }
  struct stat info {};
  if (stat(option.path().c_str(), &info) != 0) return SystemError("disk " + option.path());
  if (S_ISDIR(info.st_mode)) {
    return InvalidArgument("disk " + option.path() +
                           " is a directory; a disk is a raw file or a "
                           "block device");
  }
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return InvalidArgument("disk " + option.path() +
                           " is neither a regular file nor a block device");
  }
  int flags =
      O_CLOEXEC | (option.read_only() ? O_RDONLY : O_RDWR) | (option.direct() ? O_DIRECT : 0);
  if (S_ISBLK(info.st_mode) && !option.read_only()) flags |= O_EXCL;
  UniqueFd fd(open(option.path().c_str(), flags));
  if (!fd.valid()) {
    if (errno == EINVAL && option.direct()) {
      return FailedPrecondition("disk " + option.path() +
                                ": its file system has no O_DIRECT; use cache=writeback");
    }
    if (errno == EBUSY) return FailedPrecondition("disk " + option.path() + " is in use");
    return SystemError("disk " + option.path());
  }
  struct flock lock {};
  lock.l_type = static_cast<short>(option.read_only() ? F_RDLCK : F_WRLCK);
  lock.l_whence = SEEK_SET;
  if (fcntl(fd.get(), F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) {
      return FailedPrecondition("disk " + option.path() + " is in use by another partition");
    }
    return SystemError("locking disk " + option.path());
  }
  uint64_t size = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode)) ioctl(fd.get(), BLKGETSIZE64, &size);
  if (size == 0 || size % option.logical_block_bytes() != 0) {
    return InvalidArgument("disk " + option.path() + " has " + std::to_string(size) +
                           " bytes, which is not a positive multiple of its sector size of " +
                           std::to_string(option.logical_block_bytes()));
  }
  return fd;
}

std::string DiskIdentity(const control::DiskDefinition& disk, std::string_view partition) {
  return StableIdentity(std::string(partition) + '\0' + disk.path());
}

}  // namespace partita
