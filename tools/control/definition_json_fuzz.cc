// Whatever is read as a definition is written and read again as the same one.
#include <cstdlib>

#include "tools/control/definition_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using partita::ToJson;
  const auto json = partita::ParseJson({reinterpret_cast<const char*>(data), size});
  if (!json.ok()) return 0;
  const auto read = partita::DefinitionFromJson(*json);
  if (!read.ok()) return 0;
  const auto again = partita::ParseJson(ToJson(*read).dump());
  if (!again.ok()) abort();
  const auto second = partita::DefinitionFromJson(*again);
  if (!second.ok() || second->SerializeAsString() != read->SerializeAsString()) abort();
  return 0;
}
