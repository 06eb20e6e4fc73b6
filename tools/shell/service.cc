#include "tools/shell/service.h"

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

std::string TextAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

std::string EscapePath(std::string_view part) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : part) {
    if (IsLetter(c) || IsDigit(c) || std::string_view("-._~").find(c) != std::string_view::npos) {
      out += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out += '%';
    out += kHex[byte >> 4];
    out += kHex[byte & 15U];
  }
  return out;
}

ErrorRecord ErrorFrom(const Json& body, int http_status) {
  ErrorRecord error;
  const Json* from = &body;
  if (body.is_object() && body.contains("error")) from = &body["error"];
  if (!from->is_object()) {
    error.id = "service.answer";
    error.message = "the service answered with status " + std::to_string(http_status) +
                    " and nothing that explains it";
    return error;
  }
  error.id = TextAt(*from, "id");
  error.category = CategoryOf(TextAt(*from, "category"));
  error.target = TextAt(*from, "target");
  error.message = TextAt(*from, "message");
  error.next_step = TextAt(*from, "next_step");
  if (error.message.empty()) error.message = "the service refused it (" + error.id + ")";
  if (const auto cause = from->find("cause"); cause != from->end() && cause->is_array()) {
    for (const Json& one : *cause) {
      if (one.is_string()) error.cause.push_back(one.get<std::string>());
    }
  }
  return error;
}

}  // namespace partita::shell
