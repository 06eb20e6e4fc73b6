// Options of disks and adapters as the messages that a worker gets, by `partita run` and `partita
// ctl`.
#ifndef PARTITA_TOOLS_HOST_DEVICE_MESSAGES_H_
#define PARTITA_TOOLS_HOST_DEVICE_MESSAGES_H_

#include <string>

#include "tools/control/control.pb.h"
#include "tools/host/disk_option.h"
#include "tools/host/net_option.h"

namespace partita {

// Without descriptors.
inline void FillDisk(const control::DiskDefinition& disk, const std::string& partition,
                     control::Disk& out) {
  out.set_read_only(disk.read_only());
  out.set_direct(disk.direct());
  out.set_logical_block(disk.logical_block_bytes());
  out.set_identity(DiskIdentity(disk, partition));
  out.set_name("disk " + disk.path());
  out.set_record_fd(-1);
}

// Without descriptors; the address stays empty if none was given.
inline void FillAdapter(const control::AdapterDefinition& net, uint32_t queues,
                        control::Adapter& out) {
  using Kind = control::AdapterDefinition;
  switch (net.kind()) {
    case Kind::TAP:
    case Kind::BRIDGE:
    case Kind::SWITCH:
      out.set_kind(control::Adapter::TAP);
      break;
    case Kind::USER:
      out.set_kind(control::Adapter::STREAM);
      break;
    case Kind::NULL_WIRE:
      out.set_kind(control::Adapter::NULL_WIRE);
      break;
    case Kind::LOOPBACK:
      out.set_kind(control::Adapter::LOOPBACK);
      break;
    default:
      out.set_kind(control::Adapter::UNPLUGGED);
      break;
  }
  out.set_mac(net.mac());
  out.set_queues(queues);
  out.set_vlan(net.vlan());
  out.set_spoof(net.spoofing());
  out.set_dhcp_guard(net.dhcp_guard());
  out.set_router_guard(net.router_guard());
  out.set_name(net.name());
}

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_DEVICE_MESSAGES_H_
