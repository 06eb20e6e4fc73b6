#include "tools/control/definition_json.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <set>
#include <utility>
#include <vector>

#include "tools/control/identity.h"
#include "tools/control/json_fields.h"

namespace partita {
namespace {

using control::ActionsDefinition;
using control::AdapterDefinition;
using control::DiskDefinition;
using control::MemoryDefinition;
using control::PartitionDefinition;
using Choice = JsonFields::Choice;

constexpr uint64_t kMiB = 1 << 20, kMinMemory = 32 * kMiB, kMaxMemory = 1ull << 40;
constexpr uint64_t kMaxVps = 64, kMaxQueues = 64, kMaxVlan = 4094, kMaxCpu = 65535;
constexpr size_t kMaxPath = 4095, kMaxName = 100, kMaxNotes = 4096, kMaxCommandLine = 2047;
constexpr size_t kMaxInterface = 15, kMaxAssetTag = 64, kMaxFormat = 16;
constexpr uint64_t kMaxDelayMs = 86'400'000;
constexpr int kMaxDepth = 16;

const std::vector<Choice> kPages = {{"auto", MemoryDefinition::AUTO},
                                    {"4k", MemoryDefinition::SMALL},
                                    {"2m", MemoryDefinition::HUGE},
                                    {"shared", MemoryDefinition::SHARED}};
const std::vector<Choice> kCaches = {{"writeback", 0}, {"none", 1}};
const std::vector<Choice> kStarts = {{"Nothing", ActionsDefinition::NOTHING},
                                     {"StartIfRunning", ActionsDefinition::START_IF_RUNNING},
                                     {"Start", ActionsDefinition::START}};
const std::vector<Choice> kStops = {{"TurnOff", ActionsDefinition::TURN_OFF},
                                    {"ShutDown", ActionsDefinition::SHUT_DOWN}};
const std::vector<Choice> kSynics = {{"auto", PartitionDefinition::AUTO},
                                     {"kernel", PartitionDefinition::KERNEL},
                                     {"user", PartitionDefinition::USER_SPACE}};
const std::vector<Choice> kOnReset = {{"restart", 0}, {"exit", 1}};

const char* NameOf(const std::vector<Choice>& choices, int value) {
  for (const Choice& choice : choices) {
    if (choice.value == value) return choice.name;
  }
  return choices.front().name;
}

absl::Status ReadMemory(const Json& json, const std::string& where, MemoryDefinition& out) {
  JsonFields fields(json, where);
  fields.Number("startup_bytes", kMinMemory, kMaxMemory,
                [&](uint64_t n) { out.set_startup_bytes(n); });
  fields.Number("minimum_bytes", 0, kMaxMemory, [&](uint64_t n) { out.set_minimum_bytes(n); });
  fields.Number("maximum_bytes", 0, kMaxMemory, [&](uint64_t n) { out.set_maximum_bytes(n); });
  fields.OneOf("pages", kPages,
               [&](int v) { out.set_pages(static_cast<MemoryDefinition::Pages>(v)); });
  if (out.startup_bytes() % kMiB != 0) fields.Fail("startup_bytes", "must be a multiple of 1 MiB");
  if (out.minimum_bytes() % kMiB != 0) fields.Fail("minimum_bytes", "must be a multiple of 1 MiB");
  if (out.maximum_bytes() % kMiB != 0) fields.Fail("maximum_bytes", "must be a multiple of 1 MiB");
  if (out.minimum_bytes() > out.startup_bytes()) {
    fields.Fail("minimum_bytes", "must not be more than startup_bytes");
  }
  if (out.maximum_bytes() != 0 && out.maximum_bytes() < out.startup_bytes()) {
    fields.Fail("maximum_bytes", "must not be less than startup_bytes");
  }
  return fields.Finish();
}

absl::Status ReadProcessors(const Json& json, const std::string& where,
                            control::ProcessorDefinition& out) {
  JsonFields fields(json, where);
  fields.Number("count", 1, kMaxVps, [&](uint64_t n) { out.set_count(static_cast<uint32_t>(n)); });
  fields.List("affinity", kMaxVps, [&](const Json& cpu, const std::string& at) {
    if (!cpu.is_number_unsigned() || cpu.get<uint64_t>() > kMaxCpu) {
      return InvalidArgument("'" + at.substr(0, at.size() - 1) + "' must be the number of a CPU");
    }
    out.add_affinity(cpu.get<int32_t>());
    return absl::OkStatus();
  });
  return fields.Finish();
}

absl::Status ReadBoot(const Json& json, const std::string& where, control::BootDefinition& out) {
  JsonFields fields(json, where);
  fields.Text("kernel", kMaxPath, [&](const std::string& t) { out.set_kernel(t); });
  fields.Text("initrd", kMaxPath, [&](const std::string& t) { out.set_initrd(t); });
  fields.Text("command_line", kMaxCommandLine,
              [&](const std::string& t) { out.set_command_line(t); });
  fields.Flag("unpack_kernel", [&](bool on) { out.set_unpack_kernel(on); });
  return fields.Finish();
}

absl::Status ReadActions(const Json& json, const std::string& where, ActionsDefinition& out) {
  JsonFields fields(json, where);
  fields.OneOf("automatic_start", kStarts,
               [&](int v) { out.set_automatic_start(static_cast<ActionsDefinition::Start>(v)); });
  fields.Number("start_delay_ms", 0, kMaxDelayMs, [&](uint64_t n) { out.set_start_delay_ms(n); });
  fields.OneOf("automatic_stop", kStops,
               [&](int v) { out.set_automatic_stop(static_cast<ActionsDefinition::Stop>(v)); });
  fields.Flag("restart_on_crash", [&](bool on) { out.set_restart_on_crash(on); });
  return fields.Finish();
}

absl::Status ReadTuning(const Json& json, const std::string& where,
                        control::TuningDefinition& out) {
  JsonFields fields(json, where);
  fields.Number("storage_queues", 0, kMaxQueues,
                [&](uint64_t n) { out.set_storage_queues(static_cast<uint32_t>(n)); });
  fields.Text("vmbus_version", kMaxFormat, [&](const std::string& text) {
    unsigned major = 0, minor = 0;
    char rest = 0;
    if (text.empty()) return;
    if (sscanf(text.c_str(), "%3u.%3u%c", &major, &minor, &rest) != 2 || major > 100 ||
        minor > 100) {
      return fields.Fail("vmbus_version", "must be a version like 5.3");
    }
    out.set_vmbus_version(major << 16 | minor);
  });
  fields.Flag("synthetic_timers", [&](bool on) { out.set_synthetic_timers(on); });
  fields.OneOf("on_reset", kOnReset, [&](int v) { out.set_exit_on_reset(v == 1); });
  return fields.Finish();
}

// The one key that says what an adapter is connected to.
void ReadConnection(JsonFields& fields, AdapterDefinition& out) {
  int given = 0;
  const auto named = [&](const char* key, AdapterDefinition::Kind kind) {
    fields.Text(key, kMaxInterface, [&, key, kind](const std::string& text) {
      if (text.empty()) return fields.Fail(key, "must be a name");
      ++given;
      out.set_kind(kind);
      out.set_target(text);
    });
  };
  const auto plain = [&](const char* key, AdapterDefinition::Kind kind) {
    fields.Flag(key, [&, kind](bool on) {
      if (!on) return;
      ++given;
      out.set_kind(kind);
    });
  };
  named("switch", AdapterDefinition::SWITCH);
  named("bridge", AdapterDefinition::BRIDGE);
  named("tap", AdapterDefinition::TAP);
  plain("user", AdapterDefinition::USER);
  plain("none", AdapterDefinition::NONE);
  if (given > 1) fields.Fail("none", "and the other connections exclude one another");
}

// A list that may be given again as a whole: what stood there before is gone.
absl::Status ReadDisks(JsonFields& fields, PartitionDefinition& out) {
  fields.List("disks", kMaxDisks, [&](const Json& disk, const std::string& where) {
    ASSIGN_OR_RETURN(*out.add_disks(), DiskFromJson(disk, where));
    return absl::OkStatus();
  });
  fields.List("adapters", kMaxAdapters, [&](const Json& adapter, const std::string& where) {
    ASSIGN_OR_RETURN(*out.add_adapters(), AdapterFromJson(adapter, where));
    return absl::OkStatus();
  });
  std::set<std::string> paths, macs;
  for (const DiskDefinition& disk : out.disks()) {
    if (!paths.insert(disk.path()).second) fields.Fail("disks", "name one path twice");
  }
  for (const AdapterDefinition& adapter : out.adapters()) {
    if (!adapter.mac().empty() && !macs.insert(adapter.mac()).second) {
      fields.Fail("adapters", "have one address twice");
    }
  }
  return absl::OkStatus();
}

absl::Status TooDeep() {
  return InvalidArgument("the JSON is nested deeper than " + std::to_string(kMaxDepth));
}

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  absl::Status status;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth && status.ok()) status = TooDeep();
    if (!status.ok()) return false;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      status = InvalidArgument("the key '" + value.get<std::string>().substr(0, 64) +
                               "' is there twice");
    }
    return true;
  };
  // Depth first, without building anything: the parser itself does not recurse, but what follows
  // does.
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quoted) {
      if (text[i] == '\\')
        ++i;
      else if (text[i] == '"')
        quoted = false;
    } else if (text[i] == '"') {
      quoted = true;
    } else if (text[i] == '[' || text[i] == '{') {
      if (++depth > kMaxDepth) return TooDeep();
    } else if (text[i] == ']' || text[i] == '}') {
      --depth;
    }
  }
  try {
    Json json = Json::parse(text, watch);
    RETURN_IF_ERROR(status);
    return json;
  } catch (const Json::exception& error) {
    size_t byte = text.size();
    if (const auto* at = dynamic_cast<const Json::parse_error*>(&error)) byte = at->byte;
    const auto end = text.begin() + static_cast<ptrdiff_t>(std::min(byte, text.size()));
    return InvalidArgument("line " + std::to_string(1 + std::count(text.begin(), end, '\n')) +
                           " is not valid JSON");
  }
}

bool IsGuidText(std::string_view text) {
  constexpr std::string_view kShape = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  if (text.size() != kShape.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (kShape[i] == '-' ? c != '-' : std::isxdigit(c) == 0) return false;
  }
  return true;
}

absl::Status CheckPartitionName(std::string_view name) {
  const bool odd = std::any_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7F || c == '/';
  });
  if (name.empty() || name.size() > kMaxName || odd || name.front() == ' ' || name.back() == ' ' ||
      name == "." || name == ".." || IsGuidText(name)) {
    return InvalidArgument(
        "'name' must have 1 to 100 characters, without '/', control characters or spaces at its "
        "ends, and be no GUID");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> MacFromText(std::string_view text) {
  std::array<unsigned, 6> parts{};
  std::array<char, 5> separators{};
  const std::string copy(text);
  char rest = 0;
  const int got = sscanf(copy.c_str(), "%2x%c%2x%c%2x%c%2x%c%2x%c%2x%c", parts.data(),
                         separators.data(), &parts[1], &separators[1], &parts[2], &separators[2],
                         &parts[3], &separators[3], &parts[4], &separators[4], &parts[5], &rest);
  const bool separated = std::all_of(separators.begin(), separators.end(), [&](char c) {
    return (c == ':' || c == '-') && c == separators[0];
  });
  if (got != 11 || !separated || text.size() != 17) {
    return InvalidArgument("six pairs of hexadecimal digits, as in 00:15:5d:00:00:01");
  }
  std::string mac;
  for (const unsigned part : parts) mac.push_back(static_cast<char>(part));
  if ((parts[0] & 1) != 0) return InvalidArgument("no group address, as " + copy + " is one");
  if (mac == std::string(6, '\0')) return InvalidArgument("an address other than " + copy);
  return mac;
}

absl::StatusOr<DiskDefinition> DiskFromJson(const Json& json, const std::string& where) {
  DiskDefinition out;
  out.set_logical_block_bytes(512);
  out.set_format("raw");
  JsonFields fields(json, where);
  fields.Text("path", kMaxPath, [&](const std::string& t) { out.set_path(t); });
  fields.Flag("read_only", [&](bool on) { out.set_read_only(on); });
  fields.OneOf("cache", kCaches, [&](int v) { out.set_direct(v == 1); });
  fields.Number("logical_block_bytes", 512, 4096, [&](uint64_t n) {
    if (n != 512 && n != 4096) return fields.Fail("logical_block_bytes", "must be 512 or 4096");
    out.set_logical_block_bytes(static_cast<uint32_t>(n));
  });
  fields.Text("format", kMaxFormat, [&](const std::string& t) {
    if (t != "raw") return fields.Fail("format", "must be raw");
    out.set_format(t);
  });
  if (out.path().empty()) fields.Fail("path", "is missing");
  RETURN_IF_ERROR(fields.Finish());
  return out;
}

absl::StatusOr<AdapterDefinition> AdapterFromJson(const Json& json, const std::string& where) {
  AdapterDefinition out;
  out.set_name("Network Adapter");
  JsonFields fields(json, where);
  fields.Text("name", kMaxName, [&](const std::string& t) { out.set_name(t); });
  ReadConnection(fields, out);
  fields.Text("mac", 17, [&](const std::string& t) {
    if (t.empty()) return;
    auto mac = MacFromText(t);
    if (!mac.ok()) return fields.Fail("mac", "must be " + std::string(Message(mac.status())));
    out.set_mac(*mac);
  });
  fields.Number("vlan", 0, kMaxVlan, [&](uint64_t n) { out.set_vlan(static_cast<uint32_t>(n)); });
  fields.Number("queues", 0, kMaxQueues,
                [&](uint64_t n) { out.set_queues(static_cast<uint32_t>(n)); });
  fields.Flag("map_gateway", [&](bool on) { out.set_map_gateway(on); });
  fields.Flag("spoofing", [&](bool on) { out.set_spoofing(on); });
  fields.Flag("dhcp_guard", [&](bool on) { out.set_dhcp_guard(on); });
  fields.Flag("router_guard", [&](bool on) { out.set_router_guard(on); });
  if (out.map_gateway() && out.kind() != AdapterDefinition::USER) {
    fields.Fail("map_gateway", "belongs to an adapter with \"user\": true");
  }
  RETURN_IF_ERROR(fields.Finish());
  return out;
}

absl::StatusOr<PartitionDefinition> DefinitionFromJson(const Json& json) {
  PartitionDefinition out;
  out.mutable_memory()->set_startup_bytes(512 * kMiB);
  out.mutable_processors()->set_count(1);
  out.set_machine_version(1);
  out.mutable_boot();
  out.mutable_actions();
  out.mutable_tuning();
  JsonFields fields(json, "");
  fields.Number("schema", kDefinitionSchema, kDefinitionSchema, [](uint64_t) {});
  fields.Text("name", kMaxName, [&](const std::string& t) { out.set_name(t); });
  fields.Text("notes", kMaxNotes, [&](const std::string& t) { out.set_notes(t); });
  fields.Object("memory", [&](const Json& v, const std::string& where) {
    return ReadMemory(v, where, *out.mutable_memory());
  });
  fields.Object("processors", [&](const Json& v, const std::string& where) {
    return ReadProcessors(v, where, *out.mutable_processors());
  });
  fields.Object("boot", [&](const Json& v, const std::string& where) {
    return ReadBoot(v, where, *out.mutable_boot());
  });
  RETURN_IF_ERROR(ReadDisks(fields, out));
  fields.Object("console", [](const Json& v, const std::string& where) {
    return JsonFields(v, where).Finish();
  });
  fields.Object("actions", [&](const Json& v, const std::string& where) {
    return ReadActions(v, where, *out.mutable_actions());
  });
  fields.OneOf("synic", kSynics,
               [&](int v) { out.set_synic(static_cast<PartitionDefinition::Synic>(v)); });
  fields.Text("asset_tag", kMaxAssetTag, [&](const std::string& t) {
    const bool plain =
        std::all_of(t.begin(), t.end(), [](char c) { return c >= 0x20 && c < 0x7F; });
    if (!plain) return fields.Fail("asset_tag", "must be printable ASCII");
    out.set_asset_tag(t);
  });
  fields.Number("machine_version", 1, 1,
                [&](uint64_t n) { out.set_machine_version(static_cast<uint32_t>(n)); });
  fields.Object("tuning", [&](const Json& v, const std::string& where) {
    return ReadTuning(v, where, *out.mutable_tuning());
  });
  RETURN_IF_ERROR(fields.Finish());
  RETURN_IF_ERROR(CheckPartitionName(out.name()));
  return out;
}

Json ToJson(const DiskDefinition& disk) {
  return {{"path", disk.path()},
          {"read_only", disk.read_only()},
          {"cache", NameOf(kCaches, disk.direct() ? 1 : 0)},
          {"logical_block_bytes", disk.logical_block_bytes()},
          {"format", disk.format()}};
}

Json ToJson(const AdapterDefinition& adapter) {
  Json out = {{"name", adapter.name()}};
  switch (adapter.kind()) {
    case AdapterDefinition::SWITCH:
      out["switch"] = adapter.target();
      break;
    case AdapterDefinition::BRIDGE:
      out["bridge"] = adapter.target();
      break;
    case AdapterDefinition::TAP:
      out["tap"] = adapter.target();
      break;
    case AdapterDefinition::USER:
      out["user"] = true;
      break;
    default:
      out["none"] = true;
      break;
  }
  out["mac"] = MacText(adapter.mac());
  out["vlan"] = adapter.vlan();
  out["queues"] = adapter.queues();
  out["map_gateway"] = adapter.map_gateway();
  out["spoofing"] = adapter.spoofing();
  out["dhcp_guard"] = adapter.dhcp_guard();
  out["router_guard"] = adapter.router_guard();
  return out;
}

Json ToJson(const PartitionDefinition& d) {
  Json disks = Json::array(), adapters = Json::array(), affinity = Json::array();
  for (const DiskDefinition& disk : d.disks()) disks.push_back(ToJson(disk));
  for (const AdapterDefinition& adapter : d.adapters()) adapters.push_back(ToJson(adapter));
  for (const int32_t cpu : d.processors().affinity())
    affinity.push_back(static_cast<uint32_t>(cpu));
  const uint32_t vmbus = d.tuning().vmbus_version();
  Json out;
  out["schema"] = kDefinitionSchema;
  out["name"] = d.name();
  out["notes"] = d.notes();
  out["memory"] = {{"startup_bytes", d.memory().startup_bytes()},
                   {"minimum_bytes", d.memory().minimum_bytes()},
                   {"maximum_bytes", d.memory().maximum_bytes()},
                   {"pages", NameOf(kPages, d.memory().pages())}};
  out["processors"] = {{"count", d.processors().count()}, {"affinity", std::move(affinity)}};
  out["boot"] = {{"kernel", d.boot().kernel()},
                 {"initrd", d.boot().initrd()},
                 {"command_line", d.boot().command_line()},
                 {"unpack_kernel", d.boot().unpack_kernel()}};
  out["disks"] = std::move(disks);
  out["adapters"] = std::move(adapters);
  out["console"] = Json::object();
  out["actions"] = {{"automatic_start", NameOf(kStarts, d.actions().automatic_start())},
                    {"start_delay_ms", d.actions().start_delay_ms()},
                    {"automatic_stop", NameOf(kStops, d.actions().automatic_stop())},
                    {"restart_on_crash", d.actions().restart_on_crash()}};
  out["synic"] = NameOf(kSynics, d.synic());
  out["asset_tag"] = d.asset_tag();
  out["machine_version"] = d.machine_version();
  out["tuning"] = {
      {"storage_queues", d.tuning().storage_queues()},
      {"vmbus_version",
       vmbus == 0 ? "" : std::to_string(vmbus >> 16) + "." + std::to_string(vmbus & 0xFFFF)},
      {"synthetic_timers", d.tuning().synthetic_timers()},
      {"on_reset", NameOf(kOnReset, d.tuning().exit_on_reset() ? 1 : 0)}};
  return out;
}

}  // namespace partita
