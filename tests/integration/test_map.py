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
