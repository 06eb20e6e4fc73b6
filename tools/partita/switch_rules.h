// What each type of virtual switch lets through, as the nftables commands that make and remove one
// table for it. docs/networking.md has the same as a table of who reaches whom.
#ifndef PARTITA_TOOLS_PARTITA_SWITCH_RULES_H_
#define PARTITA_TOOLS_PARTITA_SWITCH_RULES_H_

#include <string>
#include <string_view>

namespace partita {

struct SwitchRules {
  std::string name;     // of the bridge
  std::string type;     // private, internal, external or nat
  std::string address;  // of the host on it, without a prefix length; internal and nat
  std::string prefix;   // of its network, like 10.0.0.0/24; internal and nat
};

// Empty where nothing is to be filtered (external: its guests are hosts of the network outside).
std::string CommandsToMakeTable(const SwitchRules& rules);

// Succeeds whether the table exists or not.
std::string CommandsToRemoveTable(std::string_view name);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_SWITCH_RULES_H_
