# SPDX-License-Identifier: Apache-2.0
"""What is not from the peer or from pairctl: garbage on the control and channel sockets, a peer with another key, name or
configuration; and what an observer of the channel sees.
"""

import json
import os
import shutil
import subprocess
import time

import pytest

from conftest import BUILD, PEER, write_pair
from lablib import pairfile

PAIR = "confidential-invoices"
PATTERN = b"The pattern that nobody is to read. "

GARBAGE = r"""
import os, socket, struct, sys
kind, *where = sys.argv[1:]
greeting = lambda protocol: b"\0SP\0" + struct.pack("!HH", protocol, 0)
length = lambda n: struct.pack("!Q", n)
ipc = lambda n: b"\1" + length(n)  # on unix sockets nanomsg says a type before each length
bodies = [b"", b"\0" * 10, os.urandom(5000), b"{" * 20000, b"USC1" + os.urandom(60), b"USC1\1\1\0\0" + bytes(24),
          b"USC1\1\2\0\0" + os.urandom(24), b"USC1\1\1\0\0" + os.urandom(16) + b"\xff\xff\xff\xff" + bytes(4)]
cases = [b"", os.urandom(20000), b"GET / HTTP/1.1\r\n\r\n", b"\0SP\0", greeting(0xFFFF) + b"x" * 100]
for protocol in (48, 49, 80, 81):  # REQ, REP, PUSH, PULL
    for lead in (length, ipc):
        cases += [greeting(protocol) + lead(n) + b"y" * 1000 for n in (1 << 63, (1 << 64) - 1, 1 << 40, 1 << 26)]
        cases += [greeting(protocol) + lead(len(body)) + body for body in bodies]
        cases += [greeting(protocol) + lead(len(body) + 4) + b"\x80\0\0\1" + body for body in (
            b'{"protocol":1}', b'{"protocol":99,"command":"status"}', b'{"protocol":1,"command":"self-destruct"}',
            b'{"protocol":1,"pair":"%s","command":"switch"}' % (b"a" * 3000), b"[" * 5000, b'{"protocol":"x"}')]
for data in cases:
    try:
        with (socket.socket(socket.AF_UNIX) if kind == "unix" else socket.socket()) as s:
            s.settimeout(2)
            s.connect(where[0] if kind == "unix" else (where[0], int(where[1])))
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            s.settimeout(0.05)
            while s.recv(65536):
                pass
    except OSError:
        pass
if kind == "tcp":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for size in (0, 1, 20, 100, 1400):
            for _ in range(20):
                s.sendto(os.urandom(size), (where[0], 7404))
print(len(cases))
"""


@pytest.fixture(scope="module")
def shared(make_shared_lab, tmp_path_factory):
    """The pair has a name that does not come by chance."""
    pair = pairfile.default("sync")
    pair.update(pair=PAIR)
    pair["channel"]["key"] = f"/etc/understudy/{PAIR}.key"
    path = write_pair(tmp_path_factory.mktemp("pair") / "pair.json", **pair)
    return make_shared_lab(config=path)


@pytest.fixture
def lab(shared):
    shared.wait_promotable("primary")
    return shared


def log(lab, host):
    with open(os.path.join(lab.base, host, "log", host + "d.log"), errors="replace") as file:
        return file.read().splitlines()


def serves(lab):
    lab.exec("primary", "qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "flush", "-c", "read -P 0x5a 1M 64k",
             lab.uri("primary"))


@pytest.mark.row("bad config, bad command, bad peer, bad bytes on any socket")
def test_garbage_on_the_control_socket(lab):
    run = lab.status("primary")["run"]
    before = len(log(lab, "primary"))
    done = lab.exec("primary", "/usr/bin/python3", "-c", GARBAGE, "unix", "/run/understudy/primaryd.sock")
    assert int(done.stdout) > 100
    status = lab.status("primary")
    assert (status["run"], status["role"]) == (run, "active")
    lab.wait_until(lambda: [line for line in log(lab, "primary")[before:] if "control: " in line],
                   "the log to say that something was dropped")
    assert len(log(lab, "primary")[before:]) < 60, "no flood of log lines"
    serves(lab)
    lab.wait_promotable("primary")


@pytest.mark.row("bad config, bad command, bad peer, bad bytes on any socket")
def test_garbage_on_the_channel(lab):
    """From a host that reaches the ports: the client, on the public network, and the peer's host on the channel."""
    runs = {host: lab.status(host)["run"] for host in PEER}
    before = len(log(lab, "primary"))
    for sender, address, port in (("secondary", "198.51.100.1", 7700), ("secondary", "198.51.100.1", 7701),
                                  ("client", "192.0.2.11", 7402)):
        assert int(lab.exec(sender, "/usr/bin/python3", "-c", GARBAGE, "tcp", address, str(port)).stdout) > 100
    serves(lab)
    lab.wait_promotable("primary")
    assert {host: lab.status(host)["run"] for host in PEER} == runs
    assert lab.role("secondary") == "passive"

    def said():
        return [line for line in log(lab, "primary")[before:] if "channel" in line]
    lab.wait_until(lambda: [line for line in said() if "dropped" in line], "the log to say that something was dropped")
    assert len(said()) < 60, "no flood of log lines"
    lab.same_content()


def test_an_observer_sees_neither_data_nor_name(lab, tmp_path):
    capture = str(tmp_path / "capture")
    argv = ["ip", "netns", "exec", f"understudy-{lab.name}-switch", "tcpdump", "-i", "any", "-U", "-Z", "root", "-w",
            capture, "tcp portrange 7400-7799 or udp portrange 7400-7799"]
    tcpdump = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lab.wait_until(lambda: os.path.exists(capture) and os.path.getsize(capture) > 10000, "heartbeats in the capture")
    source = tmp_path / "pattern"
    source.write_bytes((PATTERN * 60000)[:2 << 20])
    lab.exec("primary", "qemu-io", "-f", "raw", "-c", f"write -s {source} 4M 2M", "-c", "flush", lab.uri("primary"))
    # Also what a daemon says when it starts, and in its handshakes.
    lab.kill("secondary")
    lab.wait_until(lambda: lab.status("secondary").get("peer", {}).get("connected"), "the secondary to be back")
    lab.wait_promotable("primary")
    lab.same_content()
    lab.wait_until(lambda: os.path.getsize(capture) > 2 << 20, "the write in the capture")
    tcpdump.terminate()
    tcpdump.wait()
    with open(capture, "rb") as file:
        seen = file.read()
    for secret in (PATTERN, PAIR.encode(), PAIR[:14].encode()):
        assert secret not in seen


def restart(lab, host):
    run = lab.status(host)["run"]
    lab.kill(host)
    lab.wait_until(lambda: lab.status(host).get("run") not in (None, run), f"{host}'s daemon to be back")


def both_refuse(lab, words, since):
    """Both ends say so, in the status and in the log, and not again and again."""
    for host in PEER:
        said = lab.wait_until(lambda: lab.status(host).get("peer", {}).get("refused"), f"{host} to say that it refuses")
        assert [word for word in words if word in said.lower()], said
    time.sleep(3)
    for host in PEER:
        lines = [line for line in log(lab, host)[since[host]:] if "refused" in line]
        # Once for each of five links.
        assert 1 <= len(lines) <= 12, lines
        assert lab.status(host)["peer"]["connected"] is False


def change_and_restore(lab, host, change):
    """Yields with the host's pair file, key or name changed."""
    etc = os.path.join(lab.base, host, "etc")
    kept = etc + ".kept"
    shutil.copytree(etc, kept)
    since = {name: len(log(lab, name)) for name in PEER}
    change(etc)
    restart(lab, host)
    yield since
    # The directory itself is mounted inside the host.
    for name in os.listdir(kept):
        shutil.copy2(os.path.join(kept, name), os.path.join(etc, name))
    shutil.rmtree(kept)
    restart(lab, host)


def edit(etc, change):
    path = os.path.join(etc, "pair.json")
    with open(path) as file:
        pair = json.load(file)
    change(pair)
    with open(path, "w") as file:
        json.dump(pair, file)


def other_key(etc):
    path = os.path.join(etc, PAIR + ".key")
    os.unlink(path)
    subprocess.run([os.path.join(BUILD, "pairctl", "pairctl"), "keygen", path], check=True, stdout=subprocess.DEVNULL)


def other_mode(etc):
    edit(etc, lambda pair: pair.update(mode="async"))


def other_timing(etc):
    edit(etc, lambda pair: pair.update(timing={"timeout_ms": 2500}))


def other_pair(etc):
    edit(etc, lambda pair: pair.update(pair="somebody-else"))


@pytest.mark.row("bad config, bad command, bad peer, bad bytes on any socket")
@pytest.mark.parametrize("change, words", [
    (other_key, ["key", "authenticat"]), (other_mode, ["mode"]), (other_timing, ["timing"]),
    (other_pair, ["pair"])], ids=["key", "mode", "timing", "pair"])
def test_a_peer_that_differs_is_refused_on_both_sides(lab, change, words):
    restored = change_and_restore(lab, "secondary", change)
    since = next(restored)
    both_refuse(lab, words, since)
    assert lab.status("primary")["role"] == "active"
    assert lab.status("secondary")["role"] == "passive"
    next(restored, None)
    lab.wait_promotable("primary")
    for host in PEER:
        lab.wait_for(host, "accepting its peer", peer=lambda peer: peer["refused"] == "")
    lab.same_content()
