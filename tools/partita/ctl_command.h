// `partita ctl SOCKET ...`: asks a running partition for something.
#ifndef PARTITA_TOOLS_PARTITA_CTL_COMMAND_H_
#define PARTITA_TOOLS_PARTITA_CTL_COMMAND_H_

#include <string>

#include "tools/control/control.pb.h"

namespace partita {

struct CtlOptions {
  std::string socket;
  bool json = false;
  control::Request request;  // without its id
  bool heartbeat_only = false;
};

// Sends the request, waits for the reply, prints it. 0, or 1 with one line that says why.
int RunCtl(const CtlOptions& options);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_CTL_COMMAND_H_
