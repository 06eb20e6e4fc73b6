// A guest that asks for more than it was offered, without end: see RunFlood.
#ifndef PARTITA_VSC_GUEST_FLOOD_H_
#define PARTITA_VSC_GUEST_FLOOD_H_

namespace partita::guest {

// Asks the controller and the adapter for sub-channels, and the adapter for its receive buffer,
// again and again; opens every channel that is offered and reports how many there were; then goes
// on asking until the partition is stopped. Ring 3, VP 0.
void RunFlood();

}  // namespace partita::guest

#endif  // PARTITA_VSC_GUEST_FLOOD_H_
