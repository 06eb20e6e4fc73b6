"""A stock guest with its console on a Unix socket, for tests that talk to it. The guest runs tests/lab/guest-init."""
import os
import socket
import subprocess
import sys
import time
import traceback

BOOT_LIMIT = 240  # seconds without a word from the guest; the processor is emulated
PROGRAMS = os.environ.get("PARTITA_BUILD", os.environ.get("LAB_REPOSITORY", "") + "/build/release") + "/bin"
KERNELS = os.environ.get("LAB_KERNELS", "")


def partita(name, kernel, image, backend, job, console, *more, memory="256M", cpus=1):
    """The command that boots a stock kernel with a job, its console at the socket `console`."""
    unpack = [] if kernel == "6.1-cloud" else ["--unpack-kernel"]
    return [PROGRAMS + "/partita", "run", "--name", name, "--kernel", "%s/kernels/%s/vmlinuz" % (KERNELS, kernel),
            "--initrd", "%s/guest-%s%s.cpio" % (KERNELS, kernel, image), "--synic", backend, "--memory", memory,
            "--cpus", str(cpus), "--serial", "unix:" + console, *unpack, "--cmdline",
            "console=ttyS0 quiet panic=-1 mitigations=off partita.run=" + job, *more]


def waited():
    """Seconds in which the lab as a whole waited for a processor of the host; its own clock does not know."""
    try:
        with open(os.environ.get("LAB_OUT", "") + "/.waited") as file:
            return int(file.read())
    except OSError:
        return 0


def expect(what, holds):
    if not holds:
        raise RuntimeError(what)


def run_tests(tests, label):
    """Runs the functions test_* of `tests` that the command line names, or all; a line for each, then exits."""
    names = sys.argv[2:] or [name[5:] for name in tests if name.startswith("test_")]
    failed = 0
    for name in names:
        start = time.monotonic()
        try:
            tests["test_" + name]()
            print("ok    %s%s (%d s)" % (label, name, time.monotonic() - start), flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            traceback.print_exc()
            print("FAIL  %s%s (%d s)" % (label, name, time.monotonic() - start), flush=True)
    print("%d passed, %d failed" % (len(names) - failed, failed))
    sys.exit(1 if failed else 0)


class Console:
    """The other end of a guest's serial line, a listening Unix socket at `path`. `alive`: whether it may still come."""

    def __init__(self, path, echo=False, limit=BOOT_LIMIT, alive=lambda: True):
        self.text = ""
        self.echo = echo
        end = time.monotonic() + limit - waited()
        while True:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if not alive() or time.monotonic() - waited() > end:
                    raise RuntimeError("no console") from None
                time.sleep(0.1)

    def wait_for(self, wanted, limit=BOOT_LIMIT):
        """Reads until `wanted` comes; returns what came before. Gives up after `limit` seconds of silence."""
        self.socket.settimeout(min(limit, 2))
        last = time.monotonic() - waited()
        while wanted not in self.text:
            try:
                data = self.socket.recv(4096)
                last = time.monotonic() - waited()
            except TimeoutError:
                if time.monotonic() - waited() - last < limit:
                    continue
                raise RuntimeError("did not say %r" % wanted) from None
            if not data:
                raise EOFError("ended before it said %r" % wanted)
            text = data.decode(errors="replace").replace("\r", "")
            if self.echo:
                sys.stdout.write(text)
                sys.stdout.flush()
            self.text += text
        before, self.text = self.text.split(wanted, 1)
        return before

    def tell(self, line):
        self.socket.sendall(line.encode() + b"\n")


class Guest:
    """Ends with the block it is used in."""

    def __init__(self, name, command, console):
        """`command` makes the console a listening Unix socket at `console`."""
        self.name = name
        self.console = None
        if os.path.exists(console):  # of an earlier guest
            os.unlink(console)
        self.notes = open(console + ".notes", "w")
        self.process = subprocess.Popen(command, stdout=self.notes, stderr=subprocess.STDOUT)
        try:
            self.console = Console(console, alive=lambda: self.process.poll() is None)
        except RuntimeError as error:
            raise RuntimeError(self.complaint(error)) from None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.end()
        finally:
            self.kill()

    def complaint(self, what):
        self.notes.flush()
        said = self.console.text if self.console is not None else ""
        with open(self.notes.name) as file:
            return "%s: %s\n%s\n%s" % (self.name, what, said[-8000:], file.read()[-2000:])

    def wait_for(self, wanted, limit=BOOT_LIMIT):
        """Reads the console until `wanted` comes; returns what came before."""
        try:
            return self.console.wait_for(wanted, limit)
        except (RuntimeError, EOFError) as error:
            raise RuntimeError(self.complaint(error)) from None

    def tell(self, line):
        self.console.tell(line)

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
        self.process.wait(BOOT_LIMIT)
        if self.process.returncode != 0:
            raise RuntimeError(self.complaint("ended with status %d" % self.process.returncode))
        return rest

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
