// Options of disks and adapters as the messages that a worker gets, by `partita run` and `partita
// ctl`.
#ifndef PARTITA_TOOLS_PARTITA_DEVICE_MESSAGES_H_
#define PARTITA_TOOLS_PARTITA_DEVICE_MESSAGES_H_

#include <string>

#include "tools/control/control.pb.h"
#include "tools/partita/disk_option.h"
#include "tools/partita/net_option.h"

namespace partita {

// Without descriptors.
inline void FillDisk(const DiskOption& disk, const std::string& partition, control::Disk& out) {
  out.set_read_only(disk.read_only);
  out.set_direct(disk.direct);
  out.set_logical_block(disk.logical_block);
  out.set_identity(DiskIdentity(disk, partition));
  out.set_name("disk " + disk.path);
  out.set_record_fd(-1);
}

// Without descriptors; the address stays empty if none was given.
inline void FillAdapter(const NetOption& net, uint32_t queues, const std::string& text,
                        control::Adapter& out) {
  using Kind = NetOption::Kind;
  switch (net.kind) {
    case Kind::kTap:
    case Kind::kBridge:
      out.set_kind(control::Adapter::TAP);
      break;
    case Kind::kUser:
      out.set_kind(control::Adapter::STREAM);
      break;
    case Kind::kNull:
      out.set_kind(control::Adapter::NULL_WIRE);
      break;
    case Kind::kLoopback:
      out.set_kind(control::Adapter::LOOPBACK);
      break;
    case Kind::kNone:
      out.set_kind(control::Adapter::UNPLUGGED);
      break;
  }
  out.set_mac(net.mac);
  out.set_queues(queues);
  out.set_vlan(net.vlan);
  out.set_spoof(net.spoof);
  out.set_dhcp_guard(net.dhcp_guard);
  out.set_router_guard(net.router_guard);
  out.set_name("--net " + text);
}

}  // namespace partita

#endif  // PARTITA_TOOLS_PARTITA_DEVICE_MESSAGES_H_
