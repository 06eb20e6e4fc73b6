// What the service answers, as objects of the pipeline.
#include <algorithm>
#include <array>
#include <charconv>

#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr int kMaxDepth = 32;

// `a_long_name` as ALongName.
std::string PascalCase(std::string_view name) {
  std::string out;
  bool up = true;
  for (const char c : name) {
    if (c == '_') {
      up = true;
      continue;
    }
    out += up && c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    up = false;
  }
  return out;
}

bool TakeSuffix(std::string_view* name, std::string_view suffix) {
  if (!name->ends_with(suffix) || name->size() == suffix.size()) return false;
  name->remove_suffix(suffix.size());
  return true;
}

// `2026-11-25T02:03:04Z`, with or without a fraction; nothing for other text.
std::optional<DateTime> DateFrom(std::string_view text) {
  constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:dd";
  if (text.size() < kForm.size() + 1 || text.back() != 'Z') return std::nullopt;
  for (size_t i = 0; i < kForm.size(); ++i) {
    if (kForm[i] == 'd' ? !IsDigit(text[i]) : kForm[i] != text[i]) return std::nullopt;
  }
  const auto number = [&](size_t at, size_t digits) {
    int64_t value = 0;
    std::from_chars(text.data() + at, text.data() + at + digits, value);
    return value;
  };
  // Days since 1970 in the Gregorian calendar, years beginning in March.
  const int64_t month = (number(5, 2) + 9) % 12;
  const int64_t year = number(0, 4) - (month >= 10 ? 1 : 0);
  const int64_t days = 365 * year + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 +
                       number(8, 2) - 719469;
  int64_t milliseconds = 0;
  const size_t point = kForm.size();
  if (text[point] == '.') {
    int64_t weight = 100;
    for (size_t i = point + 1; i < text.size() && IsDigit(text[i]); ++i, weight /= 10)
      milliseconds += weight * (text[i] - '0');
  }
  const int64_t seconds = ((days * 24 + number(11, 2)) * 60 + number(14, 2)) * 60 + number(17, 2);
  return DateTime{seconds * 1000 + milliseconds};
}

Value Convert(const Json& json, const std::string& type_name, int depth) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return json.get<int64_t>();
    case Json::value_t::number_unsigned:
      return static_cast<int64_t>(
          std::min<uint64_t>(json.get<uint64_t>(), std::numeric_limits<int64_t>::max()));
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string: {
      const auto& text = *json.get_ptr<const std::string*>();
      if (const auto date = DateFrom(text)) return *date;
      return text;
    }
    case Json::value_t::array: {
      Array out;
      if (depth < kMaxDepth) {
        for (const Json& element : json) out.push_back(Convert(element, type_name, depth + 1));
      }
      return out;
    }
    case Json::value_t::object: {
      Object out(type_name);
      if (depth >= kMaxDepth) return out;
      for (const auto& [key, element] : json.items()) {
        std::string_view name = key;
        Value value = Convert(element, PascalCase(key), depth + 1);
        if (const auto* number = value.If<int64_t>()) {
          if (TakeSuffix(&name, "_bytes")) {
            value = Size{*number};
          } else if (TakeSuffix(&name, "_ms")) {
            value = TimeSpan{*number};
          }
        }
        out.Add(PascalCase(name), std::move(value));
      }
      return out;
    }
    default:
      return {};
  }
}

Value SizeAt(const Json& object, const char* key) {
  return object.contains(key) ? Value(Size{IntAt(object, key)}) : Value();
}

Value BoolAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? Value(found->get<bool>()) : Value();
}

// Hyper-V's numbers of the states.
EnumName StateOf(const std::string& name) {
  struct Known {
    const char* name;
    int64_t number;
  };
  static constexpr std::array<Known, 12> kStates = {{{"Running", 2},
                                                     {"Off", 3},
                                                     {"Stopping", 4},
                                                     {"Saved", 6},
                                                     {"Paused", 9},
                                                     {"Starting", 10},
                                                     {"Reset", 11},
                                                     {"Pausing", 32776},
                                                     {"Resuming", 32777},
                                                     {"RunningCritical", 32781},
                                                     {"OffCritical", 32782},
                                                     {"PausedCritical", 32785}}};
  for (const Known& known : kStates) {
    if (name == known.name) return {name, known.number};
  }
  return {name, 0};
}

void AddDefinition(const Json& definition, Object* out) {
  const Json& memory = ObjectAt(definition, "memory");
  const Json& boot = ObjectAt(definition, "boot");
  const Json& actions = ObjectAt(definition, "actions");
  const Value minimum = SizeAt(memory, "minimum_bytes");
  const Value maximum = SizeAt(memory, "maximum_bytes");
  out->Add("ProcessorCount", IntAt(ObjectAt(definition, "processors"), "count"), true)
      .Add("MemoryStartup", SizeAt(memory, "startup_bytes"), true)
      .Add("MemoryMinimum", minimum, true)
      .Add("MemoryMaximum", maximum, true)
      .Add("DynamicMemoryEnabled", ToInt(minimum) != ToInt(maximum), true)
      .Add("KernelPath", TextAt(boot, "kernel"), true)
      .Add("InitrdPath", TextAt(boot, "initrd"), true)
      .Add("KernelCommandLine", TextAt(boot, "command_line"), true)
      .Add("AutomaticStartAction", TextAt(actions, "automatic_start"), true)
      .Add("AutomaticStartDelay", IntAt(actions, "start_delay_ms") / 1000, true)
      .Add("AutomaticStopAction", TextAt(actions, "automatic_stop"), true)
      .Add("RestartOnCrash", BoolAt(actions, "restart_on_crash"), true)
      .Add("AssetTag", TextAt(definition, "asset_tag"), true)
      .Add("Notes", TextAt(definition, "notes"), true);
  Array disks;
  for (const Json& disk : ArrayAt(definition, "disks")) disks.emplace_back(TextAt(disk, "path"));
  Array adapters;
  for (const Json& adapter : ArrayAt(definition, "adapters"))
    adapters.emplace_back(TextAt(adapter, "name"));
  out->Add("HardDrives", std::move(disks), true).Add("NetworkAdapters", std::move(adapters), true);
}

}  // namespace

std::string TextAt(const Json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Value TextOrNull(const Json& object, const char* key) {
  const std::string text = TextAt(object, key);
  return text.empty() ? Value() : Value(text);
}

int64_t IntAt(const Json& object, const char* key) {
  if (!object.is_object()) return 0;
  const auto found = object.find(key);
  // Numbers of 64 bits may be written as text.
  return found == object.end() ? 0 : ToInt(Convert(*found, "", 0)).value_or(0);
}

const Json& ObjectAt(const Json& object, const char* key) {
  static const Json kEmpty = Json::object();
  if (!object.is_object()) return kEmpty;
  const auto found = object.find(key);
  return found != object.end() && found->is_object() ? *found : kEmpty;
}

const Json& ArrayAt(const Json& object, const char* key) {
  static const Json kEmpty = Json::array();
  if (!object.is_object()) return kEmpty;
  const auto found = object.find(key);
  return found != object.end() && found->is_array() ? *found : kEmpty;
}

Value FromJson(const Json& json, const std::string& type_name) {
  return Convert(json, type_name, 0);
}

Object VmObject(const Json& vm) {
  Object out("VM");
  Array addresses;
  for (const Json& address : ArrayAt(vm, "addresses")) {
    if (address.is_string()) addresses.emplace_back(address.get<std::string>());
  }
  out.Add("Name", TextAt(vm, "name"))
      .Add("State", StateOf(TextAt(vm, "state")))
      .Add("CPUUsage", IntAt(vm, "cpu_usage_percent"))
      .Add("MemoryAssigned", Size{IntAt(vm, "memory_assigned_bytes")})
      .Add("Uptime", TimeSpan{IntAt(vm, "uptime_ms")})
      .Add("Status", TextAt(vm, "status"))
      .Add("Version", TextAt(vm, "version"))
      .Add("Id", TextAt(vm, "id"), true)
      .Add("VMName", TextAt(vm, "name"), true)
      .Add("Revision", IntAt(vm, "generation"), true)
      .Add("Critical", BoolAt(vm, "critical"), true)
      .Add("MemoryDemand", Size{IntAt(vm, "memory_demand_bytes")}, true)
      .Add("Heartbeat", TextAt(vm, "heartbeat"), true)
      .Add("IPAddresses", std::move(addresses), true)
      .Add("CreationTime", FromJson(vm.value("created", Json()), ""), true);
  AddDefinition(ObjectAt(vm, "definition"), &out);
  out.Add("LastEnd", FromJson(vm.value("last_end", Json()), "VMLastEnd"), true)
      .Add("Worker", FromJson(vm.value("worker", Json()), "VMWorker"), true);
  return out;
}

}  // namespace partita::shell
