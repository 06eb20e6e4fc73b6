// `partita connect PATH PORT`: standard input and output become a connection to a port of the
// guest, through the socket of `partita run --vsock PATH`.
#ifndef PARTITA_TOOLS_PARTITA_CONNECT_COMMAND_H_
#define PARTITA_TOOLS_PARTITA_CONNECT_COMMAND_H_

#include <cstdint>
#include <string>

namespace partita {

struct ConnectOptions {
  std::string path;
  uint32_t port = 0;
};

// Ends when both directions have ended. 0, or 1 with one line that says why.
int ConnectToGuest(const ConnectOptions& options);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_CONNECT_COMMAND_H_
