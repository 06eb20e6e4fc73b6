"""The enlightened guest under `partita run`, for end-to-end tests on any /dev/kvm. Limits are patience with a busy
machine, not measurements: what a test asserts is that something happens, and with which result."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

PATIENCE = 40  # seconds


def expect(holds, *what):
    if not holds:
        raise AssertionError(" ".join(str(w) for w in what))


def wait_for(what, condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        expect(time.monotonic() < end, "in vain:", what)
        time.sleep(0.01)


class Partition:
    """One `partita run` in a directory of its own; `with` ends it whatever happens."""
    programs = ""

    def __init__(self, job, *more, memory="64M", stdout=None, stderr=None):
        self.folder = tempfile.mkdtemp(prefix="partita-test-")
        self.control = self.folder + "/control"
        self.disk = self.folder + "/disk"
        with open(self.disk, "wb") as file:
            file.truncate(64 << 20)
        self.log = open(self.folder + "/log", "w+b")
        self.command = [self.programs + "/partita", "run", "--kernel", self.programs + "/enlightened-guest", "--memory",
                        memory, "--synic", os.environ.get("PARTITA_SYNIC", "auto"), "--cmdline", job, "--control",
                        self.control, *[word.replace("FOLDER", self.folder) for word in more]]
        self.stdout, self.stderr = stdout, stderr
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.stdout or self.log,
                                        stderr=self.stderr or self.log, start_new_session=True)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            worker = self.worker()
            self.process.kill()
            self.process.wait()
            if worker:
                try:
                    os.kill(worker, 9)
                except ProcessLookupError:
                    pass
        self.remove()

    def remove(self):
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self):
        with open(self.folder + "/log", errors="replace") as file:
            return file.read()

    def events(self, name):
        found = []
        for line in self.output().splitlines():
            if line.startswith("{"):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if event.get("event") == name:
                    found.append(event)
        return found

    def worker(self):
        try:
            with open("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)) as file:
                children = file.read().split()
        except FileNotFoundError:
            return 0
        return int(children[0]) if children else 0

    def start_ctl(self, *verb):
        return subprocess.Popen([self.programs + "/partita", "ctl", self.control, *verb], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def ctl(self, *verb):
        asked = self.start_ctl(*verb)
        return asked.communicate(timeout=PATIENCE + 180)[0], asked.returncode

    def ask(self, *verb):
        text, status = self.ctl(*verb, "--json")
        expect(status == 0, verb, text)
        return json.loads(text)

    def status(self):
        """How it ended, as a shell would say."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError("it does not end:\n" + self.output()) from None
        return 128 - status if status < 0 else status


def run_tests(tests):
    """Runs the functions test_* that the command line names behind the folder of programs, or all."""
    Partition.programs = os.path.abspath(sys.argv[1])
    names = sys.argv[2:] or [name[5:] for name in tests if name.startswith("test_")]
    failed = 0
    for name in names:
        start = time.monotonic()
        try:
            tests["test_" + name]()
            print("ok    %s (%.1f s)" % (name, time.monotonic() - start), flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            traceback.print_exc()
            print("FAIL  %s (%.1f s)" % (name, time.monotonic() - start), flush=True)
    print("%d passed, %d failed" % (len(names) - failed, failed))
    sys.exit(1 if failed else 0)
