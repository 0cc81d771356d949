# SPDX-License-Identifier: Apache-2.0
"""Who is measured: a pair in one of its modes, and the peers. Each starts what it needs and ends it again.

A contender has a `name`, and says what a load has to be aimed at (`target`), which processes work for it
(`processes`), whether something is still on its way (`drain`), what it guarantees at this moment (`guarantee`), and
whether both its copies are equal (`check`).
"""

import json
import os
import signal
import socket
import subprocess
import time

from benchlab import LabFailed, wait


def listens(path):
    """Whether somebody takes connections at a socket's path: that is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
        return True


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

    def spawn(self, name, argv, ready, log="log"):
        """Starts a server, and waits until the path `ready` is there, or `ready()` is true."""
        with open(os.path.join(self.work, log), "a") as out:
            child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=out,
                                     stderr=out)
        self.children[name] = child

        def up():
            if child.poll() is not None:
                raise LabFailed(f"{' '.join(argv)}: exit status {child.returncode}; see {out.name}")
            return ready() if callable(ready) else os.path.exists(ready)
        wait(f"{name} to listen", up)

    def nbdkit(self, name, path):
        """Serves a file; returns the socket."""
        sock = os.path.join(self.work, name + ".sock")
        self.spawn(name, ["nbdkit", "--foreground", "--unix", sock, "file", path], sock)
        return sock

    def ready(self):
        for name, child in self.children.items():
            if child.poll() is not None:
                raise LabFailed(f"{self.name}: {name} has ended")

    def processes(self):
        return {name: child.pid for name, child in self.children.items()}

    def drain(self):
        """Milliseconds until nothing is on its way any more; None where there is no such thing."""
        return None

    def check(self):
        """Raises LabFailed unless what was written is on both copies; where there is one copy, nothing."""

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


def compare(name, one, two):
    """Raises LabFailed unless two files are equal."""
    done = subprocess.run(["cmp", one, two], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise LabFailed(f"{name}: the copies are NOT EQUAL: {done.stdout.strip()}")


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
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.do("qmp_capabilities")

    def do(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise LabFailed(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


class Mirror(Contender):
    """QEMU's mirror job, copy-mode write-blocking, from an exported file to a second file behind an NBD server: over a
    unix socket, or (`lab`) over the channel of a lab, with the server on the other host."""

    def __init__(self, work, size, lab=None):
        super().__init__("mirror", work, size)
        self.lab = lab
        self.copy, self.image = self.file("copy"), self.file("image")
        self.socket, control = (os.path.join(self.work, name) for name in ("export.sock", "qmp.sock"))
        target = self.target_server()
        self.spawn("qemu", self.inside("primary", [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=file,filename={self.image},discard=unmap",
            "--blockdev", "driver=raw,node-name=source,file=file",
            "--blockdev", f"driver=nbd,node-name=target,{target}",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket},max-connections=0",
            "--export", "type=nbd,id=export,node-name=source,name=disk,writable=on",
            "--chardev", f"socket,id=control,path={control},server=on,wait=off", "--monitor", "chardev=control"]),
            lambda: listens(control))
        self.qmp = Qmp(control)
        self.qmp.do("blockdev-mirror", **{"job-id": "mirror", "device": "source", "target": "target", "sync": "full",
                                          "copy-mode": "write-blocking"})
        wait("QEMU's mirror to be ready", lambda: self.job()["ready"])

    def inside(self, host, argv):
        return self.lab.enter(host, argv) if self.lab else argv

    def target_server(self):
        """Starts it; returns how QEMU is told where it is."""
        if not self.lab:
            return f"server.type=unix,server.path={self.nbdkit('target', self.copy)}"
        ready = os.path.join(self.work, "target.pid")
        self.spawn("target", self.inside("secondary", ["nbdkit", "--foreground", "--pidfile", ready, "--port", "10809",
                                                       "--ipaddr", "198.51.100.2", "file", self.copy]), ready)
        return "server.type=inet,server.host=198.51.100.2,server.port=10809"

    def job(self):
        jobs = self.qmp.do("query-block-jobs")
        if not jobs:
            raise LabFailed("QEMU's mirror job has ended")
        return jobs[0]

    def target(self, words):
        return nbd_target(f"nbd+unix:///disk?socket={self.socket}")

    def guarantee(self):
        if not self.job()["ready"]:
            return "mirror NOT ready: one copy"
        return "a write is in the target server's cache too; a flush is the source's disk alone; nobody takes over"

    def check(self):
        compare(self.name, self.image, self.copy)


class Floor(Contender):
    """The work of a pair's data path without its bookkeeping (floor.h): the bound of what two processes can do with it.
    Over the channel of a lab, or (`clear`) on the loopback of a network namespace of its own, not sealed."""

    PORT = 10810

    def __init__(self, name, work, size, lab, strict=False, clear=False):
        super().__init__(name, work, size)
        self.copy, self.image = self.file("copy"), self.file("image")
        self.socket = os.path.join(self.work, "export.sock")
        program = os.path.join(os.environ["UNDERSTUDY_BUILD"], "tests", "bench", "floor")
        address, port = "127.0.0.1" if clear else "198.51.100.2", str(self.PORT + strict)
        words = ["clear"] if clear else []
        passive = [program, "passive", self.copy, os.path.join(self.work, "queue"), address, port, *words]
        active = [program, "active", self.image, self.socket, address, port, *words, *(["strict"] if strict else [])]
        if clear:
            space = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
            self.spawn("passive", [*space, *passive], lambda: self.runs("passive", program))
            here = ["nsenter", f"--net=/proc/{self.children['passive'].pid}/ns/net"]
        else:
            self.spawn("passive", [*lab.enter_network("secondary"), *passive], lambda: self.runs("passive", program))
            here = lab.enter_network("primary")
        self.spawn("active", [*here, *active], lambda: listens(self.socket))

    def runs(self, name, program):
        """Whether the child has become that program: then it is in its network, too."""
        return os.path.realpath(f"/proc/{self.children[name].pid}/exe") == os.path.realpath(program)

    def target(self, words):
        return nbd_target(f"nbd+unix:///?socket={self.socket}")

    def guarantee(self):
        return "the work alone, as a bound: nothing survives a crash, nothing is checked, nobody takes over"

    def check(self):
        """What has been flushed is on its way to the copy, if not there yet."""
        wait("the floor's copies to be equal", lambda: subprocess.run(["cmp", "-s", self.image, self.copy],
                                                                      check=False).returncode == 0, seconds=20)


class Pair(Contender):
    """A pair as its clients see it. `place`, a BenchLab or a Loopback, has been started before."""

    PROMISES = {
        "async": "a takeover loses the unsafe queue; a flush is the local disk",
        "sync": "a flush is two disks: a takeover loses nothing that one acknowledged",
        "strict": "an answered write is on two disks: a takeover loses nothing acknowledged",
    }

    def __init__(self, name, work, size, place, pair, mode, by_itself=True):
        """`by_itself`: it has a waypoint, so the passive end may take over without an operator."""
        super().__init__(name, work, size)
        self.place, self.pair, self.mode, self.by_itself = place, pair, mode, by_itself
        self.ready()

    def status(self, host):
        return self.place.status(host, self.pair)

    def target(self, words):
        return nbd_target(f"nbd+unix:///disk?socket={self.place.export(self.pair)}")

    def processes(self):
        return self.place.daemons()

    def protected(self):
        there, here = self.status("secondary"), self.status("primary")
        granted = there.get("granted") or not self.by_itself
        return granted and here.get("paired") and here.get("synchronized") and not here.get("alone")

    def ready(self):
        """A first mirror may have to end before."""
        wait(f"pair {self.pair} to be protected", self.protected, pause=0.02, seconds=900)

    def drain(self):
        start = time.monotonic()
        for host, queue in (("primary", "unsafe_queue"), ("secondary", "safe_queue")):
            wait(f"{queue} of {self.pair} to drain", lambda host=host, queue=queue:
                 self.status(host).get(queue, {}).get("records") == 0, pause=0.002, seconds=900)
        return (time.monotonic() - start) * 1000

    def guarantee(self):
        here = self.status("primary")
        if here.get("alone") or not here.get("synchronized"):
            return f"NOT PROTECTED at this moment: {here.get('why')}"
        return self.PROMISES[self.mode] + ("" if self.by_itself else "; an operator has to ask for it")

    def check(self):
        """Nothing is written any more, so once all is applied both stores have to be equal."""
        self.ready()
        self.drain()
        numbered = self.status("primary")["positions"]["numbered"]
        wait(f"{self.pair} to have applied everything", lambda: self.status("secondary").get("positions", {}).get(
            "applied", 0) >= numbered)
        compare(self.name, *(self.place.store(host, self.pair) for host in ("primary", "secondary")))
