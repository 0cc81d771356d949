# SPDX-License-Identifier: Apache-2.0
"""One lab: its name, its places on this machine, and what has to be remembered between two commands.

Everything of the lab NAME lies in /var/tmp/understudy-lab-NAME, in network namespaces understudy-NAME-*, and in the
control group understudy-lab-NAME: `lab down` looks there, not into what was remembered, so that it also cleans up after
a command that died half-way.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

VOLUMES = "/var/lib/understudy-volumes"
HOSTS = ("primary", "secondary", "client")
ENDS = ("primary", "secondary")
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BASES = "/var/tmp"
PREFIX = "understudy-lab-"
# Directories of a host that are its own. They are made here if this machine has none, and removed with the last lab.
MOUNT_POINTS = {
    "/etc/understudy": "etc",
    "/var/lib/understudy": "lib",
    VOLUMES: "volumes",
    "/var/log/understudy": "log",
    "/etc/libvirt": "libvirt/etc",
    "/var/lib/libvirt": "libvirt/lib",
    "/var/cache/libvirt": "libvirt/cache",
    "/var/log/libvirt": "libvirt/log",
}
ON_DISK = ("lib", "volumes")  # what --powerfs puts onto the file system that forgets


class LabError(Exception):
    """Something the user has to know; the command ends with it."""


def run(argv, **options):
    """Runs a program to its end; LabError with what it said if it failed."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    done = subprocess.run(argv, text=True, **options)
    if done.returncode != 0:
        said = (done.stderr or done.stdout or "").strip()
        raise LabError(f"{' '.join(argv)}: {said or 'exit status ' + str(done.returncode)}")
    return done.stdout


def quietly(argv, **options):
    """Runs a program whose failure does not matter."""
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, **options)


def write_file(path, text, mode=0o644):
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "w") as out:
        out.write(text)
    os.chmod(path + ".new", mode)
    os.rename(path + ".new", path)


def cgroup_mount():
    """Where this machine has its version 2 control groups."""
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == "cgroup2":
                return fields[1]
    raise LabError("no cgroup2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")


def wait_gone(pid, seconds=10.0):
    """Waits until no process has this number; False if it is still there after that time."""
    end = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > end:
            return False
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except OSError:
            return True
        time.sleep(0.002)
    return True


class Instance:
    """The lab of one name. `state` is what lab.json holds: see cmd_up() in deploy/lab."""

    def __init__(self, name):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,19}", name):
            raise LabError(f"the name of a lab is made of a-z, 0-9 and -, 20 at most; found {name!r} in $LAB")
        self.name = name
        self.base = os.path.join(BASES, PREFIX + name)
        self.build = os.path.abspath(os.environ.get("UNDERSTUDY_BUILD") or os.path.join(TOP, "build"))
        for place in (TOP, self.build):
            for hidden in (*MOUNT_POINTS, "/run", "/dev/shm"):
                if (place + "/").startswith(hidden + "/"):
                    raise LabError(f"{place} cannot be seen by the hosts of a lab, which have a {hidden} of their own")
        self.cgroup = os.path.join(cgroup_mount(), PREFIX + name)
        self.state = {}
        self._lock = None

    # Places and names.
    def path(self, *parts):
        return os.path.join(self.base, *parts)

    def netns(self, host):
        return f"understudy-{self.name}-{host}"

    def program(self, name):
        """The path of one of our programs, in the build tree or as installed."""
        for path in (os.path.join(self.build, name, name), os.path.join(self.build, name)):
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        raise LabError(f"{self.build} has no {name}; run deploy/build, or set UNDERSTUDY_BUILD")

    def search_path(self):
        """$PATH inside the hosts: our programs first."""
        ours = [os.path.join(self.build, d) for d in ("pairctl", "primaryd", "secondaryd", "guard")]
        system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return ":".join(ours + [self.build, system])

    # What is remembered.
    def lock(self):
        """One command at a time changes a lab."""
        self._lock = open(os.path.join(BASES, f".{PREFIX}{self.name}.lock"), "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def unlock_for_good(self):
        """The end of `lab down`: the lock's file goes too."""
        if self._lock:
            os.unlink(self._lock.name)

    def load(self):
        try:
            with open(self.path("lab.json")) as file:
                self.state = json.load(file)
        except FileNotFoundError:
            raise LabError(f"the lab {self.name!r} is not up") from None
        self.build = self.state["build"]
        return self

    def save(self):
        write_file(self.path("lab.json"), json.dumps(self.state, indent=1) + "\n")

    # Hosts.
    def host_pid(self, host):
        """The number, on this machine, of the process that is pid 1 of the host; None when the host is off."""
        try:
            with open(self.path(host, "pid")) as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cgroup") as file:
                alive = f"{PREFIX}{self.name}/{host}" in file.read()
        except (OSError, ValueError):
            return None
        return pid if alive else None

    def need_host(self, host):
        pid = self.host_pid(host)
        if pid is None:
            raise LabError(f"{host} is off; `lab start {host}` boots it")
        return pid

    def join_cgroup(self, host, pid=None):
        directory = os.path.join(self.cgroup, host)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "cgroup.procs"), "w") as file:
            file.write(str(pid or os.getpid()))

    # Ends of things.
    def kill_cgroup(self, host):
        """Kills whatever is still in the host's control group, frozen or not, and removes the group."""
        top = os.path.join(self.cgroup, host)
        for _ in range(50):
            pids = []
            for directory, _, files in os.walk(top, topdown=False):
                if "cgroup.procs" not in files:
                    continue
                try:
                    with open(os.path.join(directory, "cgroup.procs")) as file:
                        pids += [int(line) for line in file if int(line) > 0]
                    with open(os.path.join(directory, "cgroup.freeze"), "w") as file:
                        file.write("0")
                except OSError:
                    pass
            pids = [pid for pid in pids if pid != os.getpid()]
            if not pids:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for pid in pids:
                wait_gone(pid, 1.0)
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass

    def unmount_all(self):
        """Unmounts everything under our directory, the innermost first."""
        with open("/proc/self/mounts") as mounts:
            points = [line.split()[1] for line in mounts]
        for point in reversed(points):
            if point.startswith(self.base + "/"):
                quietly(["umount", "-l", point])

    def make_mount_points(self):
        """Makes the directories that hosts mount over, and remembers which ones this machine did not have."""
        with open(os.path.join(BASES, f".{PREFIX}mountpoints.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = []
            for point in MOUNT_POINTS:
                if not os.path.isdir(point):
                    os.makedirs(point)
                    made.append(point)
            write_file(self.path("mountpoints"), "\n".join(made))

    def remove_mount_points(self):
        """Removes what make_mount_points() made, or leaves that to another lab that may be using it."""
        lock_path = os.path.join(BASES, f".{PREFIX}mountpoints.lock")
        with open(lock_path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                with open(self.path("mountpoints")) as file:
                    made = file.read().split()
            except OSError:
                made = []
            heirs = [os.path.join(BASES, entry, "mountpoints") for entry in os.listdir(BASES)
                     if entry.startswith(PREFIX) and os.path.join(BASES, entry) != self.base]
            heirs = [heir for heir in heirs if os.path.exists(heir)]
            if heirs:
                with open(heirs[0], "a") as file:
                    file.write("\n" + "\n".join(made))
                return
            for point in made:
                try:
                    os.rmdir(point)
                except OSError:
                    pass
            os.unlink(lock_path)


def complain(text):
    print(f"lab: {text}", file=sys.stderr)
