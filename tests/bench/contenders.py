# SPDX-License-Identifier: Apache-2.0
"""What is measured: a pair in one of its modes, and the peers. Each starts what it needs and ends it again.

A contender has a `name`, and says what a load has to be aimed at (`target`), which processes work for it
(`processes`), whether something is still on its way (`drain`), and what it guarantees at this moment (`guarantee`).
"""

import json
import os
import signal
import socket
import subprocess
import time

PATIENCE_SECONDS = 60.0


class ContenderFailed(Exception):
    """A contender is not what it should be: a figure of it would be worth nothing."""


def wait(what, condition, pause=0.01):
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise ContenderFailed(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(pause)


class Contender:
    """What they have in common; by itself nothing that runs."""

    def __init__(self, name, work, size):
        self.name, self.size = name, size
        self.work = os.path.join(work, name)
        os.makedirs(self.work)
        self.children = {}

    def file(self, name):
        """A sparse file of the volume's size."""
        path = os.path.join(self.work, name)
        with open(path, "wb") as out:
            out.truncate(self.size)
        return path

    def spawn(self, name, argv, ready):
        """Starts a server, and waits until the path `ready` is there."""
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.children[name] = child

        def up():
            if child.poll() is not None:
                raise ContenderFailed(f"{' '.join(argv)}: exit status {child.returncode}")
            return os.path.exists(ready)
        wait(f"{argv[0]} to listen", up)

    def nbdkit(self, name, path):
        """Serves a file; returns the socket."""
        sock = os.path.join(self.work, name + ".sock")
        self.spawn(name, ["nbdkit", "--foreground", "--unix", sock, "file", path], sock)
        return sock

    def enter(self, argv):
        return argv

    def ready(self):
        for name, child in self.children.items():
            if child.poll() is not None:
                raise ContenderFailed(f"{self.name}: {name} has ended")

    def processes(self):
        return {name: child.pid for name, child in self.children.items()}

    def drain(self):
        """Milliseconds until nothing is on its way any more; None where there is no such thing."""
        return None

    def close(self):
        for child in self.children.values():
            child.send_signal(signal.SIGTERM)
        for child in self.children.values():
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def nbd_target(uri):
    return ["--ioengine=nbd", f"--uri={uri}"]


class Raw(Contender):
    """The file itself: O_DIRECT where requests are in flight together or nothing asks for a flush, else fdatasync."""

    def __init__(self, work, size):
        super().__init__("raw", work, size)
        self.path = self.file("image")

    def target(self, words):
        if "--fsync=1" in words:
            return ["--ioengine=psync", f"--filename={self.path}", "--fdatasync=1"]
        direct = [] if "--rw=randread" in words else ["--direct=1"]
        engine = "libaio" if direct else "psync"
        return [f"--ioengine={engine}", f"--filename={self.path}", *direct]

    def guarantee(self):
        return "one copy on one disk; no server between"


class Nbdkit(Contender):
    def __init__(self, work, size):
        super().__init__("nbdkit", work, size)
        self.socket = self.nbdkit("nbdkit", self.file("image"))

    def target(self, words):
        return nbd_target(f"nbd+unix:///?socket={self.socket}")

    def guarantee(self):
        return "one copy on one disk, at a flush"


class Qmp:
    """The control connection of a QEMU program."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.do("qmp_capabilities")

    def do(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise ContenderFailed(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


class Mirror(Contender):
    """QEMU's mirror job, copy-mode write-blocking, from an exported file to a second file behind an NBD server."""

    def __init__(self, work, size):
        super().__init__("mirror", work, size)
        target = self.nbdkit("target", self.file("copy"))
        self.socket, control = (os.path.join(self.work, name) for name in ("export.sock", "qmp.sock"))
        self.spawn("qemu", [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=file,filename={self.file('image')},discard=unmap",
            "--blockdev", "driver=raw,node-name=source,file=file",
            "--blockdev", f"driver=nbd,node-name=target,server.type=unix,server.path={target}",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket},max-connections=0",
            "--export", "type=nbd,id=export,node-name=source,name=disk,writable=on",
            "--chardev", f"socket,id=control,path={control},server=on,wait=off", "--monitor", "chardev=control"],
            control)
        self.qmp = Qmp(control)
        self.qmp.do("blockdev-mirror", **{"job-id": "mirror", "device": "source", "target": "target", "sync": "full",
                                          "copy-mode": "write-blocking"})
        wait("QEMU's mirror to be ready", lambda: self.job()["ready"])

    def job(self):
        jobs = self.qmp.do("query-block-jobs")
        if not jobs:
            raise ContenderFailed("QEMU's mirror job has ended")
        return jobs[0]

    def target(self, words):
        return nbd_target(f"nbd+unix:///disk?socket={self.socket}")

    def guarantee(self):
        if not self.job()["ready"]:
            return "mirror NOT ready: one copy"
        return "a write is in the target server's cache too; a flush is the source's disk alone; nobody takes over"


class Pair(Contender):
    """A pair of the lab, as its clients see it. The lab is up before."""

    PROMISES = {
        "async": "a takeover loses the unsafe queue; a flush is the local disk",
        "sync": "a flush is two disks: a takeover loses nothing that one acknowledged",
        "strict": "an answered write is on two disks: a takeover loses nothing acknowledged",
    }

    def __init__(self, name, work, size, lab, pair, mode):
        super().__init__(name, work, size)
        self.lab, self.pair, self.mode = lab, pair, mode
        wait(f"pair {pair} to be promotable", lambda: self.status("secondary").get("granted")
             and self.status("primary").get("synchronized"), pause=0.05)
        self.socket = self.status("primary")["volumes"][0]["export"]

    def status(self, host):
        return self.lab.status(host, self.pair)

    def enter(self, argv):
        return self.lab.enter("primary", argv)

    def target(self, words):
        return nbd_target(f"nbd+unix:///disk?socket={self.socket}")

    def processes(self):
        return self.lab.daemons()

    def ready(self):
        wait(f"pair {self.pair} to be promotable", lambda: self.status("secondary").get("granted"), pause=0.02)

    def drain(self):
        start = time.monotonic()
        for host, queue in (("primary", "unsafe_queue"), ("secondary", "safe_queue")):
            wait(f"{queue} of {self.pair} to drain", lambda host=host, queue=queue:
                 self.status(host).get(queue, {}).get("records") == 0)
        return (time.monotonic() - start) * 1000

    def guarantee(self):
        here = self.status("primary")
        if here.get("alone") or not here.get("synchronized"):
            return f"NOT PROTECTED at this moment: {here.get('why')}"
        return self.PROMISES[self.mode]


