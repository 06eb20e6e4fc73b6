#include "tools/host/frame_limit.h"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

namespace partita {
namespace {

struct Free {
  void operator()(nl_sock* socket) const { nl_socket_free(socket); }
  void operator()(nl_msg* message) const { nlmsg_free(message); }
  void operator()(rtnl_link* link) const { rtnl_link_put(link); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

absl::Status Failed(const std::string& name, int error) {
  const std::string what = "the largest frame of " + name + ": " + nl_geterror(error);
  if (error == -NLE_PERM || error == -NLE_NOACCESS) {
    return absl::Status(absl::StatusCode::kPermissionDenied, AbslView(what));
  }
  return Internal(what);
}

}  // namespace

absl::Status LimitFrames(const std::string& name) {
  const Owned<nl_sock> socket(nl_socket_alloc());
  if (socket == nullptr) return Internal("no memory for a netlink socket");
  if (const int error = nl_connect(socket.get(), NETLINK_ROUTE); error < 0) {
    return Failed(name, error);
  }
  auto find = [&](int index, const char* by_name) {
    rtnl_link* found = nullptr;
    const int error = rtnl_link_get_kernel(socket.get(), index, by_name, &found);
    return std::pair(Owned<rtnl_link>(found), error);
  };
  auto [link, error] = find(0, name.c_str());
  if (link == nullptr) return Failed(name, error);
  if (const int master = rtnl_link_get_master(link.get()); master != 0) {
    auto [above, no_link] = find(master, nullptr);
    if (above == nullptr) return Failed(name, no_link);
    const char* type = rtnl_link_get_type(above.get());
    if (type != nullptr && strcmp(type, "bridge") == 0) link = std::move(above);
  }
  uint32_t size = 0;
  if (rtnl_link_get_gso_max_size(link.get(), &size) == 0 && size <= kFrameLimit) {
    return absl::OkStatus();
  }
  // libnl reads this attribute and has no call that sets it.
  const Owned<nl_msg> message(nlmsg_alloc_simple(RTM_SETLINK, 0));
  ifinfomsg header{};
  header.ifi_index = rtnl_link_get_ifindex(link.get());
  if (message == nullptr ||
      nlmsg_append(message.get(), &header, sizeof(header), NLMSG_ALIGNTO) < 0 ||
      nla_put_u32(message.get(), IFLA_GSO_MAX_SIZE, kFrameLimit) < 0) {
    return Internal("no memory for a netlink message");
  }
  error = nl_send_auto(socket.get(), message.get());
  if (error >= 0) error = nl_wait_for_ack(socket.get());
  return error < 0 ? Failed(name, error) : absl::OkStatus();
}

}  // namespace partita
