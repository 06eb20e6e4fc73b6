// A partition's definition as JSON: what the settings of the service's API, its store and `partita
// run --config` are made of. Strict both ways: an unknown key, a key given twice, a value of the
// wrong type or out of range is one error that names the key, as in "disks[1].cache". All of it may
// come from a stranger.
#ifndef PARTITA_TOOLS_CONTROL_DEFINITION_JSON_H_
#define PARTITA_TOOLS_CONTROL_DEFINITION_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tools/control/definition.pb.h"

namespace partita {

using Json = nlohmann::ordered_json;

inline constexpr uint32_t kDefinitionSchema = 1;
inline constexpr size_t kMaxDisks = 64, kMaxAdapters = 8;

// One JSON value and nothing behind it, of bounded depth, with no key twice in an object.
absl::StatusOr<Json> ParseJson(std::string_view text);

// A definition with everything it leaves out set to its default. Fails for what is contradictory in
// itself, not for what this host lacks.
absl::StatusOr<control::PartitionDefinition> DefinitionFromJson(const Json& json);
// Parts of one, for devices that are added. `where` begins the keys in errors, as in "disks[0].".
absl::StatusOr<control::DiskDefinition> DiskFromJson(const Json& json, const std::string& where);
absl::StatusOr<control::AdapterDefinition> AdapterFromJson(const Json& json,
                                                           const std::string& where);

// Every key, those at their defaults too. DefinitionFromJson reads the same message from it.
Json ToJson(const control::PartitionDefinition& definition);
Json ToJson(const control::DiskDefinition& disk);
Json ToJson(const control::AdapterDefinition& adapter);

// 1 to 100 characters without control characters, '/' or spaces at the ends, and no GUID.
absl::Status CheckPartitionName(std::string_view name);
// 8-4-4-4-12 hexadecimal digits.
bool IsGuidText(std::string_view text);

// "00:15:5d:01:02:03" (or with '-') -> six bytes; no group address and not all zero.
absl::StatusOr<std::string> MacFromText(std::string_view text);

}  // namespace partita

#endif  // PARTITA_TOOLS_CONTROL_DEFINITION_JSON_H_
