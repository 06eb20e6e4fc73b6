#ifndef PARTITA_TOOLS_SERVICE_VERSION_H_
#define PARTITA_TOOLS_SERVICE_VERSION_H_

namespace partita::service {

inline constexpr char kVersion[] = "0.1.0";  // the project's (CMakeLists.txt)
inline constexpr int kApiVersion = 1;

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_VERSION_H_
