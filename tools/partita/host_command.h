// `partita host`: what this host offers, which SynIC backend will be used, and what is lost without
// each missing capability.
#ifndef PARTITA_TOOLS_PARTITA_HOST_COMMAND_H_
#define PARTITA_TOOLS_PARTITA_HOST_COMMAND_H_

namespace partita {

int ShowHost(bool json);

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_HOST_COMMAND_H_
