#include "tools/partita/switch_command.h"

#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/bridge.h>
#include <nftables/libnftables.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "tools/control/channel.h"
#include "tools/control/identity.h"
#include "tools/host/frame_limit.h"
#include "tools/partita/switch_rules.h"

extern char** environ;

namespace partita {
namespace {

constexpr char kAliasPrefix[] = "partita ";
constexpr char kStateFolder[] = "/run/partita";

template <auto Function>
struct Calls {
  template <typename T>
  void operator()(T* object) const {
    Function(object);
  }
};
using Socket = std::unique_ptr<nl_sock, Calls<nl_socket_free>>;
using Link = std::unique_ptr<rtnl_link, Calls<rtnl_link_put>>;
using Cache = std::unique_ptr<nl_cache, Calls<nl_cache_free>>;

absl::Status NetlinkError(const std::string& what, int error) {
  if (error == -NLE_PERM || error == -NLE_NOACCESS) {
    return absl::Status(absl::StatusCode::kPermissionDenied,
                        AbslView(what + ": this needs CAP_NET_ADMIN"));
  }
  return Internal(what + ": " + nl_geterror(error));
}

absl::StatusOr<Socket> Connect() {
  Socket socket(nl_socket_alloc());
  if (socket == nullptr) return Internal("no memory for a netlink socket");
  if (const int error = nl_connect(socket.get(), NETLINK_ROUTE); error < 0) {
    return NetlinkError("netlink", error);
  }
  return socket;
}

absl::StatusOr<Link> FindLink(nl_sock* socket, const std::string& name) {
  rtnl_link* link = nullptr;
  if (rtnl_link_get_kernel(socket, 0, name.c_str(), &link) < 0) {
    return absl::Status(absl::StatusCode::kNotFound,
                        AbslView("there is no interface '" + name + "'"));
  }
  return Link(link);
}

// The kind of a switch of ours, or empty.
std::string KindOf(rtnl_link* link) {
  const char* alias = rtnl_link_get_ifalias(link);
  if (alias == nullptr || strncmp(alias, kAliasPrefix, strlen(kAliasPrefix)) != 0) return "";
  return alias + strlen(kAliasPrefix);
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? absl::OkStatus() : SystemError("writing " + path);
}

absl::Status RunNft(const std::string& commands) {
  const std::unique_ptr<nft_ctx, Calls<nft_ctx_free>> context(nft_ctx_new(NFT_CTX_DEFAULT));
  if (context == nullptr) return Internal("nftables is not usable");
  nft_ctx_buffer_output(context.get());
  nft_ctx_buffer_error(context.get());
  if (nft_run_cmd_from_buffer(context.get(), commands.c_str()) == 0) return absl::OkStatus();
  std::string text = nft_ctx_get_error_buffer(context.get());
  text = text.substr(0, text.find('\n'));
  return Internal("nftables: " + text);
}

// The address range behind "10.0.0.1/24".
struct Network {
  std::string address, first, last, prefix;
};
absl::StatusOr<Network> ParseNetwork(const std::string& text) {
  unsigned a = 0, b = 0, c = 0, d = 0, bits = 0;
  char rest = 0;
  const bool shape = sscanf(text.c_str(), "%u.%u.%u.%u/%u%c", &a, &b, &c, &d, &bits, &rest) == 5;
  if (!shape || a > 255 || b > 255 || c > 255 || d > 255 || bits < 8 || bits > 29) {
    return InvalidArgument(
        "--address takes an IPv4 address and a prefix of 8 to 29 bits, like "
        "10.0.0.1/24");
  }
  const uint32_t address = a << 24 | b << 16 | c << 8 | d;
  const uint32_t mask = ~0u << (32 - bits);
  const uint32_t base = address & mask, broadcast = base | ~mask;
  auto dotted = [](uint32_t v) {
    return std::to_string(v >> 24) + "." + std::to_string(v >> 16 & 255) + "." +
           std::to_string(v >> 8 & 255) + "." + std::to_string(v & 255);
  };
  // Leases come from above the host's own address, as far as there is room, else from below.
  const bool above = broadcast - address > address - base;
  return Network{.address = dotted(address),
                 .first = dotted(above ? address + 1 : base + 1),
                 .last = dotted(above ? broadcast - 1 : address - 1),
                 .prefix = dotted(base) + "/" + std::to_string(bits)};
}

std::string PidFile(const std::string& name) {
  return std::string(kStateFolder) + "/" + name + ".dnsmasq.pid";
}
std::string LeaseFile(const std::string& name) {
  return std::string(kStateFolder) + "/" + name + ".leases";
}

absl::Status StartDnsmasq(const std::string& name, const Network& network) {
  mkdir(kStateFolder, 0755);
  const std::vector<std::string> arguments = {
      "dnsmasq",
      "--conf-file=/dev/null",
      "--no-hosts",  // the host's own names are not the guests' business
      "--interface=" + name,
      "--except-interface=lo",
      "--bind-interfaces",
      "--dhcp-range=" + network.first + "," + network.last + ",12h",
      "--dhcp-leasefile=" + LeaseFile(name),
      "--pid-file=" + PidFile(name)};
  std::vector<char*> raw;
  raw.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) raw.push_back(const_cast<char*>(argument.c_str()));
  raw.push_back(nullptr);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, "dnsmasq", nullptr, nullptr, raw.data(), environ);
  if (error == ENOENT) return FailedPrecondition("a NAT switch needs the program dnsmasq");
  if (error != 0) return SystemError("starting dnsmasq", error);
  int status = 0;  // it goes into the background once it serves
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return FailedPrecondition("dnsmasq did not start (its own message is above)");
  }
  return absl::OkStatus();
}

void StopDnsmasq(const std::string& name) {
  std::ifstream file(PidFile(name));
  pid_t pid = 0;
  // Only what is still the process that was started here.
  if (file >> pid && pid > 1) {
    std::ifstream line("/proc/" + std::to_string(pid) + "/cmdline");
    std::string word;
    while (std::getline(line, word, '\0')) {
      if (word == "--pid-file=" + PidFile(name)) kill(pid, SIGTERM);
    }
  }
  unlink(PidFile(name).c_str());
  unlink(LeaseFile(name).c_str());
}

absl::Status SetAddress(nl_sock* socket, int index, const std::string& text) {
  const std::unique_ptr<rtnl_addr, Calls<rtnl_addr_put>> address(rtnl_addr_alloc());
  nl_addr* local = nullptr;
  if (nl_addr_parse(text.c_str(), AF_INET, &local) < 0) {
    return InvalidArgument("'" + text + "' is no IPv4 address");
  }
  rtnl_addr_set_ifindex(address.get(), index);
  rtnl_addr_set_local(address.get(), local);
  nl_addr_put(local);
  const int error = rtnl_addr_add(socket, address.get(), 0);
  return error < 0 ? NetlinkError("setting the address " + text, error) : absl::OkStatus();
}

absl::Status SetUp(nl_sock* socket, rtnl_link* link) {
  const Link change(rtnl_link_alloc());
  rtnl_link_set_flags(change.get(), IFF_UP);
  const int error = rtnl_link_change(socket, link, change.get(), 0);
  return error < 0 ? NetlinkError("bringing an interface up", error) : absl::OkStatus();
}

// A bridge without an address of its own takes the lowest of its ports', another one with each
// partition that comes or goes, and what guests have learned is then wrong.
absl::Status SetMac(nl_sock* socket, rtnl_link* bridge, const SwitchOptions& o,
                    rtnl_link* outside) {
  const std::unique_ptr<nl_addr, Calls<nl_addr_put>> address([&] {
    if (outside != nullptr) return nl_addr_clone(rtnl_link_get_addr(outside));
    std::string machine;
    std::ifstream("/etc/machine-id") >> machine;
    std::string mac = "\x02" + StableIdentity(machine + " switch " + o.name).substr(0, 5);
    return nl_addr_build(AF_LLC, mac.data(), mac.size());
  }());
  if (address == nullptr) return Internal("no memory for an address");
  const Link change(rtnl_link_alloc());
  rtnl_link_set_addr(change.get(), address.get());
  const int error = rtnl_link_change(socket, bridge, change.get(), 0);
  return error < 0 ? NetlinkError("setting the bridge's address", error) : absl::OkStatus();
}

// The interface of an external switch; null for the other types.
absl::StatusOr<Link> FindOutside(nl_sock* socket, const SwitchOptions& o) {
  if (o.type != "external") return Link();
  ASSIGN_OR_RETURN(Link outside, FindLink(socket, o.interface));
  if (const int master = rtnl_link_get_master(outside.get()); master != 0) {
    char name[IFNAMSIZ] = {};
    return FailedPrecondition("'" + o.interface + "' belongs to '" +
                              (if_indextoname(master, name) != nullptr ? name : "another bridge") +
                              "' already");
  }
  return outside;
}

absl::Status Isolate(const SwitchOptions& o) {
  const std::string settings = "/proc/sys/net/", of_bridge = "/conf/" + o.name + "/";
  if (o.type == "private" || o.type == "external") {
    // The host has no address of its own there.
    const std::string ipv6 = settings + "ipv6" + of_bridge + "disable_ipv6";
    if (access(ipv6.c_str(), W_OK) == 0) RETURN_IF_ERROR(WriteText(ipv6, "1"));
  }
  // It does not answer for those it has elsewhere either.
  if (o.type == "private") {
    RETURN_IF_ERROR(WriteText(settings + "ipv4" + of_bridge + "arp_ignore", "8"));
  }
  SwitchRules rules{.name = o.name, .type = o.type, .address = {}, .prefix = {}};
  if (!o.address.empty()) {
    ASSIGN_OR_RETURN(const Network network, ParseNetwork(o.address));
    rules.address = network.address;
    rules.prefix = network.prefix;
  }
  return RunNft(CommandsToRemoveTable(o.name) + CommandsToMakeTable(rules));
}

absl::Status Fill(nl_sock* socket, rtnl_link* bridge, const SwitchOptions& o, rtnl_link* outside) {
  RETURN_IF_ERROR(SetMac(socket, bridge, o, outside));
  RETURN_IF_ERROR(Isolate(o));  // before anything can pass
  RETURN_IF_ERROR(LimitFrames(o.name));
  if (o.type == "internal" || o.type == "nat") {
    RETURN_IF_ERROR(SetAddress(socket, rtnl_link_get_ifindex(bridge), o.address));
  }
  RETURN_IF_ERROR(SetUp(socket, bridge));
  if (outside != nullptr) {
    const int error = rtnl_link_enslave(socket, bridge, outside);
    if (error < 0) return NetlinkError("taking " + o.interface + " into the switch", error);
    return SetUp(socket, outside);
  }
  if (o.type == "nat") {
    ASSIGN_OR_RETURN(const Network network, ParseNetwork(o.address));
    RETURN_IF_ERROR(WriteText("/proc/sys/net/ipv4/ip_forward", "1"));
    return StartDnsmasq(o.name, network);
  }
  return absl::OkStatus();
}

absl::Status CheckName(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ ||
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") !=
          std::string::npos) {
    return InvalidArgument("the name of a switch has 1 to 15 letters, digits, '_' and '-'");
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const SwitchOptions& o) {
  const bool addressed = o.type == "internal" || o.type == "nat";
  if (addressed && o.address.empty()) {
    return InvalidArgument("a switch of type " + o.type + " needs --address, like 10.0.0.1/24");
  }
  if (!addressed && !o.address.empty()) {
    return InvalidArgument("the host has no address on a switch of type " + o.type);
  }
  if (addressed) RETURN_IF_ERROR(ParseNetwork(o.address).status());
  if ((o.type == "external") != !o.interface.empty()) {
    return InvalidArgument("--interface and --type external belong together");
  }
  return CheckName(o.name);
}

absl::Status New(const SwitchOptions& o) {
  RETURN_IF_ERROR(CheckOptions(o));
  ASSIGN_OR_RETURN(const Socket socket, Connect());
  ASSIGN_OR_RETURN(const Link outside, FindOutside(socket.get(), o));
  const Link request(rtnl_link_bridge_alloc());
  rtnl_link_set_name(request.get(), o.name.c_str());
  int error = rtnl_link_add(socket.get(), request.get(), NLM_F_CREATE | NLM_F_EXCL);
  if (error == -NLE_EXIST) return FailedPrecondition("'" + o.name + "' exists already");
  if (error < 0) return NetlinkError("making the bridge " + o.name, error);
  ASSIGN_OR_RETURN(const Link bridge, FindLink(socket.get(), o.name));
  const Link alias(rtnl_link_alloc());
  rtnl_link_set_ifalias(alias.get(), (kAliasPrefix + o.type).c_str());
  error = rtnl_link_change(socket.get(), bridge.get(), alias.get(), 0);
  absl::Status status = error < 0 ? NetlinkError("marking the bridge", error)
                                  : Fill(socket.get(), bridge.get(), o, outside.get());
  if (!status.ok()) {  // nothing half-made stays
    StopDnsmasq(o.name);
    static_cast<void>(RunNft(CommandsToRemoveTable(o.name)).ok());
    rtnl_link_delete(socket.get(), bridge.get());
  }
  return status;
}

// Goes through to the end whatever is missing already, so that it can be repeated.
absl::Status Remove(const SwitchOptions& o) {
  RETURN_IF_ERROR(CheckName(o.name));
  ASSIGN_OR_RETURN(const Socket socket, Connect());
  auto bridge = FindLink(socket.get(), o.name);
  if (bridge.ok() && KindOf(bridge->get()).empty()) {
    return FailedPrecondition("'" + o.name + "' is no switch of ours");
  }
  StopDnsmasq(o.name);
  int error = 0;
  if (bridge.ok()) error = rtnl_link_delete(socket.get(), bridge->get());
  if (error < 0 && error != -NLE_NODEV) {
    return NetlinkError("removing the bridge " + o.name, error);
  }
  RETURN_IF_ERROR(RunNft(CommandsToRemoveTable(o.name)));  // last: it guards while there are ports
  if (!bridge.ok()) Log("there is no switch '" + o.name + "' (any more)");
  return absl::OkStatus();
}

absl::Status List(const SwitchOptions& o) {
  ASSIGN_OR_RETURN(const Socket socket, Connect());
  nl_cache* raw = nullptr;
  if (const int error = rtnl_link_alloc_cache(socket.get(), AF_UNSPEC, &raw); error < 0) {
    return NetlinkError("listing interfaces", error);
  }
  const Cache cache(raw);
  struct Row {
    std::string name, type;
    std::vector<std::string> ports;
  };
  std::vector<Row> rows;
  auto each = [&](auto&& visit) {
    for (nl_object* o2 = nl_cache_get_first(cache.get()); o2 != nullptr;
         o2 = nl_cache_get_next(o2)) {
      visit(reinterpret_cast<rtnl_link*>(o2));
    }
  };
  each([&](rtnl_link* link) {
    const std::string kind = KindOf(link);
    if (kind.empty()) return;
    Row row{.name = rtnl_link_get_name(link), .type = kind, .ports = {}};
    const int index = rtnl_link_get_ifindex(link);
    each([&](rtnl_link* other) {
      if (rtnl_link_get_master(other) == index) row.ports.emplace_back(rtnl_link_get_name(other));
    });
    rows.push_back(std::move(row));
  });
  if (o.json) {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const Row& row : rows) {
      out.push_back({{"name", row.name}, {"type", row.type}, {"ports", row.ports}});
    }
    printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  printf("%-16s %-9s %s\n", "NAME", "TYPE", "PORTS");
  for (const Row& row : rows) {
    std::string ports;
    for (const std::string& port : row.ports) ports += (ports.empty() ? "" : " ") + port;
    printf("%-16s %-9s %s\n", row.name.c_str(), row.type.c_str(), ports.c_str());
  }
  return absl::OkStatus();
}

int StatusOf(const absl::Status& status) {
  if (status.ok()) return 0;
  Log(Message(status));
  return status.code() == absl::StatusCode::kInvalidArgument ? control::kExitUsage
                                                             : control::kExitStartFailed;
}

}  // namespace

int NewSwitch(const SwitchOptions& options) { return StatusOf(New(options)); }
int RemoveSwitch(const SwitchOptions& options) { return StatusOf(Remove(options)); }
int ListSwitches(const SwitchOptions& options) { return StatusOf(List(options)); }

}  // namespace partita
