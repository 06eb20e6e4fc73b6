// A guest that means harm: see RunHostile.
#ifndef PARTITA_VSC_GUEST_HOSTILE_H_
#define PARTITA_VSC_GUEST_HOSTILE_H_

namespace partita::guest {

// Wrong sizes, states, orders and directions of every VMBus message; SynIC pages outside RAM;
// 10,000 posts whose answers nobody reads; GPADLs up to the cap; rings and SCSI packets whose
// lengths lie. Last, an honest connection must still be able to read the disk. Ring 3, VP 0.
void RunHostile();

}  // namespace partita::guest

#endif  // PARTITA_VSC_GUEST_HOSTILE_H_
