#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""The first process of a host of the lab: pid 1 of namespaces of its own, which mounts what is the host's, starts its
daemons, and starts one again as soon as it ends. When it is killed, the kernel kills everything on the host, and the
host's mounts, with its runtime directory, are gone.

    boot.py BASE HOST: reads BASE/HOST/boot.json, writes BASE/HOST/pid (as this machine sees it) and BASE/HOST/pids/NAME.

A daemon is not started (again) while BASE/HOST/hold exists. What is of the kind "once" is started at boot only.
"""

import ctypes
import json
import os
import signal
import sys
import time

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 2, 4, 8, 4096
QUICK_SECONDS = 1.0  # a daemon that lived shorter than this counts as one that cannot start
QUICK_LIMIT = 5      # after so many of them in a row, a pause before each further start
PAUSE_SECONDS = 0.5

libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags=0, data=None):
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode() if data else None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target}: {os.strerror(error)}")


def say(text):
    print(f"{time.strftime('%H:%M:%S')} boot: {text}", flush=True)


class Host:
    def __init__(self, base, name):
        self.base = os.path.join(base, name)
        self.name = name
        with open(os.path.join(self.base, "boot.json")) as file:
            self.boot = json.load(file)
        self.running = {}  # pid: (daemon, start time)
        self.quick = {}    # daemon's name: ends in a row that came too soon

    def mount_all(self):
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        os.mkdir("/run/lock")
        for source, target in self.boot["mounts"]:
            mount(source, target, "none", MS_BIND)

    def start(self, daemon):
        log = os.path.join(self.base, "log", daemon["name"] + ".log")
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                null = os.open("/dev/null", os.O_RDONLY)
                for source, target in ((null, 0), (fd, 1), (fd, 2)):
                    os.dup2(source, target)
                os.execve(daemon["argv"][0], daemon["argv"], self.boot["environment"])
            finally:
                os._exit(127)
        self.running[pid] = (daemon, time.monotonic())
        with open(os.path.join(self.base, "pids", daemon["name"]), "w") as file:
            file.write(str(pid))

    def held(self):
        return os.path.exists(os.path.join(self.base, "hold"))

    def ended(self, pid, status):
        if pid not in self.running:
            return None  # an orphan
        daemon, started = self.running.pop(pid)
        name = daemon["name"]
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        soon = time.monotonic() - started < QUICK_SECONDS
        self.quick[name] = self.quick.get(name, 0) + 1 if soon else 0
        say(f"{name} ended with {how}")
        return daemon

    def supervise(self):
        waiting = list(self.boot["daemons"])
        while True:
            if not self.held():
                for daemon in waiting:
                    if self.quick.get(daemon["name"], 0) > QUICK_LIMIT:
                        time.sleep(PAUSE_SECONDS)
                    self.start(daemon)
                waiting = []
            pid, status = self.wait(poll=bool(waiting))
            daemon = self.ended(pid, status) if pid else None
            if daemon and daemon["kind"] != "once":
                waiting.append(daemon)

    def wait(self, poll):
        """The next child that ended. (0, 0) after a moment when `poll`, or when there are no children."""
        try:
            if not poll:
                return os.waitpid(-1, 0)
            time.sleep(0.02)
            return os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            signal.sigtimedwait([signal.SIGCHLD], 1.0)
            return 0, 0


def main():
    base, name = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    outer_pid = os.readlink("/proc/self")  # /proc is still this machine's
    host = Host(base, name)
    host.mount_all()
    if libc.sethostname(name.encode(), len(name)) != 0:
        raise OSError(ctypes.get_errno(), "sethostname")
    pid_file = os.path.join(host.base, "pid")
    with open(pid_file + ".new", "w") as file:
        file.write(outer_pid)
    os.rename(pid_file + ".new", pid_file)  # last: whoever reads it may enter the host
    say(f"{name} is up")
    host.supervise()


if __name__ == "__main__":
    main()
