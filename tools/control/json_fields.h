// Reads the keys of one JSON object, each of them once, and refuses the rest. The first error is
// kept; what comes behind it is skipped.
#ifndef PARTITA_TOOLS_CONTROL_JSON_FIELDS_H_
#define PARTITA_TOOLS_CONTROL_JSON_FIELDS_H_

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"

namespace partita {

class JsonFields {
 public:
  using Json = nlohmann::ordered_json;
  struct Choice {
    const char* name;
    int value;
  };
  // `where` begins the names of keys in errors: "" or "memory.".
  JsonFields(const Json& json, std::string where);

  // Each calls `set` if the key is there and its value is right. Texts have no NUL in them.
  void Text(const char* key, size_t longest, const std::function<void(const std::string&)>& set);
  void Number(const char* key, uint64_t least, uint64_t most,
              const std::function<void(uint64_t)>& set);
  void Flag(const char* key, const std::function<void(bool)>& set);
  void OneOf(const char* key, const std::vector<Choice>& choices,
             const std::function<void(int)>& set);
  // `read` gets the value and what begins the names of its keys.
  using Read = std::function<absl::Status(const Json&, const std::string&)>;
  void Object(const char* key, const Read& read);
  void List(const char* key, size_t most, const Read& read);

  void Fail(const std::string& key, const std::string& why);
  [[nodiscard]] bool Has(const char* key) const { return json_.is_object() && json_.contains(key); }
  // The first error, or that of a key that nobody has read.
  absl::Status Finish();

 private:
  // The value of a key; null if it is not there or an error came before.
  const Json* Find(const char* key);
  const Json& json_;
  const std::string where_;
  std::vector<std::string> known_;
  absl::Status status_;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_CONTROL_JSON_FIELDS_H_
