#include "tools/control/channel.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace partita::control {

absl::StatusOr<std::pair<Channel, Channel>> Channel::CreatePair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return SystemError("creating a control socket");
  }
  return std::pair(Channel(UniqueFd(ends[0])), Channel(UniqueFd(ends[1])));
}

absl::Status Channel::Send(const google::protobuf::MessageLite& message,
                           std::span<const int> descriptors) const {
  std::string bytes;
  if (!message.SerializeToString(&bytes) || bytes.size() > kMaxControlMessage ||
      descriptors.size() > kMaxDescriptors) {
    return InvalidArgument("a control message is too long");
  }
  iovec part = {bytes.data(), bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)] = {};
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

absl::Status Channel::Receive(google::protobuf::MessageLite* message,
                              std::vector<UniqueFd>* descriptors) const {
  std::string bytes(kMaxControlMessage, '\0');
  iovec part = {bytes.data(), bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)] = {};
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t got = 0;
  do {
    got = recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    return absl::DeadlineExceededError("no control message");
  }
  if (got < 0) return SystemError("receiving a control message");
  std::vector<UniqueFd> received;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
      received.emplace_back(fd);
    }
  }
  if (got == 0) return Unavailable("the control connection is closed");
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return InvalidArgument("a control message is too long");
  }
  if (!message->ParseFromArray(bytes.data(), static_cast<int>(got))) {
    return InvalidArgument("a control message cannot be understood");
  }
  if (descriptors != nullptr) *descriptors = std::move(received);
  return absl::OkStatus();
}

}  // namespace partita::control
