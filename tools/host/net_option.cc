#include "tools/host/net_option.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/log.h"
#include "tools/control/definition_json.h"
#include "tools/host/frame_limit.h"

extern char** environ;

namespace partita {
namespace {

absl::StatusOr<uint32_t> ParseNumber(std::string_view text, const char* what, uint32_t most) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == 0 || value > most) {
    return InvalidArgument(std::string(what) + "= takes a number from 1 to " +
                           std::to_string(most));
  }
  return value;
}

absl::StatusOr<bool> ParseSwitch(std::string_view text, const char* what) {
  if (text == "on") return true;
  if (text == "off") return false;
  std::string message(what);
  message += "= takes on or off";
  return InvalidArgument(message);
}

absl::StatusOr<ifreq> RequestFor(const std::string& name) {
  ifreq request{};
  if (name.size() >= sizeof(request.ifr_name)) {
    return InvalidArgument("'" + name + "' is too long for the name of an interface");
  }
  std::memcpy(request.ifr_name, name.data(), name.size());
  return request;
}

// Why an interface cannot be used, in words.
absl::Status InterfaceError(const std::string& what) {
  if (errno == EPERM || errno == EACCES) {
    return absl::Status(absl::StatusCode::kPermissionDenied,
                        AbslView(what + ": this needs CAP_NET_ADMIN (or --net user)"));
  }
  return SystemError(what);
}

// One queue of a TAP. `request` names it; the kernel may fill a name in.
absl::StatusOr<UniqueFd> OpenQueue(ifreq& request, short more_flags) {
  UniqueFd fd(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return SystemError("opening /dev/net/tun (is the tun module loaded?)");
  // A filter that an earlier user of a persistent TAP has left is an address in its memory.
  request.ifr_flags =
      static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_NOFILTER | more_flags);
  if (ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    const int error = errno;
    absl::Status status = InterfaceError(std::string("TAP ") + request.ifr_name);
    fd.Reset();
    errno = error;  // callers tell some of them apart
    return status;
  }
  return fd;
}

absl::StatusOr<std::vector<UniqueFd>> OpenQueues(ifreq& request, uint32_t* queues) {
  std::vector<UniqueFd> fds;
  const ifreq original = request;
  auto open_first = [&] {
    request = original;
    auto fd = OpenQueue(request, IFF_MULTI_QUEUE);
    if (fd.ok() || errno != EINVAL) return fd;
    *queues = 1;  // a persistent TAP made with one queue
    request = original;
    return OpenQueue(request, 0);
  };
  auto first = open_first();
  // The kernel lets go of an io_uring's files a moment after its process is gone (docs/quirks.md),
  // so a TAP whose last partition has just ended is still in use.
  constexpr int kTries = 100;
  for (int i = 0; i < kTries && !first.ok() && errno == EBUSY; ++i) {
    usleep(20'000);
    first = open_first();
  }
  if (!first.ok()) {
    if (errno == EBUSY) {
      return FailedPrecondition(std::string("TAP ") + original.ifr_name + " is in use");
    }
    return first.status();
  }
  fds.push_back(*std::move(first));
  while (fds.size() < *queues) {
    ASSIGN_OR_RETURN(UniqueFd fd, OpenQueue(request, IFF_MULTI_QUEUE));
    fds.push_back(std::move(fd));
  }
  return fds;
}

// A larger one works, and slower: no reason to fail. Who may use a TAP need not be allowed to
// change it, and its owner has then to do it (docs/networking.md).
void LimitFramesOf(const std::string& name) {
  const absl::Status status = LimitFrames(name);
  if (!status.ok() && status.code() != absl::StatusCode::kPermissionDenied) Log(Message(status));
}

absl::StatusOr<std::vector<UniqueFd>> OpenTap(const control::AdapterDefinition& option,
                                              uint32_t* queues) {
  ASSIGN_OR_RETURN(ifreq request, RequestFor(option.target()));
  if (if_nametoindex(option.target().c_str()) == 0) {
    return absl::Status(
        absl::StatusCode::kNotFound,
        AbslView("there is no TAP '" + option.target() + "' (ip tuntap add dev " + option.target() +
                 " mode tap multi_queue vnet_hdr makes one; --net bridge=NAME makes "
                 "its own)"));
  }
  ASSIGN_OR_RETURN(std::vector<UniqueFd> fds, OpenQueues(request, queues));
  LimitFramesOf(option.target());
  return fds;
}

absl::StatusOr<std::vector<UniqueFd>> OpenOnBridge(const control::AdapterDefinition& option,
                                                   uint32_t* queues) {
  ASSIGN_OR_RETURN(ifreq bridge, RequestFor(option.target()));
  struct stat info {};
  if (if_nametoindex(option.target().c_str()) == 0) {
    return absl::Status(absl::StatusCode::kNotFound,
                        AbslView("there is no bridge '" + option.target() + "'"));
  }
  if (stat(("/sys/class/net/" + option.target() + "/bridge").c_str(), &info) != 0) {
    return InvalidArgument("'" + option.target() + "' is not a bridge");
  }
  ASSIGN_OR_RETURN(ifreq request, RequestFor("partita%d"));
  ASSIGN_OR_RETURN(std::vector<UniqueFd> fds, OpenQueues(request, queues));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  // A bridge is as wide as its narrowest port.
  if (ioctl(socket.get(), SIOCGIFMTU, &bridge) != 0) return InterfaceError("the bridge's MTU");
  request.ifr_mtu = bridge.ifr_mtu;
  if (ioctl(socket.get(), SIOCSIFMTU, &request) != 0) return InterfaceError("a new TAP's MTU");
  bridge.ifr_ifindex = static_cast<int>(if_nametoindex(request.ifr_name));
  if (ioctl(socket.get(), SIOCBRADDIF, &bridge) != 0) {
    return InterfaceError("adding a port to the bridge " + option.target());
  }
  if (ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return InterfaceError("a new TAP");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return InterfaceError("a new TAP");
  LimitFramesOf(option.target());
  return fds;
}

absl::StatusOr<std::vector<UniqueFd>> OpenUser(const control::AdapterDefinition& option) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return SystemError("creating passt's socket pair");
  }
  UniqueFd ours(ends[0]), theirs(ends[1]);
  constexpr int kTheirs = 3;
  // A second fork inside passt puts it into the background, so the child that is waited for here
  // has said whether it could start.
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), kTheirs);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  // By itself passt makes of the gateway's address the host's 127.0.0.1.
  const char* arguments[] = {
      "passt", "--fd", "3", "--quiet", option.map_gateway() ? nullptr : "--no-map-gw", nullptr};
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, "passt", &actions, &attributes,
                                 const_cast<char* const*>(arguments), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error == ENOENT) return FailedPrecondition("--net user needs the program passt");
  if (error != 0) return SystemError("starting passt", error);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return FailedPrecondition("passt did not start (its own message is above)");
  }
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(ours));
  return fds;
}

}  // namespace

absl::StatusOr<control::AdapterDefinition> ParseNetOption(std::string_view text) {
  control::AdapterDefinition option;
  option.set_name("--net " + std::string(text));
  size_t at = text.find(',');
  const std::string_view what = text.substr(0, at);
  using Kind = control::AdapterDefinition;
  if (what.starts_with("tap=") && what.size() > 4) {
    option.set_kind(Kind::TAP);
    option.set_target(std::string(what.substr(4)));
  } else if (what.starts_with("bridge=") && what.size() > 7) {
    option.set_kind(Kind::BRIDGE);
    option.set_target(std::string(what.substr(7)));
  } else if (what == "user") {
    option.set_kind(Kind::USER);
  } else if (what == "none") {
    option.set_kind(Kind::NONE);
  } else if (what == "null") {
    option.set_kind(Kind::NULL_WIRE);
  } else if (what == "loopback") {
    option.set_kind(Kind::LOOPBACK);
  } else {
    return InvalidArgument("--net takes tap=NAME, bridge=NAME, user or none, not '" +
                           std::string(what) + "'");
  }
  while (at != std::string_view::npos) {
    const size_t next = text.find(',', at + 1);
    const std::string_view word =
        text.substr(at + 1, next == std::string_view::npos ? next : next - at - 1);
    at = next;
    if (word.starts_with("mac=")) {
      auto mac = MacFromText(word.substr(4));
      if (!mac.ok()) return InvalidArgument("mac= takes " + std::string(Message(mac.status())));
      option.set_mac(*mac);
    } else if (word.starts_with("queues=")) {
      ASSIGN_OR_RETURN(const uint32_t queues, ParseNumber(word.substr(7), "queues", 64));
      option.set_queues(queues);
    } else if (word.starts_with("vlan=")) {
      ASSIGN_OR_RETURN(const uint32_t vlan, ParseNumber(word.substr(5), "vlan", 4094));
      option.set_vlan(vlan);
    } else if (word.starts_with("map-gw=")) {
      if (option.kind() != Kind::USER) return InvalidArgument("map-gw= belongs to --net user");
      ASSIGN_OR_RETURN(const bool on, ParseSwitch(word.substr(7), "map-gw"));
      option.set_map_gateway(on);
    } else if (word.starts_with("spoof=")) {
      ASSIGN_OR_RETURN(const bool on, ParseSwitch(word.substr(6), "spoof"));
      option.set_spoofing(on);
    } else if (word.starts_with("dhcp-guard=")) {
      ASSIGN_OR_RETURN(const bool on, ParseSwitch(word.substr(11), "dhcp-guard"));
      option.set_dhcp_guard(on);
    } else if (word.starts_with("router-guard=")) {
      ASSIGN_OR_RETURN(const bool on, ParseSwitch(word.substr(13), "router-guard"));
      option.set_router_guard(on);
    } else {
      return InvalidArgument(
          "--net does not know '" + std::string(word) +
          "'; it takes mac=, queues=, vlan=, map-gw=, spoof=, dhcp-guard= and router-guard=");
    }
  }
  return option;
}

absl::StatusOr<std::vector<UniqueFd>> OpenNet(const control::AdapterDefinition& option,
                                              uint32_t* queues) {
  switch (option.kind()) {
    case control::AdapterDefinition::TAP:
      return OpenTap(option, queues);
    case control::AdapterDefinition::BRIDGE:
    case control::AdapterDefinition::SWITCH:  // a bridge that `partita switch` made
      return OpenOnBridge(option, queues);
    case control::AdapterDefinition::USER:
      *queues = 1;
      return OpenUser(option);
    default:
      return std::vector<UniqueFd>();
  }
}

}  // namespace partita
