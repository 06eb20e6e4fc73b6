#include "tools/partita/run_config.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tools/control/nearest.h"

namespace partita {
namespace {

enum class Kind : uint8_t { kText, kNumber, kSwitch, kNumbers, kDisks, kTexts };
struct Key {
  const char* name;  // of the key and of the flag
  Kind kind;
};
constexpr std::array<Key, 20> kKeys = {
    {{"kernel", Kind::kText},          {"initrd", Kind::kText},
     {"cmdline", Kind::kText},         {"name", Kind::kText},
     {"memory", Kind::kText},          {"cpus", Kind::kNumber},
     {"disk", Kind::kDisks},           {"net", Kind::kTexts},
     {"queues", Kind::kNumber},        {"synic", Kind::kText},
     {"stimer", Kind::kSwitch},        {"serial", Kind::kText},
     {"on-reset", Kind::kText},        {"vmbus-version", Kind::kText},
     {"asset-tag", Kind::kText},       {"cpu-affinity", Kind::kNumbers},
     {"unpack-kernel", Kind::kSwitch}, {"stats-json", Kind::kText},
     {"vsock", Kind::kText},           {"control", Kind::kText}}};

absl::Status WrongType(const std::string& key, const char* wanted) {
  return InvalidArgument("'" + key + "' takes " + wanted);
}

absl::Status UnknownKey(const std::string& key, const std::vector<std::string>& known) {
  const std::string near = Nearest(key, known);
  return InvalidArgument("there is no setting '" + key + "'" +
                         (near.empty() ? "" : "; did you mean '" + near + "'?"));
}

// {"path": P, "read-only": B, "cache": C, "logical": N} as the text that --disk takes.
absl::StatusOr<std::string> DiskText(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return WrongType("disk", "a list of texts or objects");
  std::string path, rest;
  for (const auto& [key, v] : value.items()) {
    if (key == "path" && v.is_string()) {
      path = v.get<std::string>();
    } else if (key == "read-only" && v.is_boolean()) {
      if (v.get<bool>()) rest += ",ro";
    } else if (key == "cache" && v.is_string()) {
      rest += ",cache=" + v.get<std::string>();
    } else if (key == "logical" && v.is_number_integer()) {
      rest += ",logical=" + v.dump();
    } else if (key == "path" || key == "read-only" || key == "cache" || key == "logical") {
      return InvalidArgument("a value of the wrong type for '" + key + "' of a disk");
    } else {
      return UnknownKey(key, {"path", "read-only", "cache", "logical"});
    }
  }
  if (path.empty()) return InvalidArgument("a disk has no 'path'");
  if (path.find(',') != std::string::npos) {
    return InvalidArgument("the disk path '" + path + "' has a comma");
  }
  return path + rest;
}

absl::Status AddArguments(const Key& key, const nlohmann::json& value,
                          std::vector<std::string>& out) {
  const std::string name = key.name, flag = "--" + name + "=";
  switch (key.kind) {
    case Kind::kText:
      if (!value.is_string()) return WrongType(name, "a text");
      out.push_back(flag + value.get<std::string>());
      break;
    case Kind::kNumber:
      if (!value.is_number_integer()) return WrongType(name, "a whole number");
      out.push_back(flag + value.dump());
      break;
    case Kind::kSwitch:
      if (!value.is_boolean()) return WrongType(name, "true or false");
      if (value.get<bool>()) out.push_back("--" + name);
      break;
    case Kind::kNumbers: {
      if (!value.is_array()) return WrongType(name, "a list of whole numbers");
      std::string joined;
      for (const auto& item : value) {
        if (!item.is_number_integer()) return WrongType(name, "a list of whole numbers");
        joined += (joined.empty() ? "" : ",") + item.dump();
      }
      if (!joined.empty()) out.push_back(flag + joined);
      break;
    }
    case Kind::kTexts:
      if (!value.is_array()) return WrongType(name, "a list of texts");
      for (const auto& item : value) {
        if (!item.is_string()) return WrongType(name, "a list of texts");
        out.push_back(flag + item.get<std::string>());
      }
      break;
    case Kind::kDisks:
      if (!value.is_array()) return WrongType(name, "a list of texts or objects");
      for (const auto& item : value) {
        ASSIGN_OR_RETURN(const std::string text, DiskText(item));
        out.push_back(flag + text);
      }
      break;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ArgumentsFromJson(std::string_view text) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    const size_t at = std::min<size_t>(error.byte, text.size());
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), '\n');
    return InvalidArgument("line " + std::to_string(line) + " is not valid JSON");
  }
  if (!json.is_object()) return InvalidArgument("the settings must be one JSON object");
  std::vector<std::string> out;
  for (const auto& [name, value] : json.items()) {
    const auto* key = std::find_if(kKeys.begin(), kKeys.end(),
                                   [&name = name](const Key& k) { return name == k.name; });
    if (key == kKeys.end()) {
      std::vector<std::string> known;
      known.reserve(kKeys.size());
      for (const Key& k : kKeys) known.emplace_back(k.name);
      return UnknownKey(name, known);
    }
    RETURN_IF_ERROR(AddArguments(*key, value, out));
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> ArgumentsFromFile(const std::string& path) {
  constexpr size_t kLargest = 1 << 20;
  std::ifstream file(path, std::ios::binary);
  if (!file) return SystemError("settings " + path);
  std::string text(kLargest + 1, '\0');
  errno = 0;
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || errno == EISDIR) return SystemError("settings " + path);
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kLargest) return InvalidArgument("settings " + path + " are above 1 MiB");
  auto arguments = ArgumentsFromJson(text);
  if (!arguments.ok()) {
    return InvalidArgument(path + ": " + std::string(Message(arguments.status())));
  }
  return arguments;
}

}  // namespace partita
