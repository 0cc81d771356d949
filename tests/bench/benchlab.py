# SPDX-License-Identifier: Apache-2.0
"""Where pairs are measured: a lab (two hosts with networks between them, encrypted), or, for pairs in clear, two
daemons on the loopback of a network namespace of their own. Both are asked in the same way: status(), daemons(), ..."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "deploy"))
from lablib import host as hosts, network, pairfile  # noqa: E402
from lablib.instance import ENDS, VOLUMES, Instance  # noqa: E402

import process  # noqa: E402

LAB = os.path.join(TOP, "deploy", "lab")
RUNTIME = "/run/understudy"
PATIENCE_SECONDS = 120.0
DAEMONS = ("primaryd", "secondaryd")
GUARDS = "understudy-guar"  # as the kernel cuts the name


class LabFailed(Exception):
    """A command of the lab failed, or a pair is not what it should be: a figure of it would be worth nothing."""


def wait(what, condition, pause=0.01, seconds=PATIENCE_SECONDS):
    """Asks until the condition is true; returns what it gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise LabFailed(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)


def program(name):
    return Instance(os.environ["LAB"]).program(name)


def ask_status(runtime, end, pair):
    """`pairctl status` of one end, or of every end of that daemon (`pair` None: a list); {} if there is no answer."""
    argv = [program("pairctl"), "--runtime-dir", runtime, "--end", end, "status", "--json"]
    done = subprocess.run(argv + (["-p", pair] if pair else []), text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    try:
        return json.loads(done.stdout) if done.returncode == 0 else {}
    except ValueError:
        return {}


class BenchLab:
    """The lab. `host` is primary or secondary, which run the ends of that name."""

    def __init__(self):
        self.instance = Instance(os.environ["LAB"])

    def run(self, *arguments):
        done = subprocess.run([LAB, *arguments], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise LabFailed(f"lab {' '.join(arguments)}: {done.stdout.strip()}")

    def up(self, directory, *arguments):
        self.run("up", "--config", directory, *arguments)
        self.instance.load()

    def down(self):
        self.run("down")

    def enter(self, host, argv):
        return hosts.enter_argv(self.instance, host, argv)

    def enter_network(self, host):
        """The beginning of a command that runs in the host's network, and in nothing else of it: the process that is
        started is the program itself."""
        return ["nsenter", f"--net=/proc/{self.instance.need_host(host)}/ns/net"]

    def reach(self, host, path):
        """A path of the host as this machine sees it."""
        return f"/proc/{self.instance.need_host(host)}/root{path}"

    def status(self, host, pair=None):
        return ask_status(self.reach(host, RUNTIME), host, pair)

    def pairctl(self, host, pair, *words):
        done = subprocess.run(self.enter(host, ["pairctl", "-p", pair, *words]), text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise LabFailed(f"pairctl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def export(self, pair):
        return self.reach("primary", f"{RUNTIME}/{pair}/disk.nbd")

    def store(self, host, pair):
        return self.instance.path(host, "volumes", pair + ".img")

    def daemons(self, names=DAEMONS):
        found = {}
        for host in ENDS:
            for name, pid in process.of_group(os.path.join(self.instance.cgroup, host)).items():
                if name in names:
                    found[name if name in DAEMONS else f"guard@{host}"] = pid
        return found

    def wire_bytes(self):
        """Bytes that both ends have sent over the channel's networks since the hosts were connected."""
        done = subprocess.run(["ip", "-n", self.instance.netns("switch"), "-j", "-s", "link", "show"], text=True,
                              stdout=subprocess.PIPE, check=True)
        ports = {port["ifname"]: port["stats64"]["rx"]["bytes"] for port in json.loads(done.stdout)}
        return sum(count for name, count in ports.items() if name.startswith("ch") and "-" in name)

    def crash(self, host):
        """Cuts the host off and kills everything on it; returns when the cables were cut (CLOCK_MONOTONIC)."""
        network.links_down(self.instance, host)
        moment = time.monotonic()
        hosts.crash(self.instance, host)
        return moment


class Loopback:
    """Two daemons and their pairs in clear: without a key, which is allowed on loopback addresses only."""

    def __init__(self, work, names, write):
        """`names` of the pairs; `write(name)` is the pair file's content, for the hosts primary and secondary."""
        self.work = work
        self.instance = Instance(os.environ["LAB"])
        self.runtime = tempfile.mkdtemp(prefix="understudy-bench-", dir="/dev/shm")  # the unsafe queue is in memory
        self.children = {}
        try:
            config = os.path.join(work, "config")
            os.makedirs(config)
            for name in names:
                with open(os.path.join(config, name + ".json"), "w") as file:
                    json.dump(write(name), file, indent=4)
            self.start(config)
        except BaseException:
            self.close()
            raise

    def spawn(self, name, argv):
        """In the lab's control group, so that `lab down` ends what this program did not live to end."""
        with open(os.path.join(self.work, name + ".log"), "w") as log:
            self.children[name] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL,
                                                   stdout=log, stderr=log,
                                                   preexec_fn=lambda: self.instance.join_cgroup("loopback"))
        return self.children[name].pid

    def start(self, config):
        holder = self.spawn("net", ["unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep infinity"])
        wait("a network namespace", lambda: os.readlink(f"/proc/{holder}/ns/net") != os.readlink("/proc/self/ns/net")
             and "sleep" in open(f"/proc/{holder}/comm").read())
        for end in ENDS:
            self.spawn(end + "d", ["nsenter", f"--net=/proc/{holder}/ns/net", program(end + "d"), "--foreground",
                                   "--config", config, "--state-dir", os.path.join(self.work, "lib", end),
                                   "--runtime-dir", os.path.join(self.runtime, end), "--host", end])

    def status(self, host, pair=None):
        return ask_status(os.path.join(self.runtime, host), host, pair)

    def export(self, pair):
        return os.path.join(self.runtime, "primary", pair, "disk.nbd")

    def store(self, host, pair):
        return os.path.join(self.work, "volumes", f"{pair}-{host}.img")

    def daemons(self):
        return {name: child.pid for name, child in self.children.items() if name in DAEMONS}

    def close(self):
        for child in self.children.values():
            child.send_signal(signal.SIGKILL)
            child.wait()
        self.instance.kill_cgroup("loopback")
        shutil.rmtree(self.runtime, ignore_errors=True)


def pair_of_lab(name, mode, size, number=0, whole=False, queues=None, paths=2):
    """A pair file's content. `whole`: with the address and the application, which one pair of a lab can have; `number`
    tells the pairs of a lab apart."""
    pair = pairfile.default(mode)
    del pair["channel"]["paths"][paths:]
    port = 7700 + 2 * number
    pair["pair"] = name
    pair["channel"]["key"] = f"/etc/understudy/{name}.key"
    pair["channel"]["public_port"] = 8700 + 2 * number
    pair["channel"]["management_port"] = 9700 + number
    for path in pair["channel"]["paths"]:
        path["port"] = port
    pair["volumes"][0]["size"] = size
    for end in ENDS:
        pair["volumes"][0][end]["path"] = f"{VOLUMES}/{name}.img"
    if not whole:
        pair["applications"] = []
        pair["public_address"]["addresses"] = [f"192.0.2.{number + 20}/24"]
    if queues:
        pair["queues"] = queues
    return pair


def pair_in_clear(name, mode, size, number, stores):
    """A pair file's content for Loopback; `stores` is the path of each end's store."""
    pair = pair_of_lab(name, mode, size, number)
    pair["ends"] = {end: {"host": end} for end in ENDS}
    pair["channel"] = {"paths": [{"primary": "127.0.0.1", "secondary": "127.0.0.2", "port": 7700 + 2 * number}]}
    for end in ENDS:
        pair["volumes"][0][end]["path"] = stores[end]
        with open(stores[end], "wb") as file:
            file.truncate(size)
    pair["public_address"] = {"addresses": []}
    pair["waypoints"] = []
    return pair


def write_pair(directory, pair):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, pair["pair"] + ".json"), "w") as file:
        json.dump(pair, file, indent=4)
