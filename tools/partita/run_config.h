// `partita run --config FILE`: the flags of `partita run` as a JSON object, one key per flag. The
// schema is docs/run-config.schema.json; a test keeps the two in step.
#ifndef PARTITA_TOOLS_PARTITA_RUN_CONFIG_H_
#define PARTITA_TOOLS_PARTITA_RUN_CONFIG_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace partita {

// The arguments that mean the same as the file's text, in the form `--key=value`, so that one
// parser judges both. Fails for anything but an object of known keys with values of the right type.
absl::StatusOr<std::vector<std::string>> ArgumentsFromJson(std::string_view text);
// The same for a file; its name begins every error. Files above 1 MiB are refused.
absl::StatusOr<std::vector<std::string>> ArgumentsFromFile(const std::string& path);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_RUN_CONFIG_H_
