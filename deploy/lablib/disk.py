# SPDX-License-Identifier: Apache-2.0
"""The disks of hosts of a lab that is up with --powerfs: a file system that forgets what was not synced.

BASE/HOST/disk is the mount, BASE/HOST/platter what it keeps. Its process (tests/powerfs) is outside of the host, so a
crash of the host alone loses nothing; a signal makes it forget and end, which is the loss of power.
"""

import os
import signal
import subprocess
import time

from .instance import LabError, quietly, run, wait_gone

MOUNT_SECONDS = 10.0


def _program(lab):
    path = os.path.join(lab.build, "tests", "powerfs", "powerfs")
    if not os.access(path, os.X_OK):
        raise LabError(f"{path} is missing; --powerfs needs a build with libfuse3")
    return path


def _pid(lab, host):
    try:
        with open(lab.path(host, "powerfs.pid")) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline") as file:
            return pid if "powerfs" in file.read() else None
    except (OSError, ValueError):
        return None


def is_mounted(lab, host):
    return os.path.ismount(lab.path(host, "disk"))


def mount(lab, host):
    """Mounts the host's disk unless it still is, as after a crash without loss of power."""
    if is_mounted(lab, host) and _pid(lab, host):
        return
    quietly(["umount", "-l", lab.path(host, "disk")])
    for name in ("disk", "platter"):
        os.makedirs(lab.path(host, name), exist_ok=True)
    with open(lab.path(host, "powerfs.log"), "a") as log:
        process = subprocess.Popen([_program(lab), lab.path(host, "platter"), lab.path(host, "disk")],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                                   preexec_fn=lambda: lab.join_cgroup(host + "-disk"))
    with open(lab.path(host, "powerfs.pid"), "w") as file:
        file.write(str(process.pid))
    end = time.monotonic() + MOUNT_SECONDS
    while not is_mounted(lab, host):
        if process.poll() is not None or time.monotonic() > end:
            raise LabError(f"the disk of {host} does not mount: see {lab.path(host, 'powerfs.log')}")
        time.sleep(0.005)


def lose_power(lab, host, torn):
    """Forgets what was not synced; all of it, or (`torn`) a random part."""
    pid = _pid(lab, host)
    if pid is None:
        raise LabError(f"{host} has no disk that can forget; that needs `lab up --powerfs`")
    os.kill(pid, signal.SIGUSR1 if torn else signal.SIGUSR2)
    if not wait_gone(pid, 300.0):  # it writes what a torn loss keeps: to a disk that may be busy
        raise LabError(f"the disk of {host} (process {pid}) does not end")
    run(["umount", "-l", lab.path(host, "disk")])


def kill(lab, host):
    pid = _pid(lab, host)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
    lab.kill_cgroup(host + "-disk")
