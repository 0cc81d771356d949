# SPDX-License-Identifier: Apache-2.0
"""The intent map with real daemons: what goes over the wire and what is looked at when an end comes back, and that a restart
in the middle of a resync goes on with what is left. $MAP_VOLUME is the size of the volume (default 2GiB, sparse; 10GiB is no problem but time)."""

import os
import re
import struct

import pytest

from conftest import HERE, write_pair
from crashloop import PYTHON, SteadyLoad, Writing

VOLUME = os.environ.get("MAP_VOLUME") or "2GiB"
PIECE = 64 * 1024
PIECES = 1600
PAGE, HEAD, EXTENTS, REGION = 4096, 56, 2016, 64 * 1024
ENDED = re.compile(r"the resync has gone over (\d+) KiB, and sent (\d+) KiB")


def write_pieces(lab, host, seed, count=PIECES):
    lab.exec(host, PYTHON, "-B", os.path.join(HERE, "piece_writer.py"), lab.uri(host), count, seed)
    return count * PIECE


def wire_bytes(lab, host):
    """What the host has sent and received over the channel networks since it was started."""
    files = [f"/sys/class/net/channel{number}/statistics/{way}_bytes" for number in (0, 1) for way in ("rx", "tx")]
    return sum(int(line) for line in lab.exec(host, "cat", *files).stdout.split())


def resyncs(lab, host):
    """(gone over, sent) in bytes of each resync that the host's end has finished."""
    found = (ENDED.search(event["text"]) for event in lab.events(host))
    return [tuple(1024 * int(number) for number in match.groups()) for match in found if match]


def set_on_disk(lab, host):
    """Bytes that the host's map on disk counts as different; all of it while a page is being written."""
    path = os.path.join(lab.base, host, *(["disk"] if lab.powerfs else []), "lib", "lab", host, "maps", "segment.0000")
    with open(path, "rb") as file:
        header = file.read(PAGE)
        bits = b""
        while page := file.read(PAGE):
            bits += page[HEAD:HEAD + 2 * EXTENTS]
    assert struct.unpack_from("<4s", header)[0] == b"USIM"
    return int.from_bytes(bits, "little").bit_count() * REGION


def wait_map(lab, host, what, good):
    """What is on disk follows what is known by a generation and a lazy write."""
    lab.wait_until(lambda: good(set_on_disk(lab, host)), f"{host}'s map: {what}")


@pytest.fixture
def big(make_lab, tmp_path):
    lab = make_lab(config=write_pair(tmp_path / "lab.json", size=VOLUME))
    lab.wait_promotable("primary")
    return lab


def test_a_peer_that_was_away(big):
    """Written while the peer was away, and the queue lost: what is sent is what was written, hardly more."""
    lab = big
    wait_map(lab, "primary", "the first mirror has left it", lambda count: count < 64 << 20)
    lab.crash("secondary")
    lab.wait_for("primary", "alone", alone=True)
    written = write_pieces(lab, "primary", "away")
    lab.crash("primary")
    lab.start("primary")
    lab.wait_active("primary")
    before, known = wire_bytes(lab, "primary"), len(resyncs(lab, "primary"))
    lab.start("secondary")
    lab.wait_promotable("primary")
    moved = wire_bytes(lab, "primary") - before
    over, sent = resyncs(lab, "primary")[known]
    assert moved <= 1.2 * written, f"{moved / written:.3f} times as much as was written"
    assert sent >= 0.9 * written
    assert over <= (PIECES + 64) * (1 << 20), "an extent for each piece at most"
    lab.same_content()


def test_return_of_the_old_active_end(big, tmp_path):
    """Both have written since: the regions of both are gone over, under load, and nothing else."""
    lab = big
    wait_map(lab, "primary", "the first mirror has left it", lambda count: count < 64 << 20)
    write_pieces(lab, "primary", "before", 400)
    lab.crash("primary")
    lab.wait_active("secondary")
    write_pieces(lab, "secondary", "after", 400)
    writing = Writing(lab, "secondary", tmp_path / "writer", 1, rate=4 << 20)
    writing.wait_answers()
    lab.start("primary")
    lab.wait_promotable("secondary")
    (over, sent), = resyncs(lab, "secondary")
    assert over <= (800 + 128) * (1 << 20)
    assert sent <= 2 * 800 * PIECE + (64 << 20)
    ledger = writing.stop()
    assert ledger.failed == 0
    lab.same_content()


def test_on_the_wire_under_load(big, tmp_path):
    """The passive daemon killed under load, and a takeover with return of the old active end under load: what goes over the
    channel networks is what was written, hardly more, and what is gone over is where something was written."""
    lab = big
    wait_map(lab, "primary", "the first mirror has left it", lambda count: count < 64 << 20)
    load = SteadyLoad(lab, "primary", tmp_path, "before")
    known, before, moved = len(resyncs(lab, "primary")), load.written(), wire_bytes(lab, "primary")
    run = lab.status("secondary")["run"]
    lab.kill("secondary")
    changed = write_pieces(lab, "primary", "killed", 400)
    lab.wait_for("secondary", "another run", run=lambda now: now != run)
    lab.wait_promotable("primary")
    moved, changed = wire_bytes(lab, "primary") - moved, changed + load.written() - before
    assert moved <= 1.2 * changed, f"{moved / changed:.3f} times as much as was written"
    assert len(resyncs(lab, "primary")) == known, "the stream goes on where it was"
    lab.crash("primary")
    former = load.written()
    lab.wait_active("secondary")
    changed = write_pieces(lab, "secondary", "after", 400)
    load = SteadyLoad(lab, "secondary", tmp_path, "after")
    moved = wire_bytes(lab, "secondary")
    lab.start("primary")
    lab.wait_promotable("secondary")
    moved, changed = wire_bytes(lab, "secondary") - moved, changed + load.stop()
    assert moved <= 1.2 * changed, f"{moved / changed:.3f} times as much as was written"
    (over, _), = resyncs(lab, "secondary")
    pieces = (former + changed) // PIECE + 400
    assert over <= (pieces + 64) << 20, "an extent for each piece at most"
    lab.same_content()


def qemu_io(lab, host, *commands):
    words = [word for command in commands for word in ("-c", command)]
    done = lab.exec(host, "qemu-io", "-d", "unmap", "-f", "raw", *words, lab.uri(host), check=False)
    said = done.stdout + done.stderr
    assert "failed" not in said and "error" not in said.lower(), said


def damage_safe_queue(lab, host, pattern):
    """Changes a byte of the payload that begins with the pattern, in the safe queue of a host whose daemon is away."""
    directory = os.path.join(lab.base, host, "lib", "lab", host)
    found = 0
    for at, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(at, name), "r+b") as file:
                place = file.read().find(pattern)
                if place >= 0:
                    file.seek(place + 1000)
                    file.write(bytes([pattern[0] ^ 1]))
                    found += 1
    assert found == 1, "the record is in the queue"


def test_what_a_takeover_does_not_replay_is_in_the_map_and_nothing_else(make_lab, tmp_path):
    """Writes and discards of an application: those in front of a damaged record are on the replica behind the takeover, the
    record and those behind it are not, and theirs are the regions that differ. The old active end comes back to that."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json"))
    lab.wait_promotable("primary")
    qemu_io(lab, "primary", "write -P 0x11 0 40M", "flush")
    lab.wait_settled("primary")
    lab.pairctl("secondary", "pause", "--replay")
    lab.wait_for("secondary", "with its replay stopped", granted=False, why=lambda why: "replay" in why)
    # What travels in one message is damaged together.
    for commands in (["write -P 0x21 1M 64k", "discard 4M 1M"], ["write -P 0x22 10M 64k", "discard 20M 256k", "write -P 0x23 30M 64k"]):
        qemu_io(lab, "primary", *commands, "flush")
        numbered = lab.status("primary")["positions"]["numbered"]
        lab.wait_for("secondary", "keeping all of it", positions=lambda at, number=numbered: at["durable"] >= number)
    lab.crash("primary")
    lab("kill", "secondary", "--hold")
    damage_safe_queue(lab, "secondary", b"\x22" * 4096)
    lab.start("secondary")
    lab.wait_for("secondary", "back", role="passive")
    told = ["--accept-inconsistent", "--force=replica"]
    lab.wait_until(lambda: lab.pairctl("secondary", "takeover", *told, check=False).returncode == 0 or
                   lab.role("secondary") == "active", "the takeover")
    lab.wait_active("secondary")
    qemu_io(lab, "secondary", "read -P 0x21 1M 64k", "read -P 0 4M 1M", "read -P 0x11 10M 64k", "read -P 0x11 20M 256k",
            "read -P 0x11 30M 64k")
    wait_map(lab, "secondary", "what was not replayed is in it", lambda count: count == 64 * 1024 + 256 * 1024 + 64 * 1024)
    qemu_io(lab, "secondary", "discard 6M 128k", "flush")
    lab.start("primary")
    lab.wait_promotable("secondary")
    lab.same_content()


@pytest.mark.parametrize("host", ["primary", "secondary"])
def test_a_restart_in_mid_resync_goes_on(make_lab, tmp_path, host):
    """What was done before is not done again. Where the machine is so busy that the resync ends before the kill, it is tried
    again."""
    size = 256 << 20
    lab = make_lab(config=write_pair(tmp_path / "lab.json", size="256MiB", resync={"rate": "16M"}))
    for _ in range(5):
        wait_map(lab, "primary", "half of it is done", lambda count: count < size // 2)
        known = len(resyncs(lab, "primary"))
        run = lab.status(host)["run"]
        lab.kill(host)
        lab.wait_for(host, "another run", run=lambda now: now != run)
        lab.wait_promotable("primary")
        ended = resyncs(lab, "primary")[known:]
        if ended and all(over < size for over, _ in ended):
            break
        lab.pairctl("primary", "resync")
        lab.wait_for("primary", "resyncing", resync=lambda resync: resync["active"])
    assert ended and ended[-1][0] <= 0.6 * size
    lab.same_content()
