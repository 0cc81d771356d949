# SPDX-License-Identifier: Apache-2.0
"""The export under a kernel's own NBD client: a guest attaches the volume, makes a file system on it, writes, syncs, reads
back, trims and detaches; what it has written is looked at from outside, on both ends.

The guest reaches the socket through QEMU's user network; on two connections, since the export allows that.
"""

import hashlib
import os
import shutil
import subprocess

import pytest

from conftest import HERE, PEER, write_pair

TASK = os.path.join(HERE, "kernel-client")
GUEST_SECONDS = 600


def copy_with_libraries(program, root):
    """A program of this machine, and the libraries that it needs, where it looks for them."""
    shutil.copy(program, root / "bin")
    said = subprocess.run(["ldd", program], text=True, stdout=subprocess.PIPE, check=True).stdout
    for library in (word for word in said.split() if word.startswith("/")):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def make_initrd(guest_files, directory):
    """The guest's initramfs with the client and the task behind it: the kernel unpacks one after the other."""
    client = shutil.which("nbd-client", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not client:
        pytest.skip("this machine has no nbd-client; deploy/need test installs it")
    root = directory / "root"
    (root / "bin").mkdir(parents=True)
    copy_with_libraries(client, root)
    shutil.copy(TASK, root / "task")
    names = "\n".join(os.path.relpath(os.path.join(at, name), root) for at, below, files in os.walk(root)
                      for name in below + files)
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], input=names.encode(), cwd=root,
                             stdout=subprocess.PIPE, check=True).stdout
    initrd = directory / "initrd.img"
    with open(os.path.join(guest_files, "initrd.img"), "rb") as file:
        first = file.read()
    initrd.write_bytes(first + bytes(-len(first) % 4) + archive)
    return initrd


def run_guest(lab, guest_files, initrd, directory):
    """What the guest said until it switched itself off."""
    console = directory / "console"
    forward = f"{HERE}/forward_unix.py {lab.export('primary')}"
    guest = lab.popen(
        "primary", "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-m", "256", "-cpu", "max",
        "-accel", "tcg", "-kernel", os.path.join(guest_files, "vmlinuz"), "-initrd", initrd,
        "-append", "console=ttyS0 quiet loglevel=3 mitigations=off nokaslr tsc=reliable no_timer_check panic=-1",
        "-serial", f"file:{console}", "-device", "virtio-rng-pci",
        "-netdev", f"user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:10809-cmd:{forward}",
        "-device", "virtio-net-pci,netdev=net,romfile=")
    assert guest.wait(timeout=GUEST_SECONDS) == 0
    return console.read_text(errors="replace")


def file_sums(image, names, directory):
    """The SHA-256 sums of files in a file system, read without mounting it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    sums = {}
    for name in names:
        out = directory / name
        subprocess.run(["debugfs", "-R", f"dump /{name} {out}", image], check=True, stderr=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, env={"PATH": path})
        sums[name] = hashlib.sha256(out.read_bytes()).hexdigest()
    done = subprocess.run(["e2fsck", "-fn", image], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, env={"PATH": path})
    assert done.returncode == 0, done.stdout
    return sums


def lines(said, word):
    """{name: sum} of the lines that begin with that word."""
    return dict(line.split()[1:3] for line in said.splitlines() if line.startswith(word + " "))


def test_a_kernel_uses_the_volume(make_lab, guest_files, tmp_path):
    initrd = make_initrd(guest_files, tmp_path)
    lab = make_lab(config=write_pair(tmp_path / "lab.json"))
    lab.wait_promotable("primary")
    said = run_guest(lab, guest_files, initrd, tmp_path)
    assert "\ndone" in said.replace("\r", ""), said
    assert "write back" in said, "the kernel knows that it has to flush"
    sums = lines(said, "sum")
    assert len(sums) == 3 and lines(said, "again") == sums, said
    lab.same_content()
    assert file_sums(lab.store("secondary"), sums, tmp_path) == sums
    assert "written forgotten" in said
    for host in PEER:
        with open(lab.store(host), "rb") as store:
            left = store.read().count(b"To be forgotten by a trim.")
        assert left == 0, f"not trimmed on {host}"
    assert not [line for line in said.splitlines() if "I/O error" in line], said
