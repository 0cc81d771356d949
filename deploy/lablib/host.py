# SPDX-License-Identifier: Apache-2.0
"""Hosts of a lab: boot, crash, entering one. What runs inside is boot.py's."""

import json
import os
import signal
import subprocess
import time

from . import disk, network
from .instance import ENDS, MOUNT_POINTS, ON_DISK, TOP, LabError, run, wait_gone, write_file

BOOT = os.path.join(TOP, "deploy", "lablib", "boot.py")
BOOT_SECONDS = 10.0


def _mounts(lab, host):
    if host not in ENDS:
        return [[lab.path("hosts"), "/etc/hosts"]]
    mounts = [[lab.path("hosts"), "/etc/hosts"]]
    for point, name in MOUNT_POINTS.items():
        on_powerfs = lab.state["powerfs"] and name in ON_DISK
        source = lab.path(host, "disk", name) if on_powerfs else lab.path(host, name)
        os.makedirs(source, exist_ok=True)
        mounts.append([source, point])
    return mounts


def _boot_json(lab, host):
    return {
        "mounts": _mounts(lab, host),
        "daemons": lab.state["daemons"].get(host, []),
        "environment": {"PATH": lab.search_path(), "HOME": "/root", "LANG": "C.UTF-8", "LAB": lab.name,
                        "LAB_HOST": host},
    }


def _make_stores(lab, host):
    """The files of the host's volumes, sparse, where there are none yet; durable, as a store is before it is used."""
    directories = {point: source for source, point in _mounts(lab, host)}
    for path, size, *image in lab.state["stores"].get(host, []):
        for point, source in directories.items():
            if path.startswith(point + "/"):
                path = source + path[len(point):]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if image:
            run(["cp", "--sparse=always", image[0], path])
        with open(path, "ab") as file:
            if file.tell() == 0:
                file.truncate(size)
            os.fsync(file.fileno())
        _sync_directory(os.path.dirname(path))


def _sync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def libvirtd(lab, host):
    """What starts the host's own libvirtd. It is not started again by the supervisor, but by the same command.

    It is asked once what its emulator can do: one that has been up for a while knows, and the first guest need not wait.
    """
    command = '"$0" "$1" && virsh -q -c qemu:///system domcapabilities --virttype qemu >/dev/null'
    return {"name": "libvirtd", "kind": "once", "argv": ["/bin/sh", "-c", command,
                                                         os.path.join(TOP, "deploy", "lab-libvirtd"),
                                                         lab.path(host, "libvirt")]}


def start(lab, host, first=False):
    """Boots a host that is off. Returns when it has its mounts and its daemons are being started."""
    for name in ("log", "pids"):
        os.makedirs(lab.path(host, name), exist_ok=True)
    for name in ("pid", "hold"):
        if os.path.exists(lab.path(host, name)):
            os.unlink(lab.path(host, name))
    if lab.state["powerfs"] and host in ENDS:
        disk.mount(lab, host)
    if first:
        _make_stores(lab, host)
    write_file(lab.path(host, "boot.json"), json.dumps(_boot_json(lab, host), indent=1))
    network.connect(lab, host)
    enter = ["nsenter", "--net=/run/netns/" + lab.netns(host), "unshare", "--mount", "--uts", "--ipc", "--pid",
             "--cgroup", "--fork", "--propagation", "private", BOOT, lab.base, host]
    with open(lab.path(host, "log", "boot.log"), "a") as log:
        process = subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                   preexec_fn=lambda: lab.join_cgroup(host), cwd="/")
    end = time.monotonic() + BOOT_SECONDS
    while lab.host_pid(host) is None:
        if process.poll() is not None or time.monotonic() > end:
            raise LabError(f"{host} does not boot: see {lab.path(host, 'log', 'boot.log')}")
        time.sleep(0.005)


def crash(lab, host):
    """The cables first, then every process; then nothing of the host's memory is left."""
    network.links_down(lab, host)
    kill(lab, host)
    network.disconnect(lab, host)


def kill(lab, host):
    pid = lab.host_pid(host)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        if not wait_gone(pid):
            raise LabError(f"{host} (process {pid}) does not die")
    lab.kill_cgroup(host)


def enter_argv(lab, host, argv):
    """The command that runs argv in the host, ends with it, and takes it along when it is killed itself."""
    pid = lab.need_host(host)
    return ["nsenter", "--target", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "setpriv",
            "--pdeathsig", "KILL", "env", f"--chdir={os.getcwd()}", f"PATH={lab.search_path()}", f"LAB={lab.name}",
            f"LAB_HOST={host}", *argv]


def kill_daemons(lab, host, names, hold):
    """SIGKILL to the daemons alone. With `hold` they stay dead until `lab start`."""
    pid = lab.need_host(host)
    if hold:
        write_file(lab.path(host, "hold"), "")
    known = [daemon["name"] for daemon in lab.state["daemons"].get(host, []) if daemon["kind"] == "daemon"]
    for name in names or known:
        if name not in known:
            raise LabError(f"{host} runs no {name}; it runs {', '.join(known) or 'no daemon'}")
        with open(lab.path(host, "pids", name)) as file:
            inner = file.read().strip()
        subprocess.run(["nsenter", "--target", str(pid), "--mount", "--pid", "kill", "-KILL", inner], check=False)


def log_tails(lab, lines=15):
    """The last lines of every log of the hosts, for a message."""
    text = []
    for host in ENDS:
        directory = lab.path(host, "log")
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
            with open(os.path.join(directory, name), errors="replace") as file:
                tail = file.read().splitlines()[-lines:]
            if tail:
                text += [f"--- {host}: {name}"] + tail
    return "\n".join(text)
