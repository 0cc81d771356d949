# SPDX-License-Identifier: Apache-2.0
"""`pairctl verify` with real daemons: no false alarm while the application writes; what differs is found, named to 4 KiB,
not called synchronized, and repaired. $VERIFY_RUNS verifies are run under load (default 6)."""

import os
import re

import pytest

from conftest import PEER, write_pair
from crashloop import Writing

RUNS = int(os.environ.get("VERIFY_RUNS") or 6)
BLOCK = 4096
SIZE = 64 << 20
REGION = 24 << 20  # what the writer writes to; behind it lies what nobody touches
ENDED = re.compile(r"the resync has gone over (\d+) KiB, and sent (\d+) KiB")


def flip(lab, host, offset):
    """Turns one bit in the host's store, behind its daemon's back."""
    with open(lab.store(host), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def verify(lab, host="primary", *arguments):
    return lab.pairctl(host, "verify", *arguments, check=False)


def equal_seq(lab):
    return lab.wait_for("primary", "answering")["verify"]["equal_seq"]


@pytest.fixture
def pair(make_lab, tmp_path):
    lab = make_lab(config=write_pair(tmp_path / "lab.json"))
    lab.wait_promotable("primary")
    return lab


def test_no_false_alarm_under_load(pair, tmp_path):
    writing = Writing(pair, "primary", tmp_path / "writer", 1, region=SIZE)
    writing.wait_answers()
    story = pair.story()
    seqs = [0]
    for number in range(RUNS):
        done = verify(pair)
        assert done.returncode == 0, f"verify {number}: {done.stdout}{done.stderr}"
        seqs.append(equal_seq(pair))
    assert seqs == sorted(set(seqs)), "each proves a later position"
    assert not story.tells("going alone", "stale"), "a verify takes nothing from the peer"
    pair.wait_promotable("primary")
    ledger = writing.stop()
    assert ledger.failed == 0
    pair.same_content()


def test_a_flipped_byte_is_found_and_repaired(pair, tmp_path):
    """Found in its block while the application writes; neither end is synchronized, also behind a restart, until it is
    repaired; what is repaired is that block."""
    lab = pair
    writing = Writing(lab, "primary", tmp_path / "writer", 1, region=REGION)
    writing.wait_answers()
    assert verify(lab).returncode == 0
    at = 48 << 20 | 12345
    flip(lab, "secondary", at)
    done = verify(lab)
    assert done.returncode == 1, done.stdout
    assert f"volume disk: {BLOCK} bytes at {at // BLOCK * BLOCK}" in done.stderr
    status = lab.wait_for("primary", "not synchronized", synchronized=False, granted=False)
    assert status["verify"]["ranges"] == [{"volume": "disk", "offset": at // BLOCK * BLOCK, "length": BLOCK}]
    assert status["verify"]["repair_waits"] and status["verify"]["differing_bytes"] == BLOCK
    lab.wait_for("secondary", "not synchronized", synchronized=False, granted=False)
    assert any(f"{BLOCK} bytes at {at // BLOCK * BLOCK}" in event["text"] for event in lab.events("primary"))
    assert lab.pairctl("primary", "switch", check=False).returncode == 1
    for host in PEER:
        run = lab.status(host)["run"]
        lab.kill(host)
        lab.wait_for(host, "another run", run=lambda now, before=run: now != before)
        lab.wait_for(host, "connected", peer=lambda peer: peer["connected"])
        assert not lab.status(host)["synchronized"]
    lab.wait_active("primary")
    lab.wait_for("primary", "in a session again", why=lambda why: "verify --repair" in why)
    done = verify(lab, "primary", "--repair")
    assert done.returncode == 0, done.stderr
    lab.wait_promotable("primary")
    sent = [1024 * int(m.group(2)) for m in map(ENDED.search, (e["text"] for e in lab.events("primary"))) if m]
    assert sent[-1] == BLOCK, "the block that differed, and nothing else"
    assert verify(lab).returncode == 0
    assert writing.stop().failed == 0
    lab.same_content()


def test_repair_at_once(pair):
    """With --repair what differs is mended in the same command; also where the first and the last block are."""
    lab = pair
    for at in (0, 20 << 20, SIZE - 1):
        flip(lab, "secondary", at)
    done = verify(lab, "primary", "--repair")
    assert done.returncode == 0, done.stderr
    lab.wait_promotable("primary")
    status = lab.status("primary")["verify"]
    assert [r["offset"] for r in status["ranges"]] == [0, 20 << 20, SIZE - BLOCK]
    assert verify(lab).returncode == 0
    assert lab.status("primary")["verify"]["ranges"] == []
    lab.same_content()


def test_it_is_given_up_with_its_session(make_lab, tmp_path):
    lab = make_lab(config=write_pair(tmp_path / "lab.json", resync={"rate": "4M"}))
    lab.wait_promotable("primary")
    command = lab.popen("primary", "pairctl", "verify")
    lab.wait_for("primary", "verifying", verify=lambda v: v["active"] and v["done_bytes"] > 0 and v["left_ms"] is not None)
    assert lab.pairctl("primary", "verify", check=False).returncode == 1, "one at a time"
    lab.crash("secondary")
    assert command.wait(timeout=60) == 1
    status = lab.wait_for("primary", "no longer verifying", verify=lambda v: not v["active"])
    assert "given up" in status["operation"]["text"]
    assert status["verify"]["equal_time_ms"] is None
    lab.wait_for("primary", "alone", alone=True)


def test_the_schedule(make_lab, tmp_path):
    """Never proven is due at once; and the proof outlives a restart."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json", verify={"every_hours": 1}))
    lab.wait_promotable("primary")
    status = lab.wait_for("primary", "proven equal", verify=lambda v: v["equal_time_ms"] is not None)
    proven = status["verify"]["equal_seq"]
    lab.wait_for("secondary", "saying so, too", verify=lambda v: v["equal_seq"] == proven)
    run = status["run"]
    lab.kill("primary")
    lab.wait_for("primary", "another run that knows it", run=lambda now: now != run,
                 verify=lambda v: v["equal_seq"] == proven)
