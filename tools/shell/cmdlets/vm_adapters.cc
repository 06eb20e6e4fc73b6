// VMNetworkAdapter, with VLAN and port security.
#include <utility>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

const Json& AdaptersOf(const Json& vm) { return ArrayAt(ObjectAt(vm, "definition"), "adapters"); }

// What it is connected to: a switch, or what the definition has instead of one.
std::string SwitchOf(const Json& adapter) {
  for (const char* key : {"switch", "bridge", "tap"}) {
    if (const std::string name = TextAt(adapter, key); !name.empty()) return name;
  }
  return adapter.value("user", Json(false)) == Json(true) ? "(user)" : "";
}

// As Hyper-V writes it: no colons, in capitals.
std::string MacText(const Json& adapter) {
  std::string out;
  for (const char c : TextAt(adapter, "mac")) {
    if (c != ':' && c != '-') out += c >= 'a' && c <= 'f' ? static_cast<char>(c - 32) : c;
  }
  return out;
}

// Back to `02:15:5D:...`; other text as it is, for the service to refuse.
std::string MacFor(const std::string& typed) {
  std::string digits;
  for (const char c : typed) {
    if (c != ':' && c != '-') digits += c;
  }
  if (digits.size() != 12) return typed;
  std::string out;
  for (size_t i = 0; i < digits.size(); i += 2) out += (i == 0 ? "" : ":") + digits.substr(i, 2);
  return out;
}

Value OnOff(const Json& adapter, const char* key) {
  return adapter.value(key, Json(false)) == Json(true) ? "On" : "Off";
}

Object AdapterObject(const Json& vm, size_t n, const Json& adapter) {
  const std::string name = TextAt(adapter, "name");
  const bool running = TextAt(vm, "state") == "Running";
  Array addresses;
  if (AdaptersOf(vm).size() == 1) {
    for (const Json& address : ArrayAt(vm, "addresses")) {
      if (address.is_string()) addresses.emplace_back(address.get<std::string>());
    }
  }
  Object out("VMNetworkAdapter");
  out.Add("Name", name.empty() ? "Network Adapter" : name)
      .Add("IsManagementOs", false)
      .Add("VMName", TextAt(vm, "name"))
      .Add("SwitchName", SwitchOf(adapter))
      .Add("MacAddress", MacText(adapter))
      .Add("Status", running ? "Ok" : "")
      .Add("IPAddresses", std::move(addresses))
      .Add("Number", static_cast<int64_t>(n), true)
      .Add("VlanId", IntAt(adapter, "vlan"), true)
      .Add("Queues", IntAt(adapter, "queues"), true)
      .Add("MacAddressSpoofing", OnOff(adapter, "spoofing"), true)
      .Add("DhcpGuard", OnOff(adapter, "dhcp_guard"), true)
      .Add("RouterGuard", OnOff(adapter, "router_guard"), true);
  return out;
}

// Numbers of the adapters that -Name or -Number mean. None is an error where `needed`.
std::vector<size_t> Chosen(const Bound& bound, Context& context, const Json& vm, bool needed) {
  std::vector<size_t> out;
  const Json& adapters = AdaptersOf(vm);
  for (size_t n = 0; n < adapters.size(); ++n) {
    if (bound.Has("Number") && bound.Int("Number", 0) != static_cast<int64_t>(n)) continue;
    if (!bound.Has("Number") && bound.Has("Name") &&
        !WildcardMatch(bound.Text("Name"),
                       ToText(Member(AdapterObject(vm, n, adapters[n]), "Name"))))
      continue;
    out.push_back(n);
  }
  if (out.empty() && needed) {
    ErrorRecord error;
    error.id = "adapter.not_found";
    error.category = ErrorCategory::kNotFound;
    error.target = TextAt(vm, "name");
    error.message = TextAt(vm, "name") + " has no such network adapter";
    error.next_step = "Get-VMNetworkAdapter shows what it has";
    context.Error(std::move(error));
  }
  return out;
}

void GetAdapters(const Bound& bound, Context& context, const Json& vm) {
  for (const size_t n : Chosen(bound, context, vm, false)) {
    if (!context.Write(AdapterObject(vm, n, AdaptersOf(vm)[n]))) return;
  }
}

void PutSettings(const Bound& bound, Json* adapter) {
  const auto connect = [&](const char* key, Json value) {
    for (const char* other : {"switch", "bridge", "tap", "user", "none"}) adapter->erase(other);
    (*adapter)[key] = std::move(value);
  };
  if (bound.Has("SwitchName")) connect("switch", bound.Text("SwitchName"));
  if (bound.Has("Bridge")) connect("bridge", bound.Text("Bridge"));
  if (bound.Has("Tap")) connect("tap", bound.Text("Tap"));
  if (bound.Switch("User")) connect("user", true);
  if (bound.Has("StaticMacAddress")) (*adapter)["mac"] = MacFor(bound.Text("StaticMacAddress"));
  if (bound.Has("Queues")) (*adapter)["queues"] = bound.Int("Queues", 1);
  const auto flag = [&](const char* parameter, const char* key) {
    if (bound.Has(parameter)) (*adapter)[key] = EqualsFold(bound.Text(parameter), "On");
  };
  flag("MacAddressSpoofing", "spoofing");
  flag("DhcpGuard", "dhcp_guard");
  flag("RouterGuard", "router_guard");
}

void AddAdapter(const Bound& bound, Context& context, const Json& vm) {
  if (!context.ShouldProcess(TextAt(vm, "name"), "Add-VMNetworkAdapter")) return;
  Json adapter = {{"name", bound.Has("Name") ? bound.Text("Name") : "Network Adapter"}};
  PutSettings(bound, &adapter);
  const auto changed = Ask(context, "POST", VmPath(vm, "/adapters"), adapter);
  if (!changed || !bound.Switch("PassThru") || AdaptersOf(*changed).empty()) return;
  const size_t n = AdaptersOf(*changed).size() - 1;
  context.Write(AdapterObject(*changed, n, AdaptersOf(*changed)[n]));
}

void Patch(const Bound& bound, Context& context, const Json& vm, const char* action,
           const std::function<void(Json*)>& change) {
  const std::vector<size_t> chosen = Chosen(bound, context, vm, true);
  if (chosen.empty() || !context.ShouldProcess(TextAt(vm, "name"), action)) return;
  Json adapters = AdaptersOf(vm);  // a merge patch replaces arrays as a whole
  for (const size_t n : chosen) change(&adapters[n]);
  const auto changed = Ask(context, "PATCH", VmPath(vm), {{"adapters", std::move(adapters)}});
  if (!changed || !bound.Switch("PassThru")) return;
  for (const size_t n : chosen) {
    if (n < AdaptersOf(*changed).size())
      context.Write(AdapterObject(*changed, n, AdaptersOf(*changed)[n]));
  }
}

void SetAdapter(const Bound& bound, Context& context, const Json& vm) {
  Patch(bound, context, vm, "Set-VMNetworkAdapter",
        [&](Json* adapter) { PutSettings(bound, adapter); });
}

void SetVlan(const Bound& bound, Context& context, const Json& vm) {
  Patch(bound, context, vm, "Set-VMNetworkAdapterVlan", [&](Json* adapter) {
    if (bound.Switch("Untagged")) {
      adapter->erase("vlan");
    } else {
      (*adapter)["vlan"] = bound.Int("VlanId", 0);
    }
  });
}

void RemoveAdapter(const Bound& bound, Context& context, const Json& vm) {
  std::vector<size_t> chosen = Chosen(bound, context, vm, true);
  // From the last on, so that the numbers of the others stay.
  for (auto n = chosen.rbegin(); n != chosen.rend(); ++n) {
    if (context.stopped() || !context.ShouldProcess(TextAt(vm, "name"), "Remove-VMNetworkAdapter"))
      return;
    if (!Ask(context, "DELETE", VmPath(vm, "/adapters/" + std::to_string(*n)))) return;
    if (bound.Switch("PassThru")) context.Write(AdapterObject(vm, *n, AdaptersOf(vm)[*n]));
  }
}

std::vector<Parameter> AdapterChoice(std::vector<Parameter> more) {
  std::vector<Parameter> out = {{.name = "Name",
                                 .help = "The name of adapters; wildcards are welcome.",
                                 .aliases = {"VMNetworkAdapterName"}},
                                {.name = "Number",
                                 .type = ParameterType::kInt,
                                 .help = "The adapter's number, from 0.",
                                 .from_property = true}};
  std::move(more.begin(), more.end(), std::back_inserter(out));
  return DeviceParameters(std::move(out));
}

std::vector<Parameter> Settings(std::vector<Parameter> more) {
  const auto on_off = [](const char* name, const char* help) {
    return Parameter{
        .name = name, .type = ParameterType::kEnum, .help = help, .values = {"On", "Off"}};
  };
  std::vector<Parameter> out = {
      {.name = "SwitchName", .help = "The switch it is connected to."},
      {.name = "Bridge", .help = "A bridge of the host instead."},
      {.name = "Tap", .help = "A TAP of the host instead."},
      Flag("User", "The host's own network by address translation; needs no privilege."),
      {.name = "StaticMacAddress", .help = "Its address, like 02155D000001."},
      {.name = "Queues", .type = ParameterType::kInt, .help = "Channels."},
      on_off("MacAddressSpoofing", "Whether it may send from other addresses."),
      on_off("DhcpGuard", "Whether answers of a DHCP server in the guest are dropped."),
      on_off("RouterGuard", "Whether a router's advertisements from the guest are dropped.")};
  std::move(more.begin(), more.end(), std::back_inserter(out));
  return out;
}

CmdletInfo Info(const char* verb, const char* noun, const char* synopsis, const char* description,
                VmAction action) {
  return {.verb = verb,
          .noun = noun,
          .synopsis = synopsis,
          .description = description,
          .output_type = "VMNetworkAdapter",
          .sets = VmSets(),
          .should_process = true,
          .make = EachVm(action)};
}

}  // namespace

void AddAdapterCmdlets(CmdletTable* table) {
  CmdletInfo get =
      Info("Get", "VMNetworkAdapter", "Lists the network adapters of virtual machines.",
           "One line for each adapter.", GetAdapters);
  get.should_process = false;
  get.parameters = AdapterChoice({});
  get.examples = {{"Get-VMNetworkAdapter web1", "A machine's adapters.",
                   "\nName            IsManagementOs VMName SwitchName MacAddress   Status "
                   "IPAddresses\n----            -------------- ------ ---------- ----------   "
                   "------ -----------\nNetwork Adapter False          web1   lan        "
                   "02155D000001 Ok     {192.0.2.7}\n\n"}};
  table->Add(std::move(get));
  CmdletInfo add =
      Info("Add", "VMNetworkAdapter", "Gives virtual machines a network adapter.",
           "To a running machine too. Without a connection it is unplugged.", AddAdapter);
  add.parameters = DeviceParameters(Settings(
      {{.name = "Name", .help = "Its name.", .aliases = {"VMNetworkAdapterName"}}, PassThru()}));
  add.examples = {
      {"Add-VMNetworkAdapter web2 -SwitchName lan -PassThru | ForEach-Object SwitchName",
       "An adapter at a switch.", "lan\n"}};
  table->Add(std::move(add));
  CmdletInfo set = Info("Set", "VMNetworkAdapter", "Changes network adapters of virtual machines.",
                        "Without -Name all of the machine's.", SetAdapter);
  set.parameters = AdapterChoice(Settings({PassThru()}));
  set.examples = {
      {"Set-VMNetworkAdapter web1 -MacAddressSpoofing On -PassThru | ForEach-Object "
       "MacAddressSpoofing",
       "A machine that is a bridge itself.", "On\n"}};
  table->Add(std::move(set));
  CmdletInfo vlan = Info("Set", "VMNetworkAdapterVlan", "Puts network adapters into a VLAN.",
                         "The guest sees no tag.", SetVlan);
  vlan.parameters =
      AdapterChoice({{.name = "VlanId",
                      .type = ParameterType::kInt,
                      .help = "1 to 4094.",
                      .aliases = {"AccessVlanId"}},
                     Flag("Access", "The one mode there is, for scripts that name it."),
                     Flag("Untagged", "Into none."),
                     PassThru()});
  vlan.examples = {
      {"Set-VMNetworkAdapterVlan web1 -Access -VlanId 12 -PassThru | ForEach-Object VlanId",
       "Into VLAN 12.", "12\n"}};
  table->Add(std::move(vlan));
  CmdletInfo remove =
      Info("Remove", "VMNetworkAdapter", "Takes network adapters from virtual machines.",
           "Without -Name all of the machine's.", RemoveAdapter);
  remove.parameters = AdapterChoice({PassThru()});
  remove.examples = {{"Remove-VMNetworkAdapter web1 -Name 'Network Adapter'", "One by name.", ""}};
  table->Add(std::move(remove));
}

}  // namespace partita::shell
