"""A stock guest with its console on a Unix socket, for tests that talk to it. The guest runs tests/lab/guest-init."""
import os
import socket
import subprocess
import time

BOOT_LIMIT = 240  # seconds; the processor is emulated
PROGRAMS = os.environ.get("PARTITA_BUILD", os.environ.get("LAB_REPOSITORY", "") + "/build/release") + "/bin"
KERNELS = os.environ.get("LAB_KERNELS", "")


def partita(name, kernel, image, backend, job, console, *more, memory="256M", cpus=1):
    """The command that boots a stock kernel with a job, its console at the socket `console`."""
    unpack = [] if kernel == "6.1-cloud" else ["--unpack-kernel"]
    return [PROGRAMS + "/partita", "run", "--name", name, "--kernel", "%s/kernels/%s/vmlinuz" % (KERNELS, kernel),
            "--initrd", "%s/guest-%s%s.cpio" % (KERNELS, kernel, image), "--synic", backend, "--memory", memory,
            "--cpus", str(cpus), "--serial", "unix:" + console, *unpack, "--cmdline",
            "console=ttyS0 quiet panic=-1 mitigations=off partita.run=" + job, *more]


class Guest:
    def __init__(self, name, command, console):
        """`command` makes the console a listening Unix socket at `console`."""
        self.name = name
        if os.path.exists(console):  # of an earlier guest
            os.unlink(console)
        self.notes = open(console + ".notes", "w")
        self.process = subprocess.Popen(command, stdout=self.notes, stderr=subprocess.STDOUT)
        self.text = ""
        end = time.monotonic() + BOOT_LIMIT
        while True:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.socket.connect(console)
                break
            except OSError:
                self.socket.close()
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(self.complaint("no console")) from None
                time.sleep(0.1)

    def complaint(self, what):
        self.notes.flush()
        with open(self.notes.name) as file:
            return "%s: %s\n%s\n%s" % (self.name, what, self.text[-2000:], file.read()[-2000:])

    def wait_for(self, wanted, limit=BOOT_LIMIT):
        """Reads the console until `wanted` comes; returns what came before."""
        end = time.monotonic() + limit
        while wanted not in self.text:
            self.socket.settimeout(max(0.1, end - time.monotonic()))
            try:
                data = self.socket.recv(4096)
            except TimeoutError:
                raise RuntimeError(self.complaint("did not say %r" % wanted)) from None
            if not data:
                raise RuntimeError(self.complaint("ended before it said %r" % wanted))
            self.text += data.decode(errors="replace").replace("\r", "")
        before, self.text = self.text.split(wanted, 1)
        return before

    def tell(self, line):
        self.socket.sendall(line.encode() + b"\n")

    def run(self, line, limit=BOOT_LIMIT):
        """Has a shell command run (job `told` of guest-init); returns what it printed. Fails with it."""
        self.tell(line)
        output = self.wait_for("TOLD ", limit)
        status = self.wait_for("\n")
        if status != "0":
            raise RuntimeError(self.complaint("%r: status %s\n%s" % (line, status, output)))
        return output

    def fact(self, name):
        self.wait_for("FACT %s=" % name)
        return self.wait_for("\n")

    def end(self):
        """Ends the guest in order; returns what it still said."""
        self.tell("end")
        rest = self.wait_for("DONE ")
        self.process.wait(60)
        if self.process.returncode != 0:
            raise RuntimeError(self.complaint("ended with status %d" % self.process.returncode))
        return rest

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
