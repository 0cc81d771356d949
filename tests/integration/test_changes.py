# SPDX-License-Identifier: Apache-2.0
"""The volumes of a pair file are changed while the pair runs, and the daemons are killed under load: what is queued is for
the volumes that were, so that neither end runs before they are back; and how volumes are changed."""

import json
import os

import pytest

from labs import PEER, pairfile

NAMES = ("data", "log")
TIMING = {"timeout_ms": 4000}  # a killed daemon is back before that also where the machine is busy
WRITER = """
import os, random, subprocess, sys
while not os.path.exists(sys.argv[3]):
    words = [word for _ in range(100) for word in ("-c", "write -q -P %s %d 64k" % (sys.argv[2], random.randrange(900) << 16))]
    subprocess.run(["qemu-io", "-f", "raw", *words, sys.argv[1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


def volume(name, size="64MiB"):
    path = os.path.join(pairfile.VOLUMES, name + ".img")
    return {"name": name, "size": size, "primary": {"path": path}, "secondary": {"path": path}}


def put(lab, host, pair):
    with open(os.path.join(lab.base, host, "etc", "lab.json"), "w") as file:
        json.dump(pair, file)


def log(lab, host):
    with open(os.path.join(lab.base, host, "log", host + "d.log"), errors="replace") as file:
        return file.read().splitlines()


def kill(lab, host):
    lab.exec(host, "pkill", "-KILL", "-x", host + "d", check=False)


def bytes_of(lab, host, name):
    """Which bytes the store has."""
    with open(lab.store(host, name), "rb") as file:
        return {block[0] for block in iter(lambda: file.read(65536), b"")}


@pytest.fixture
def pair(make_lab, tmp_path):
    pair = dict(pairfile.default("sync"), volumes=[volume(name) for name in NAMES], timing=TIMING)
    (tmp_path / "lab.json").write_text(json.dumps(pair))
    lab = make_lab(config=tmp_path / "lab.json")
    lab.wait_promotable("primary")
    return lab, pair


def test_volumes_that_differ_from_what_is_queued_are_refused(pair, tmp_path):
    lab, pair = pair
    enough = tmp_path / "enough"
    children = [lab.popen("primary", "/usr/bin/python3", "-c", WRITER, lab.uri("primary", name), pattern, enough)
                for name, pattern in zip(NAMES, ("0x11", "0x22"))]
    for name, pattern in zip(NAMES, (0x11, 0x22)):
        lab.wait_until(lambda name=name, pattern=pattern: pattern in bytes_of(lab, "secondary", name), "writes to arrive")
    before = {host: len(log(lab, host)) for host in PEER}
    for host in PEER:
        put(lab, host, dict(pair, volumes=pair["volumes"][::-1]))
        kill(lab, host)
    for host in PEER:
        lab.wait_until(lambda host=host: [line for line in log(lab, host)[before[host]:]
                                          if "lab.json: volumes[0].name: found log; " in line and "for data" in line],
                       f"{host} to refuse other volumes")
    for host in PEER:
        put(lab, host, pair)
        kill(lab, host)
    lab.wait_promotable("primary")
    enough.touch()
    for child in children:
        child.wait(60)
    lab.wait_settled("primary")
    for host in PEER:
        for name, other in zip(NAMES, (0x22, 0x11)):
            assert other not in bytes_of(lab, host, name), (host, name)
    for name in NAMES:
        lab.same_content(name)
    change_them(lab, pair)


def test_killed_with_another_timing_an_end_that_granted_steps_down(pair):
    """What the peer holds runs by the timing that it was given with; the file was changed on one side only."""
    lab, pair = pair
    put(lab, "primary", dict(pair, timing={"timeout_ms": 20000, "decision_ms": 20000}))
    kill(lab, "primary")
    lab.wait_until(lambda: [line for line in log(lab, "primary") if "not that of the former run" in line],
                   "the primary to step down")
    lab.wait_for("primary", "not active", state=lambda state: state not in (None, "active"))
    put(lab, "primary", pair)
    kill(lab, "primary")
    lab.wait_one_promotable()
    for name in NAMES:
        lab.same_content(name)


def change_them(lab, pair):
    """As understudy.json(5) says: a stopped pair begins anew, with its state directories away."""
    before = {name: bytes_of(lab, "primary", name) for name in NAMES}
    lab.pairctl("primary", "stop")
    changed = dict(pair, volumes=[volume("log", "80MiB"), volume("more"), volume("data")])
    for host in PEER:
        lab.kill(host, "--hold")
        put(lab, host, changed)
        os.rename(os.path.join(lab.base, host, "lib", "lab"), os.path.join(lab.base, host, "lib", "lab.before"))
        os.truncate(lab.store(host, "log"), 80 << 20)
        with open(os.path.join(os.path.dirname(lab.store(host, "log")), "more.img"), "wb") as file:
            file.truncate(64 << 20)
    for host in PEER:
        lab.start(host)
    lab.wait_promotable("primary")
    assert bytes_of(lab, "primary", "data") == before["data"]
    assert bytes_of(lab, "primary", "log") == before["log"] | {0}
    for name in ("log", "more", "data"):
        lab.same_content(name)
