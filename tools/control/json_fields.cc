#include "tools/control/json_fields.h"

#include <algorithm>
#include <utility>

#include "tools/control/nearest.h"

namespace partita {
namespace {

// Keys are a stranger's: long ones are cut in messages.
std::string Short(const std::string& key) {
  constexpr size_t kLongest = 64;
  std::string text = key.substr(0, kLongest);
  if (key.size() > kLongest) text += "...";
  return text;
}

}  // namespace

JsonFields::JsonFields(const Json& json, std::string where)
    : json_(json), where_(std::move(where)) {
  if (json_.is_object()) return;
  std::string what = where_.empty() ? "the text" : "'" + where_.substr(0, where_.size() - 1) + "'";
  status_ = InvalidArgument(what + " must be a JSON object");
}

const JsonFields::Json* JsonFields::Find(const char* key) {
  known_.emplace_back(key);
  if (!status_.ok()) return nullptr;
  const auto it = json_.find(key);
  return it == json_.end() ? nullptr : &*it;
}

void JsonFields::Fail(const std::string& key, const std::string& why) {
  if (status_.ok()) status_ = InvalidArgument("'" + where_ + key + "' " + why);
}

void JsonFields::Text(const char* key, size_t longest,
                      const std::function<void(const std::string&)>& set) {
  const Json* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_string()) return Fail(key, "must be a text");
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > longest) {
    return Fail(key, "must have at most " + std::to_string(longest) + " bytes");
  }
  if (text.find('\0') != std::string::npos) return Fail(key, "must have no NUL character");
  set(text);
}

void JsonFields::Number(const char* key, uint64_t least, uint64_t most,
                        const std::function<void(uint64_t)>& set) {
  const Json* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_number_unsigned() || value->get<uint64_t>() < least ||
      value->get<uint64_t>() > most) {
    return Fail(key, "must be a whole number from " + std::to_string(least) + " to " +
                         std::to_string(most));
  }
  set(value->get<uint64_t>());
}

void JsonFields::Flag(const char* key, const std::function<void(bool)>& set) {
  const Json* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_boolean()) return Fail(key, "must be true or false");
  set(value->get<bool>());
}

void JsonFields::OneOf(const char* key, const std::vector<Choice>& choices,
                       const std::function<void(int)>& set) {
  const Json* value = Find(key);
  if (value == nullptr) return;
  std::string names;
  for (const Choice& choice : choices) {
    if (value->is_string() && value->get_ref<const std::string&>() == choice.name) {
      return set(choice.value);
    }
    names += (names.empty() ? "" : ", ");
    names += choice.name;
  }
  Fail(key, "must be one of " + names);
}

void JsonFields::Object(const char* key, const Read& read) {
  const Json* value = Find(key);
  if (value == nullptr) return;
  status_ = read(*value, where_ + key + ".");
}

void JsonFields::List(const char* key, size_t most, const Read& read) {
  const Json* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_array()) return Fail(key, "must be a list");
  if (value->size() > most) return Fail(key, "has more than " + std::to_string(most) + " entries");
  for (size_t i = 0; i < value->size() && status_.ok(); ++i) {
    status_ = read((*value)[i], where_ + key + "[" + std::to_string(i) + "].");
  }
}

absl::Status JsonFields::Finish() {
  if (!status_.ok()) return status_;
  for (const auto& [key, value] : json_.items()) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    std::string text = "there is no setting '" + where_ + Short(key) + "'";
    if (const std::string near = Nearest(Short(key), known_); !near.empty()) {
      text += "; did you mean '" + where_ + near + "'?";
    }
    return InvalidArgument(text);
  }
  return absl::OkStatus();
}

}  // namespace partita
