// Jobs of a session (-AsJob): work that the service does while the shell goes on. Plain data.
#ifndef PARTITA_TOOLS_SHELL_JOBS_H_
#define PARTITA_TOOLS_SHELL_JOBS_H_

#include <string>
#include <vector>

namespace partita::shell {

struct Job {
  struct Part {
    std::string operation;
    std::string vm_name;
    std::string state = "running";  // the operation's, when it was last asked
    bool received = false;
  };
  int id = 0;
  std::string command;
  std::vector<Part> parts;
};

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_JOBS_H_
