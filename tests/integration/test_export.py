# SPDX-License-Identifier: Apache-2.0
"""The export under the tools that people use: libnbd's, QEMU's, fio; what a passive end says; garbage on its socket."""

import os
import subprocess

import pytest

from conftest import LAB, write_pair

VOLUME = 64 << 20
GARBAGE = r"""
import os, socket, struct, sys
path, = sys.argv[1:]
magic, have, opts = b"NBDMAGIC", b"IHAVEOPT", struct.pack("!Q", 0x49484156454F5054)
option = lambda number, size, data=b"": opts + struct.pack("!II", number, size) + data
cases = [
    b"", b"\0", os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 65536,
    struct.pack("!I", 0xFFFFFFFF), struct.pack("!I", 3),
    struct.pack("!I", 3) + os.urandom(512),
    struct.pack("!I", 3) + option(7, 0xFFFFFFFF),
    struct.pack("!I", 3) + option(7, 0x7FFFFFFF, b"x" * 100000),
    struct.pack("!I", 3) + option(7, 6, struct.pack("!IH", 0xFFFFFFFF, 0xFFFF)),
    struct.pack("!I", 3) + option(1, 5000, b"n" * 5000),
    struct.pack("!I", 3) + option(0xABCDEF, 16, b"?" * 16) * 200,
    struct.pack("!I", 3) + option(10, 8, struct.pack("!II", 0xFFFFFFFF, 0xFFFFFFFF)),
]
request = lambda kind, offset, length, flags=0: struct.pack("!IHHQQI", 0x25609513, flags, kind, 7, offset, length)
go = struct.pack("!I", 3) + option(7, 10, struct.pack("!I", 4) + b"disk" + struct.pack("!H", 0))
cases += [go + data for data in (
    os.urandom(4096), request(0, 1 << 63, 4096), request(0, 0, 0xFFFFFFFF), request(1, 0, 0xFFFFFFFF, 0),
    request(1, 0, 1 << 20), request(1, (1 << 64) - 1, 10) + b"x" * 10, request(77, 0, 4096), request(4, 5, 0xFFFFFFFF),
    request(0, 0, 4096, 0xFFFF), request(7, 0, 0), request(6, 0, 0xFFFFFFFF), request(3, 1, 1))]
for number, data in enumerate(cases):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(path)
        try:
            s.sendall(data)
            if number % 2:
                s.shutdown(socket.SHUT_WR)
            while number % 3 == 0 and number % 2 and s.recv(65536):
                pass
        except OSError:
            pass
print(len(cases))
"""


@pytest.fixture(scope="module")
def lab(make_shared_lab, tmp_path_factory):
    lab = make_shared_lab(config=write_pair(tmp_path_factory.mktemp("pair") / "lab.json"))
    lab.wait_promotable("primary")
    return lab


def same_run(lab, host="primary"):
    return lab.status(host)["run"]


def qemu_io(lab, *commands, check=True):
    words = [word for command in commands for word in ("-c", command)]
    done = lab.exec("primary", "qemu-io", "-f", "raw", *words, lab.uri("primary"), check=check)
    assert "verification failed" not in done.stdout, done.stdout
    assert "error" not in done.stdout.lower(), done.stdout
    return done.stdout


def test_nbdinfo_says_what_it_can(lab):
    said = lab.exec("primary", "nbdinfo", lab.uri("primary")).stdout
    for fact in (f"export-size: {VOLUME}", "can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true",
                 "can_multi_conn: true", "is_read_only: false", "base:allocation"):
        assert fact in said, said
    empty_name = lab.exec("primary", "nbdinfo", "nbd+unix:///?socket=" + lab.export("primary")).stdout
    assert f"export-size: {VOLUME}" in empty_name
    listed = lab.exec("primary", "nbdinfo", "--list", "nbd+unix://?socket=" + lab.export("primary")).stdout
    assert 'export="disk"' in listed
    other = lab.exec("primary", "nbdinfo", "nbd+unix:///other?socket=" + lab.export("primary"), check=False)
    assert other.returncode != 0
    assert lab.exec("primary", "nbdinfo", "--map", lab.uri("primary")).stdout


def test_nbdcopy_in_both_directions(lab, tmp_path):
    content, back = tmp_path / "content", tmp_path / "back"
    data = bytearray(VOLUME)
    for at in range(0, VOLUME, 3 << 20):
        data[at:at + (1 << 20)] = os.urandom(1 << 20)
    content.write_bytes(data)
    lab.exec("primary", "nbdcopy", "--flush", content, lab.uri("primary"))
    lab.exec("primary", "nbdcopy", lab.uri("primary"), back)
    assert back.read_bytes() == data
    assert "identical" in lab.exec("primary", "qemu-img", "compare", "-f", "raw", "-F", "raw", content,
                                   lab.uri("primary")).stdout
    converted = tmp_path / "converted.qcow2"
    lab.exec("primary", "qemu-img", "convert", "-f", "raw", "-O", "qcow2", lab.uri("primary"), converted)
    assert "identical" in lab.exec("primary", "qemu-img", "compare", "-F", "raw", converted, lab.uri("primary")).stdout
    lab.exec("primary", "qemu-img", "convert", "-n", "-O", "raw", converted, lab.uri("primary"))
    lab.same_content()
    with open(lab.store("secondary"), "rb") as store:
        assert store.read() == data, "and so has the replica"


def test_qemu_io_patterns(lab):
    qemu_io(lab, "write -P 0xa1 0 4M", "write -P 0xa2 1M 64k", "write -f -P 0xa3 1000k 4k", "write -P 0xa4 513 1023",
            "flush", "read -P 0xa4 513 1023", "read -P 0xa1 4k 64k", "read -P 0xa2 1M 20k", "read -P 0xa3 1000k 4k")
    qemu_io(lab, "write -z 2M 1M", "read -P 0 2M 1M", "write -z -u 3M 512k", "read -P 0 3M 512k",
            "discard 0 512k", "read -P 0 0 512k", "read -P 0xa1 600k 100k", "flush")
    qemu_io(lab, *(f"aio_write -P {0x10 + i} {i * 128}k 128k" for i in range(32)), "aio_flush",
            *(f"read -P {0x10 + i} {i * 128}k 128k" for i in range(32)))
    qemu_io(lab, f"write -P 0x77 {VOLUME - 4096} 4096", f"read -P 0x77 {VOLUME - 4096} 4096")
    lab.same_content()


def test_fio_with_verify(lab, tmp_path):
    done = lab.exec("primary", "env", f"--chdir={tmp_path}", "fio", "--name=verify", "--ioengine=nbd",
                    "--uri=" + lab.uri("primary"), "--rw=randrw", "--bssplit=512/20:4k/50:64k/20:1M/10", "--size=32M",
                    "--iodepth=16", "--fsync=16", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                    "--io_size=64M", "--output-format=terse", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lab.same_content()


def test_the_passive_end_refuses_readably(lab):
    socket_path = lab.export("secondary")
    done = lab.exec("secondary", "env", "LIBNBD_DEBUG=1", "nbdinfo", f"nbd+unix:///disk?socket={socket_path}",
                    check=False)
    assert done.returncode != 0 and "passive" in done.stderr, done.stderr
    done = lab.exec("secondary", "qemu-io", "-f", "raw", "-c", "read 0 4k", f"nbd+unix:///disk?socket={socket_path}",
                    check=False)
    assert done.returncode != 0 and "passive" in done.stderr + done.stdout, done.stderr


@pytest.mark.parametrize("client", ["qemu-io", "qemu-nbd"])
def test_a_client_with_a_reconnect_delay_survives_a_killed_daemon(lab, client):
    """What is written in flight when the daemon dies is written again by the client, which sees no error."""
    before, numbered = same_run(lab), lab.status("primary")["positions"]["numbered"]
    image = (f"driver=nbd,server.type=unix,server.path={lab.export('primary')},export=disk,reconnect-delay=30")
    stop = None
    if client == "qemu-nbd":
        stop = lab.popen("primary", "qemu-nbd", "--image-opts", image, "-k", "/run/again.sock", "-t")
        lab.wait_until(lambda: lab.exec("primary", "nbdinfo", "nbd+unix://?socket=/run/again.sock",
                                        check=False).returncode == 0, "qemu-nbd to listen")
        image = "driver=nbd,server.type=unix,server.path=/run/again.sock"
    commands = [f"write -P {1 + i % 250} {i * 64}k 64k" for i in range(200)]
    script = "\n".join(["write -P 0xee 0 4k"] + ["sleep 10\n" + command for command in commands] + ["flush"]) + "\n"
    process = subprocess.Popen([LAB, "exec", "primary", "--", "qemu-io", "--image-opts", image], env=lab.environment,
                               text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdin.write(script)
    process.stdin.close()
    process.stdin = None
    lab.wait_for("primary", "written to", positions=lambda at: at["numbered"] > numbered)
    lab.kill("primary")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "failed" not in said and "error" not in said.lower(), said
    lab.wait_for("primary", "another run", run=lambda run: run != before)
    if stop:
        stop.kill()
    qemu_io(lab, *(f"read -P {1 + i % 250} {i * 64}k 64k" for i in range(200)))
    lab.wait_promotable("primary")
    assert lab.role("secondary") == "passive"
    lab.same_content()


@pytest.mark.row("bad config, bad command, bad peer, bad bytes on any socket")
def test_garbage_on_the_export_is_dropped_and_it_serves_on(lab):
    run = same_run(lab)
    qemu_io(lab, "write -P 0x99 0 1M")
    done = lab.exec("primary", "/usr/bin/python3", "-c", GARBAGE, lab.export("primary"))
    assert int(done.stdout) > 20
    qemu_io(lab, "read -P 0x99 0 1M")
    assert same_run(lab) == run, "the same daemon"

    def said():
        with open(os.path.join(lab.base, "primary", "log", "primaryd.log")) as log:
            lines = [line for line in log if "volume disk: " in line]
        return [line for line in lines if "dropped" in line or "does not speak" in line or "not a" in line]
    lab.wait_until(said, "the log to say that clients were dropped")
    lab.same_content()
