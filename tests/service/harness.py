"""A service of its own in a directory of its own, with fake workers, and a client of its API."""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Refused(Exception):
    def __init__(self, status, error):
        super().__init__(f"{status} {error}")
        self.status = status
        self.error = error


class Service:
    """`with Service(bin) as s:`; `arguments` go to partitad."""

    def __init__(self, binaries, *arguments, fake=True):
        self.binaries = pathlib.Path(binaries)
        self.directory = tempfile.mkdtemp(prefix="partita-service-")
        self.socket = self.directory + "/run/s"
        self.state = self.directory + "/state"
        self.arguments = list(arguments)
        if fake:
            self.arguments += ["--worker", str(self.binaries / "fake-worker"), "--without-kvm", "--poll-ms", "100",
                               "--back-off-ms", "20"]
        self.process = None
        self.kernel = self.directory + "/kernel"
        pathlib.Path(self.kernel).write_text("kernel")

    def __enter__(self):
        os.chmod(self.directory, 0o755)
        self.start()
        return self

    def __exit__(self, kind, value, trace):
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)
        self.kill()
        if kind is not None:
            log = pathlib.Path(self.directory, "log")
            print(log.read_text() if log.exists() else "no log")
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self):
        self.log = open(self.directory + "/log", "ab")
        self.process = subprocess.Popen(
            [self.binaries / "partitad", "--socket", self.socket, "--state", self.state, *self.arguments],
            stdout=self.log, stderr=self.log)
        self.until(self.answers, "the service answers")

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError("partitad ended: " + pathlib.Path(self.directory, "log").read_text())
        try:
            return self.get("/v1")
        except (OSError, http.client.HTTPException):
            return None

    def kill(self, number=signal.SIGKILL):
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait()
        self.process = None
        self.log.close()

    def workers(self):
        """Pids of workers of this service: their listening socket lies in its directory."""
        found = []
        for line in pathlib.Path("/proc/net/unix").read_text().splitlines():
            words = line.split()
            if len(words) == 8 and words[7].startswith(self.directory + "/run/workers/"):
                found.append(words[6])
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or (self.process is not None and int(entry.name) == self.process.pid):
                continue
            try:
                links = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            if any(f"socket:[{inode}]" in links for inode in found):
                pids.append(int(entry.name))
        return pids

    def raw(self, method, path, body=None, headers=None, timeout=60):
        connection = Connection(self.socket, timeout)
        try:
            data = json.dumps(body) if isinstance(body, (dict, list)) else body
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, method, path, body=None):
        status, data = self.raw(method, path, body)
        answer = json.loads(data) if data else None
        if status >= 400:
            raise Refused(status, answer["error"])
        return answer

    def get(self, path):
        return self.ask("GET", path)

    def vm(self, name):
        return self.get(f"/v1/vms/{name}")

    def new(self, name, line="", **more):
        return self.ask("POST", "/v1/vms", {"name": name, "boot": {"kernel": self.kernel, "command_line": line}, **more})

    def wait(self, operation, seconds=60):
        answer = self.get(f"/v1/operations/{operation['id']}?wait_ms={seconds * 1000}")
        assert answer["state"] != "running", answer
        return answer

    def do(self, name, verb, body=None):
        """Starts an operation and waits for its end."""
        return self.wait(self.ask("POST", f"/v1/vms/{name}/{verb}", body))

    def events(self, kind=None, since=0):
        status, data = self.raw("GET", f"/v1/events?since={since}")
        assert status == 200
        events = [json.loads(line) for line in data.splitlines()]
        return [event for event in events if kind in (None, event["type"])]

    @staticmethod
    def until(condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.005)
        raise AssertionError(f"not within {seconds} s: {what}")

    def until_state(self, name, state):
        return self.until(lambda: (vm := self.vm(name))["state"] == state and vm, f"{name} is {state}")


def refused(call, status, kind):
    try:
        call()
    except Refused as refusal:
        assert (refusal.status, refusal.error["id"]) == (status, kind), refusal
        assert refusal.error["message"], refusal
        return refusal.error
    raise AssertionError(f"not refused with {kind}")
