# SPDX-License-Identifier: Apache-2.0
"""A whole pair on this machine for the tests: one lab, with the real daemons of $UNDERSTUDY_BUILD.

Nothing here asserts how long something takes: whoever waits names a state, and a deadline that only something broken
misses.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
LAB = os.path.join(TOP, "deploy", "lab")
sys.path.insert(0, os.path.join(TOP, "deploy"))
from lablib import pairfile  # noqa: E402
BUILD = os.path.abspath(os.environ.get("UNDERSTUDY_BUILD") or os.path.join(TOP, "build"))
PEER = {"primary": "secondary", "secondary": "primary"}
PUBLIC_ADDRESS = "192.0.2.10"
WAIT_SECONDS = float(os.environ.get("LAB_WAIT") or 90)
LOG_LINES = 120
FATAL = re.compile(r"ended with signal (4|6|7|8|11)\b|Sanitizer|runtime error:")

_numbers = itertools.count(1)


class LabFailed(AssertionError):
    """A command of the lab failed where it should not."""


class Lab:
    """One lab. `primary` and `secondary` are hosts; each runs the end of that name, whatever its role."""

    def __init__(self):
        prefix = os.environ.get("LAB") or "it"
        self.name = f"{prefix}-{os.getpid()}-{next(_numbers)}"
        self.base = f"/var/tmp/understudy-lab-{self.name}"
        self.environment = dict(os.environ, LAB=self.name, UNDERSTUDY_BUILD=BUILD)
        self.powerfs = False
        self.children = []

    # Commands of the lab.
    def __call__(self, *arguments, check=True, timeout=180):
        done = subprocess.run([LAB, *arguments], env=self.environment, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise LabFailed(f"lab {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def up(self, mode=None, powerfs=False, config=None, arguments=()):
        """`config` is a pair file or a directory of them; without it the lab's own pair, in `mode`."""
        self.powerfs = powerfs
        argv = ["up", *arguments]
        argv += ["--mode", mode] if mode else []
        argv += ["--powerfs"] if powerfs else []
        argv += ["--config", str(config)] if config else []
        self(*argv)
        return self

    def down(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
        self("down")

    def exec(self, host, *argv, check=True, timeout=180):
        """Runs argv inside the host to its end."""
        return self("exec", host, "--", *(str(word) for word in argv), check=check, timeout=timeout)

    def popen(self, host, *argv, **options):
        """Starts argv inside the host; a crash of the host kills it, and so does the end of the test."""
        child = subprocess.Popen([LAB, "exec", host, "--", *(str(word) for word in argv)], env=self.environment,
                                 text=True, stdin=subprocess.DEVNULL, **options)
        self.children.append(child)
        return child

    def crash(self, host, power=False, torn=False):
        """Returns the moment (CLOCK_MONOTONIC) before which the host was whole. With `power` it forgets what was not
        synced; all of it, or (`torn`) a random part."""
        moment = time.monotonic()
        self("crash", host, *(["--power"] if power else []), *(["--torn"] if power and torn else []))
        return moment

    def crash_passive(self, host):
        """Crashes the passive host, and waits until its peer is alone; returns (CLOCK_MONOTONIC, ns) when the host was dead
        and when the peer was alone. A peer whose waypoint's answers have a gap meanwhile, for which it is enough that
        this machine is very busy, has to step down instead: then the host comes back, and it is tried again."""
        peer = PEER[host]
        for _ in range(5):
            story = self.story()
            self.crash(host)
            dead = time.monotonic_ns()

            def outcome(story=story):
                events = [event for event in story.events(peer) if event["text"].startswith("alone: ")]
                return events or (self.status(peer).get("state") == "suspended" and "suspended")
            found = self.wait_until(outcome, f"{peer} to be alone")
            if found != "suspended":
                return dead, found[0]["time_ms"] * 10**6 - time.time_ns() + time.monotonic_ns()
            self.start(host)
            self.wait_promotable(peer)
        raise AssertionError(f"{peer} has stepped down each time: the waypoint's answers had gaps")

    def start(self, host):
        self("start", host)

    def kill(self, host, *arguments):
        self("kill", host, *arguments)

    def cut(self, *arguments):
        self("cut", *arguments)

    def heal(self):
        self("heal")

    # What the pair says.
    def pairctl(self, host, *arguments, check=True, timeout=180):
        return self.exec(host, "pairctl", *arguments, check=check, timeout=timeout)

    def status(self, host):
        """The host's status as parsed JSON; {} when its daemon does not answer (it may be off, or starting)."""
        done = self.pairctl(host, "status", "--json", check=False)
        try:
            return json.loads(done.stdout) if done.returncode == 0 else {}
        except ValueError:
            return {}

    def role(self, host):
        return self.status(host).get("role")

    def events(self, host):
        """The same as a list of {time_ms, step, ms, text, loss}."""
        return json.loads(self.pairctl(host, "history", "--json").stdout)

    def story(self):
        """What the ends will do from now on."""
        return Story(self)

    def same_content(self, volume="disk"):
        """Both stores hold the same, once the pair, which has to be quiet, is settled."""
        self.wait_settled("primary" if self.role("primary") == "active" else "secondary")
        done = subprocess.run(["cmp", *(self.store(host, volume) for host in PEER)], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == 0, done.stdout

    def store(self, host, volume="disk"):
        """The host's backing file, as this machine sees it, while the host's disk is mounted."""
        return os.path.join(self.base, host, *(["disk"] if self.powerfs else []), "volumes", volume + ".img")

    def export(self, host, volume="disk"):
        """The path of the volume's socket inside that host."""
        return next(v["export"] for v in self.status(host)["volumes"] if v["name"] == volume)

    def uri(self, host, volume="disk"):
        return f"nbd+unix:///{volume}?socket={self.export(host, volume)}"

    # Waiting for a state.
    def wait_until(self, condition, what, seconds=WAIT_SECONDS):
        """Polls until condition() is true, and returns what it said."""
        end = time.monotonic() + seconds
        while True:
            result = condition()
            if result:
                return result
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
            time.sleep(0.1)

    def wait_for(self, host, what, seconds=WAIT_SECONDS, **fields):
        """Until the host's status has all these top-level fields; a callable is asked with the field's value."""
        def good():
            status = self.status(host)
            if status and all(key in status and (value(status[key]) if callable(value) else status[key] == value)
                              for key, value in fields.items()):
                return status
            return None
        return self.wait_until(good, f"{host} to be {what}", seconds)

    def wait_active(self, host, seconds=WAIT_SECONDS):
        """Until the host is active and serves its volumes."""
        return self.wait_for(host, "active", seconds, role="active",
                             volumes=lambda volumes: all(volume["serving"] for volume in volumes))

    def is_promotable(self, active):
        here, there = self.status(active), self.status(PEER[active])
        return (here.get("role") == "active" and there.get("role") == "passive" and not here["alone"]
                and there["granted"] and all(v["synchronized"] for v in here["volumes"] + there["volumes"]))

    def wait_promotable(self, active, seconds=WAIT_SECONDS):
        """Until the active end has a synchronized peer that holds a grant."""
        self.wait_until(lambda: self.is_promotable(active), f"{PEER[active]} to be synchronized and hold a grant", seconds)

    def wait_settled(self, active, seconds=WAIT_SECONDS):
        """Until everything that the active end has numbered is applied on the peer; the pair has to be quiet."""
        self.wait_promotable(active, seconds)

        def good():
            here = self.status(active)  # first: what leaves its queue afterwards is seen in the peer's
            there = self.status(PEER[active])
            return (here and there and here["unsafe_queue"]["records"] == 0 and there["safe_queue"]["records"] == 0
                    and there["positions"]["applied"] >= here["positions"]["numbered"])
        self.wait_until(good, "both queues to be empty", seconds)

    def wait_answered(self, host, url=f"http://{PUBLIC_ADDRESS}/", seconds=WAIT_SECONDS):
        """Until the application on that host answers the client at the public address."""
        def good():
            return self.exec("client", "curl", "-sf", "-m", "2", url, check=False).stdout == host + "\n"
        self.wait_until(good, f"{url} to be answered by {host}", seconds)

    def wait_one_promotable(self, seconds=WAIT_SECONDS):
        """Until one end is active and the other one may take over; returns the active one."""
        return self.wait_until(lambda: next((host for host in PEER if self.is_promotable(host)), None),
                               "one end to be active, and the other one promotable", seconds)

    def normal(self):
        """Whole, not paused, the primary active and answering, whatever a test before has done."""
        self.heal()
        for command in (["resume", "--replay"], ["resume"]):
            self.pairctl("primary", *command, check=False)
        if self.wait_one_promotable() == "secondary":
            self.pairctl("secondary", "switch")
        self.wait_settled("primary")
        self.wait_answered("primary")
        return self

    def fatal(self):
        """What no daemon may end with, whatever is done to it: a broken invariant, a wrong address, a sanitizer's finding.
        The lab starts it again, and so nothing else may show it."""
        found = []
        for host in PEER:
            directory = os.path.join(self.base, host, "log")
            for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
                with open(os.path.join(directory, name), errors="replace") as file:
                    found += [f"{host}: {name}: {line.strip()}" for line in file if FATAL.search(line)]
        return found

    def left(self):
        """What is on this machine of the lab, by its name."""
        with open("/proc/self/mounts") as mounts:
            found = [line for line in mounts if f"understudy-lab-{self.name}/" in line]
        found += [name for name in os.listdir("/run/netns") if name.startswith(f"understudy-{self.name}-")]
        found += [name for name in os.listdir("/var/tmp") if f"understudy-lab-{self.name}" in name]
        for process in os.listdir("/proc"):
            try:
                with open(f"/proc/{process}/cgroup") as file, open(f"/proc/{process}/stat") as stat:
                    dead = stat.read().rpartition(")")[2].split()[0] in "ZX"  # and not yet taken in by anybody
                    if not dead and f"understudy-lab-{self.name}/" in file.read():
                        found.append(f"process {process}")
            except OSError:
                pass
        return found

    # What is said when a test failed.
    def report(self):
        text = []
        for host in PEER:
            for what in ("history", "status"):
                try:
                    done = self.pairctl(host, what, check=False, timeout=20)
                    text.append(f"--- {host}: pairctl {what}\n{done.stdout}{done.stderr}")
                except (OSError, subprocess.SubprocessError) as error:
                    text.append(f"--- {host}: pairctl {what}: {error}")
            directory = os.path.join(self.base, host, "log")
            for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
                if not name.endswith(".log"):
                    continue
                with open(os.path.join(directory, name), errors="replace") as file:
                    lines = file.read().splitlines()[-LOG_LINES:]
                text.append("\n".join([f"--- {host}: {name}"] + lines))
        return "\n".join(text)


class Story:
    """What has happened on both ends since it was made: their histories, without what was in them before. No clock of
    this machine is asked for it."""

    def __init__(self, lab):
        self.lab = lab
        self.before = {host: {json.dumps(event) for event in self.all(host)} for host in PEER}

    def all(self, host):
        done = self.lab.pairctl(host, "history", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else []

    def events(self, host):
        return [event for event in self.all(host) if json.dumps(event) not in self.before[host]]

    def texts(self, host):
        return [event["text"] for event in self.events(host)]

    def tells(self, *words, hosts=tuple(PEER)):
        """The texts that have one of these words in them."""
        return [text for host in hosts for text in self.texts(host) if any(word in text for word in words)]

    def takeovers(self, passive="secondary"):
        """Of the peer; an active end that starts again `takes over` from its own former run."""
        return self.tells("taking over", hosts=[passive])


def write_pair(path, mode="sync", size="64MiB", **changes):
    """Writes the lab's own pair with another size of its volume, and other top-level fields, to a file."""
    pair = dict(pairfile.default(mode), **changes)
    for volume in pair["volumes"]:
        volume["size"] = size
    path.write_text(json.dumps(pair, indent=1))
    return path
