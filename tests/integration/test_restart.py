# SPDX-License-Identifier: Apache-2.0
"""Daemons that are killed or restarted, and a passive host that goes and comes back, while an outside ledger is kept:
nothing is lost or invented, no takeover happens, and what the peer already has is not sent again."""

import random
import time

import pytest

from blockledger import judge
from conftest import write_pair
from crashloop import HttpWatch, Writing, assert_equal_stores, read_volume

RESUMED = "the stream goes on where it was"
RESYNC = "resync by map"


def answered_after(lab, writing, event, count=100):
    """Does something, and waits until writes that were sent after it have been answered."""
    event()
    moment = time.monotonic_ns()

    def good():
        assert writing.process.poll() is None, f"the writer ended by itself: {writing.said()}"
        return sum(write.sent_ns > moment for write in writing.ledger().answered()) >= count
    lab.wait_until(good, f"{count} answered writes after the event")


def assert_whole(lab, writing, before, active="primary"):
    """After the end of the writer: everything is there on both ends, in some order, and nothing else."""
    ledger = writing.stop()
    lab.wait_settled(active)
    verdict = judge(ledger, before, read_volume(lab, active), ledger.answered())
    assert verdict, "\n".join(verdict.errors)
    assert_equal_stores(lab, active)
    return ledger


def terminate(lab, host):
    """SIGTERM to the host's daemon; its supervisor starts it again."""
    lab.exec(host, "sh", "-c", f"kill -TERM $(pidof {host}d)")


@pytest.mark.row("the active's daemon is killed, its host lives")
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_restart_of_the_active_daemon_under_load(lab, tmp_path, how):
    """The next daemon goes on in the same epoch: clients come back, nothing is mirrored again, nobody takes over."""
    before, story, epoch = read_volume(lab, "primary"), lab.story(), lab.status("primary")["epoch_id"]
    writing = Writing(lab, "primary", tmp_path / "writer", 1)
    writing.wait_answers()
    rng = random.Random(how)
    for _ in range(3):
        time.sleep(rng.uniform(0.1, 1.0))
        run = lab.status("primary")["run"]
        answered_after(lab, writing, lambda: lab.kill("primary") if how == "kill" else terminate(lab, "primary"))
        lab.wait_for("primary", "another run, active", role="active", run=lambda now, then=run: now != then)
    ledger = assert_whole(lab, writing, before)
    assert ledger.failed == 0
    assert ledger.reconnects > 0
    assert lab.status("primary")["epoch_id"] == epoch
    assert story.takeovers() == []
    assert story.tells(RESYNC) == []
    assert story.tells(RESUMED)


@pytest.mark.row("the passive's daemon is stopped or restarted")
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_restart_of_the_passive_daemon_under_load(lab, tmp_path, how):
    """The stream goes on where it was; the writer's connection is not touched."""
    before, story = read_volume(lab, "primary"), lab.story()
    writing = Writing(lab, "primary", tmp_path / "writer", 2)
    writing.wait_answers()
    for _ in range(3):
        run = lab.status("secondary")["run"]
        answered_after(lab, writing, lambda: lab.kill("secondary") if how == "kill" else terminate(lab, "secondary"))
        lab.wait_for("secondary", "another run", run=lambda now, then=run: now != then)
        lab.wait_promotable("primary")
    ledger = assert_whole(lab, writing, before)
    assert (ledger.failed, ledger.reconnects) == (0, 0)
    assert story.takeovers() == []
    assert story.tells(RESYNC) == []
    assert story.tells(RESUMED)


@pytest.mark.row("a daemon is killed at any instruction; power is lost on one end or both")
def test_both_daemons_killed_at_once(lab, tmp_path):
    before, story = read_volume(lab, "primary"), lab.story()
    writing = Writing(lab, "primary", tmp_path / "writer", 3)
    writing.wait_answers()

    def kill_both():
        lab.kill("secondary")
        lab.kill("primary")
    answered_after(lab, writing, kill_both)
    lab.wait_promotable("primary")
    assert_whole(lab, writing, before)
    assert story.takeovers() == []
    assert story.tells(RESYNC) == []


@pytest.mark.row("the passive's host dies")
def test_passive_host_dies_and_comes_back(make_lab, tmp_path):
    """Writes and flushes go on alone; the queue has kept what the peer lacks, so it resumes."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json"))
    lab.wait_promotable("primary")
    before, story = read_volume(lab, "primary"), lab.story()
    writing = Writing(lab, "primary", tmp_path / "writer", 4, rate=8 << 20)
    writing.wait_answers()
    lab.crash_passive("secondary")
    answered_after(lab, writing, lambda: None)
    lab.start("secondary")
    lab.wait_promotable("primary")
    assert lab.status("primary")["alone"] is False
    ledger = assert_whole(lab, writing, before)
    assert (ledger.failed, ledger.reconnects) == (0, 0)
    assert story.takeovers() == []
    assert story.tells(RESUMED)
    assert story.tells(RESYNC) == []


def test_first_mirror_while_writing(make_lab, tmp_path):
    """The primary has data, the guest writes, and the status says how far the mirror is, until both are equal."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        for part in range(64):
            file.write(random.Random(part).randbytes(1 << 20) if part % 4 else bytes(1 << 20))
    # Slow enough to watch, on the busiest machine.
    config = write_pair(tmp_path / "lab.json", resync={"rate": "4MiB"})
    lab = make_lab(config=config, arguments=["--image", str(image), "--no-wait"])
    lab.wait_active("primary")
    before = read_volume(lab, "primary")
    writing = Writing(lab, "primary", tmp_path / "writer", 5, rate=2 << 20)
    seen = []

    def synchronized():
        resync = lab.status("primary").get("resync", {})
        if resync.get("active"):
            seen.append(resync)
        return lab.status("secondary").get("granted")
    lab.wait_until(synchronized, "the first mirror")
    writing.wait_answers()
    assert_whole(lab, writing, before)
    done = [resync["done_bytes"] for resync in seen]
    assert any(before < after for before, after in zip(done, done[1:])), f"no progress: {done}"
    assert all(0 <= resync["done_bytes"] <= resync["total_bytes"] for resync in seen)
    assert any(resync["rate"] > 0 and resync["left_ms"] > 0 for resync in seen)


def test_switch_under_load(lab, tmp_path):
    """An ordered handover: everything that was answered is on the new active end, flushed or not."""
    before = read_volume(lab, "primary")
    http = HttpWatch(lab, tmp_path)
    http.wait_answer("primary")
    writing = Writing(lab, "primary", tmp_path / "writer", 6)
    writing.wait_answers()
    moment = time.monotonic()
    lab.pairctl("primary", "switch")
    print(f"switch: HTTP after {http.wait_answer('secondary', moment) - moment:.2f} s")
    lab.wait_active("secondary")
    ledger = writing.ledger()
    verdict = judge(ledger, before, read_volume(lab, "secondary"), ledger.answered())
    assert verdict, "\n".join(verdict.errors)
    assert_equal_stores(lab, "secondary")
