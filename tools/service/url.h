// Percent-encoded text of a URL.
#ifndef PARTITA_TOOLS_SERVICE_URL_H_
#define PARTITA_TOOLS_SERVICE_URL_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace partita::service {

// nullopt for a broken escape and for a NUL.
inline std::optional<std::string> DecodeUrl(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = digit(text[i + 1]), low = digit(text[i + 2]);
    if (high < 0 || low < 0 || high + low == 0) return std::nullopt;
    out.push_back(static_cast<char>(high << 4 | low));
    i += 2;
  }
  return out;
}

// "/v1/vms/a%2Fb" -> {"v1", "vms", "a/b"}; nullopt if a part is empty or broken.
inline std::optional<std::vector<std::string>> PathParts(std::string_view path) {
  std::vector<std::string> parts;
  if (!path.starts_with('/')) return std::nullopt;
  path.remove_prefix(1);
  while (true) {
    const size_t slash = path.find('/');
    auto part = DecodeUrl(path.substr(0, slash));
    if (!part || part->empty()) return std::nullopt;
    parts.push_back(*std::move(part));
    if (slash == std::string_view::npos) return parts;
    path.remove_prefix(slash + 1);
  }
}

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_URL_H_
