// `partita ctl SOCKET ...`: asks a running partition for something.
#ifndef PARTITA_TOOLS_PARTITA_CTL_COMMAND_H_
#define PARTITA_TOOLS_PARTITA_CTL_COMMAND_H_

#include <functional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "tools/control/control.pb.h"

namespace partita {

struct CtlOptions {
  std::string socket;
  bool json = false;
  control::Request request;  // without its id
  bool heartbeat_only = false;
  // What verbs take, before it goes into the request.
  std::string text, word, subnet, gateway, dns;
  uint32_t seconds = 10;
  bool overwrite = false, create_path = false;
  std::function<absl::Status()> prepare;  // opens what the request names, if anything
  std::vector<UniqueFd> descriptors;      // go with the request
};

// Opens and fills in what some verbs name.
absl::Status PrepareDisk(CtlOptions& options);
absl::Status PrepareAdapter(CtlOptions& options);
absl::Status PrepareCopy(CtlOptions& options);
absl::Status PrepareMemory(CtlOptions& options);

// Sends the request, waits for the reply, prints it. 0, or 1 with one line that says why.
int RunCtl(CtlOptions& options);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_CTL_COMMAND_H_
