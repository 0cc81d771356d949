# SPDX-License-Identifier: Apache-2.0
"""A disk that hangs: the file system under state, queues and stores of a host answers nothing, for longer than the heartbeat
timeout, and goes on. Heartbeats and decisions must not wait for it: nobody takes over who should not, nobody dies, and what
has to wait for the disk says so, and goes on when the disk does."""

import os
import signal
import time
from contextlib import contextmanager

import pytest

from blockledger import judge
from conftest import PEER, write_pair
from crashloop import Writing, assert_equal_stores, read_volume

TIMING = {"heartbeat_ms": 250, "timeout_ms": 4000, "decision_ms": 4000, "margin_ms": 500}
HANG_SECONDS = 7  # longer than the timeout, shorter than a grant


@contextmanager
def hanging_disk(lab, host):
    """The process that is the host's disk is stopped: every call of the file system waits."""
    with open(os.path.join(lab.base, host, "powerfs.pid")) as file:
        pid = int(file.read())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def up(make_lab, tmp_path):
    def make(mode):
        lab = make_lab(config=write_pair(tmp_path / "lab.json", mode, timing=TIMING), powerfs=True)
        lab.wait_promotable("primary")
        return lab
    return make


def runs(lab):
    return {host: lab.status(host)["run"] for host in PEER}


def test_a_disk_of_the_active_end_that_hangs_is_no_silence(up, tmp_path):
    """The application waits for its writes, and that is all: the ends do not even leave their session."""
    lab = up("strict")
    before, born, story = read_volume(lab, "primary"), runs(lab), lab.story()
    writing = Writing(lab, "primary", tmp_path / "writer", 1)
    writing.wait_answers()
    session = lab.status("primary")["session"]
    with hanging_disk(lab, "primary"):
        time.sleep(HANG_SECONDS)
        ends = {host: lab.status(host) for host in PEER}
    assert {host: ends[host]["role"] for host in PEER} == {"primary": "active", "secondary": "passive"}
    answered = len(writing.ledger().answered())
    writing.wait_answers(answered + 200)
    ledger = writing.stop()
    assert not story.tells("taking over", "probing", "suspended")
    assert not story.tells("is silent")
    assert lab.status("primary")["session"] == session
    assert runs(lab) == born
    lab.wait_settled("primary")
    assert_equal_stores(lab, "primary")
    verdict = judge(ledger, before, read_volume(lab, "primary"), ledger.promised("strict"))
    assert verdict, "\n".join(verdict.errors[:10])


def test_a_disk_of_the_passive_end_that_hangs_is_no_silence(up, tmp_path):
    """The active end goes alone, since nothing gets durable there; nobody is silent, and they are a pair again behind it."""
    lab = up("sync")
    born, story = runs(lab), lab.story()
    writing = Writing(lab, "primary", tmp_path / "writer", 1)
    writing.wait_answers()
    with hanging_disk(lab, "secondary"):
        lab.wait_for("primary", "alone", alone=True)
        assert lab.status("secondary")["role"] == "passive"
        writing.wait_answers(len(writing.ledger().answered()) + 200)
    writing.stop()
    lab.wait_settled("primary")
    assert not story.tells("taking over", "probing", "suspended")
    assert not story.tells("is silent")
    assert runs(lab) == born
    assert_equal_stores(lab, "primary")


def test_a_takeover_whose_disk_hangs_says_so_and_goes_on(up, tmp_path):
    lab = up("sync")
    before = read_volume(lab, "primary")
    writing = Writing(lab, "primary", tmp_path / "writer", 1)
    writing.wait_answers()
    lab.crash("primary")
    with hanging_disk(lab, "secondary"):
        status = lab.wait_for("secondary", "taking over, and waiting", state="taking over", why=lambda why: "for 2 s" in why)
        assert "disk" in status["why"] or "replayed" in status["why"], status["why"]
        assert not status["public_address"]["enabled"]
    ledger = writing.after_crash()
    lab.wait_active("secondary")
    lab.wait_answered("secondary")
    verdict = judge(ledger, before, read_volume(lab, "secondary"), ledger.promised("sync"))
    assert verdict, "\n".join(verdict.errors[:10])
