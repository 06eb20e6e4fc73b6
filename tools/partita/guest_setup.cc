#include "tools/partita/guest_setup.h"

#include <cstdio>

namespace partita {

int PrintGuestSetup() {
  fputs(R"(#!/bin/sh
# Run this as root in a guest with systemd and openssh-server: ssh then works through the partition's
# host socket, without any network. On the host, with `partita run --vsock PATH`:
#   ssh -o ProxyCommand='partita connect PATH 22' root@guest
set -e
echo hv_sock > /etc/modules-load.d/partita.conf
cat > /etc/systemd/system/partita-ssh.socket <<'UNIT'
[Unit]
Description=ssh from the host (AF_VSOCK port 22)
[Socket]
ListenStream=vsock::22
Accept=yes
[Install]
WantedBy=sockets.target
UNIT
cat > /etc/systemd/system/partita-ssh@.service <<'UNIT'
[Unit]
Description=ssh from the host
[Service]
ExecStart=-/usr/sbin/sshd -i
StandardInput=socket
RuntimeDirectory=sshd
RuntimeDirectoryPreserve=yes
UNIT
[ ! -d /run/systemd/system ] || { modprobe hv_sock; systemctl daemon-reload; }
systemctl enable partita-ssh.socket
[ ! -d /run/systemd/system ] || systemctl start partita-ssh.socket
)",
        stdout);
  return 0;
}

}  // namespace partita
