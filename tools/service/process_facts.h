// What the host and a worker say about a running VM, put into its status.
#ifndef PARTITA_TOOLS_SERVICE_PROCESS_FACTS_H_
#define PARTITA_TOOLS_SERVICE_PROCESS_FACTS_H_

#include "tools/control/control.pb.h"
#include "tools/service/vm.h"

namespace partita::service {

// CPU time, memory and age of the worker's process, from /proc.
void LookAtProcess(Vm& vm);
// The reply to GetStatus.
void TakeStatus(Vm& vm, const control::Reply& reply);
// The reply to Addresses.
void TakeAddresses(Vm& vm, const control::Reply& reply);

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_PROCESS_FACTS_H_
