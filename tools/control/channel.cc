#include "tools/control/channel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

namespace partita::control {

absl::StatusOr<std::pair<Channel, Channel>> Channel::CreatePair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return SystemError("creating a control socket");
  }
  return std::pair(Channel(UniqueFd(ends[0])), Channel(UniqueFd(ends[1])));
}

absl::Status Channel::SendPacket(std::span<const char> bytes,
                                 std::span<const int> descriptors) const {
  iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxPacketDescriptors)] = {};
  if (!descriptors.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  if (sendmsg(socket_.get(), &header, MSG_NOSIGNAL) < 0) {
    return SystemError("sending a control message");
  }
  return absl::OkStatus();
}

namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

absl::StatusOr<UniqueFd> SealedFile(std::string_view bytes) {
  UniqueFd file(memfd_create("control-message", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return SystemError("creating a file for a control message");
  while (!bytes.empty()) {
    const ssize_t written = write(file.get(), bytes.data(), bytes.size());
    if (written < 0) return SystemError("writing a control message to its file");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  if (fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) return SystemError("sealing a control message");
  return file;
}

// Only a sealed memory file is read: no other kind can be relied on to answer at once.
absl::Status ReadSealedFile(int file, std::string* bytes) {
  struct stat info {};
  if (fcntl(file, F_GET_SEALS) != kSeals || fstat(file, &info) != 0) {
    return InvalidArgument("the file of a control message is not sealed");
  }
  if (info.st_size <= 0 || static_cast<size_t>(info.st_size) > kMaxMessage) {
    return InvalidArgument("a control message is too long");
  }
  bytes->resize(static_cast<size_t>(info.st_size));
  if (pread(file, bytes->data(), bytes->size(), 0) != info.st_size) {
    return InvalidArgument("the file of a control message cannot be read");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Channel::Send(const google::protobuf::MessageLite& message,
                           std::span<const int> descriptors) const {
  std::string bytes;
  if (!message.SerializeToString(&bytes) || bytes.size() > kMaxMessage) {
    return InvalidArgument("a control message is too long");
  }
  if (descriptors.size() > kMaxDescriptors) {
    return InvalidArgument("a control message has too many descriptors");
  }
  std::vector<int> all(descriptors.begin(), descriptors.end());
  UniqueFd file;
  if (bytes.size() > kMaxPacket) {
    ASSIGN_OR_RETURN(file, SealedFile(bytes));
    all.push_back(file.get());
    bytes.assign(1, static_cast<char>(kBodyInFile));
  }
  std::span<const int> left = all;
  while (left.size() > kMaxPacketDescriptors) {
    const char more = static_cast<char>(kMoreDescriptors);
    RETURN_IF_ERROR(SendPacket(std::span(&more, 1), left.first(kMaxPacketDescriptors)));
    left = left.subspan(kMaxPacketDescriptors);
  }
  return SendPacket(bytes, left);
}

absl::Status Channel::ReceivePacket(Incoming* packet) const {
  packet->bytes.resize(kMaxPacket);
  iovec part = {packet->bytes.data(), packet->bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxPacketDescriptors)] = {};
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t got = 0;
  // ECONNRESET is told once, and before what lies in the queue: the peer went with a message of
  // ours unread. What it said before is still there.
  do {
    got = recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    return absl::DeadlineExceededError("no control message");
  }
  if (got < 0) return SystemError("receiving a control message");
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
      packet->descriptors.emplace_back(fd);
    }
  }
  if (got == 0) return Unavailable("the control connection is closed");
  if ((header.msg_flags & MSG_TRUNC) != 0) {
    return InvalidArgument("a control message is too long");
  }
  if ((header.msg_flags & MSG_CTRUNC) != 0) {
    return InvalidArgument("a control message's descriptors do not fit (see `ulimit -n`)");
  }
  packet->bytes.resize(static_cast<size_t>(got));
  return absl::OkStatus();
}

absl::Status Channel::Receive(google::protobuf::MessageLite* message,
                              std::vector<UniqueFd>* descriptors) const {
  Incoming packet;
  while (true) {
    packet = Incoming();
    const absl::Status status = ReceivePacket(&packet);
    if (absl::IsDeadlineExceeded(status)) return status;  // the rest may come
    std::move(packet.descriptors.begin(), packet.descriptors.end(), std::back_inserter(early_));
    if (!status.ok() || early_.size() > kMaxDescriptors + 1) {
      early_.clear();
      return status.ok() ? InvalidArgument("a control message has too many descriptors") : status;
    }
    if (packet.bytes[0] != static_cast<char>(kMoreDescriptors)) break;
  }
  std::vector<UniqueFd> received = std::exchange(early_, {});
  if (packet.bytes[0] == static_cast<char>(kBodyInFile)) {
    if (received.empty()) return InvalidArgument("a control message without its file");
    const UniqueFd file = std::move(received.back());
    received.pop_back();
    RETURN_IF_ERROR(ReadSealedFile(file.get(), &packet.bytes));
  }
  if (!message->ParseFromString(packet.bytes)) {
    return InvalidArgument("a control message cannot be understood");
  }
  if (descriptors != nullptr) *descriptors = std::move(received);
  return absl::OkStatus();
}

}  // namespace partita::control
