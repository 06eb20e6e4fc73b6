// `partita guest-setup`: what to put into a guest so that ssh works over its host socket.
#ifndef PARTITA_TOOLS_PARTITA_GUEST_SETUP_H_
#define PARTITA_TOOLS_PARTITA_GUEST_SETUP_H_

namespace partita {

// Prints a shell script; returns an exit status.
int PrintGuestSetup();

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_GUEST_SETUP_H_
