#include "tools/partita/switch_rules.h"

namespace partita {
namespace {

// One family for IPv4 and IPv6: nothing of either is routed between switches.
std::string TableOf(std::string_view name) { return "inet partita_" + std::string(name); }

}  // namespace

std::string CommandsToMakeTable(const SwitchRules& rules) {
  if (rules.type == "external") return "";
  const std::string in = "iifname \"" + rules.name + "\" ", out = "oifname \"" + rules.name + "\" ";
  std::string input, output, forward;
  // Frames between two ports pass here where the host has br_netfilter loaded.
  forward = in + out + "accept\n";
  if (rules.type == "private") {
    input = in + "drop\n";
    output = out + "drop\n";
  } else {
    // Linux answers for any of its addresses on any interface; the one it has here, behind which a
    // DHCP and a name server may stand, is for this switch.
    input = "iifname != { \"lo\", \"" + rules.name + "\" } ip daddr " + rules.address + " drop\n";
  }
  if (rules.type == "nat") {
    forward += in + "ip saddr " + rules.prefix + " accept\n";
    forward += out + "ct state established,related accept\n";
  }
  forward += in + "drop\n" + out + "drop\n";
  auto chain = [](const char* name, const char* hook, const std::string& body) {
    return std::string("chain ") + name + " {\n" + hook + "\n" + body + "}\n";
  };
  std::string table = "table " + TableOf(rules.name) + " {\n";
  table += chain("input", "type filter hook input priority 0;", input);
  table += chain("forward", "type filter hook forward priority 0;", forward);
  if (!output.empty()) table += chain("output", "type filter hook output priority 0;", output);
  if (rules.type == "nat") {
    table += chain("leaving", "type nat hook postrouting priority 100;",
                   "ip saddr " + rules.prefix + " oifname != \"" + rules.name + "\" masquerade\n");
  }
  return table + "}\n";
}

std::string CommandsToRemoveTable(std::string_view name) {
  // What is added first is there to be deleted, also when somebody flushed the rules meanwhile.
  return "add table " + TableOf(name) + "\ndelete table " + TableOf(name) + "\n";
}

}  // namespace partita
