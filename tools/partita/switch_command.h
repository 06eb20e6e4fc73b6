// `partita switch`: virtual switches in the Hyper-V sense, which are Linux bridges. Nothing is kept
// beside the kernel's own state: the kind of a switch is the alias of its bridge.
#ifndef PARTITA_TOOLS_PARTITA_SWITCH_COMMAND_H_
#define PARTITA_TOOLS_PARTITA_SWITCH_COMMAND_H_

#include <string>

namespace partita {

struct SwitchOptions {
  std::string name;
  // private: partitions only; internal: and the host; external: and a network interface; nat:
  // internal, with address translation (nftables), DHCP and DNS (dnsmasq).
  std::string type = "private";
  std::string address;    // of the host, like 10.0.0.1/24; internal and nat
  std::string interface;  // external
  bool json = false;
};

// Each returns an exit status.
int NewSwitch(const SwitchOptions& options);
int RemoveSwitch(const SwitchOptions& options);
int ListSwitches(const SwitchOptions& options);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_SWITCH_COMMAND_H_
