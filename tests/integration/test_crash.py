# SPDX-License-Identifier: Apache-2.0
"""The promises of the three modes, held against an outside ledger while the active host dies at random moments.

Rounds alternate the roles: the host that died comes back, is mirrored, and its peer is the next to die. $LEDGER_ROUNDS
sets the number of rounds a test (default 3), $LEDGER_SEED the seed of everything that is random here.
"""

import os
import random
import time

import pytest

from blockledger import judge, judge_disk
from conftest import write_pair
from crashloop import HttpWatch, Writing, assert_equal_stores, crash_round, read_volume

ROUNDS = int(os.environ.get("LEDGER_ROUNDS") or 3)
SEED = os.environ.get("LEDGER_SEED") or "1"


@pytest.fixture
def rounds(make_lab, tmp_path, request):
    def run(mode, count=ROUNDS, powerfs=False, slow=None, **options):
        rng = random.Random(f"{SEED} {request.node.name}")
        lab = make_lab(config=write_pair(tmp_path / "lab.json", mode), powerfs=powerfs)
        lab.wait_promotable("primary")
        if slow:
            lab("slow", slow)
        http = HttpWatch(lab, tmp_path)
        http.wait_answer("primary")
        active = "primary"
        for number in range(count):
            active = crash_round(lab, mode, active, tmp_path / f"round{number}", http, rng, powerfs, **options)
    return run


@pytest.mark.row("the active's host dies")
def test_sync_keeps_what_was_flushed(rounds):
    rounds("sync")


@pytest.mark.row("a daemon is killed at any instruction; power is lost on one end or both")
def test_sync_keeps_what_was_flushed_when_power_is_lost(rounds):
    rounds("sync", powerfs=True)


@pytest.mark.row("the active's host dies")
def test_strict_keeps_everything_acknowledged(rounds):
    rounds("strict")


@pytest.mark.row("the active's host dies")
def test_async_loses_a_suffix_that_was_forecast(rounds):
    rounds("async", poll=True)


def test_async_over_a_slow_channel_loses_what_was_forecast(rounds):
    """The link is slower than the writer, so the queue holds seconds."""
    rounds("async", count=max(2, ROUNDS // 2), poll=True, slow="40mbit", rate=8 << 20)


@pytest.mark.row("a daemon is killed at any instruction; power is lost on one end or both")
@pytest.mark.parametrize("mode", ["sync", "strict"])
def test_both_hosts_lose_power(make_lab, tmp_path, mode):
    """In `sync` the active end comes back as such, with what its disk has kept: everything flushed. In `strict` it hands
    its role to the passive one, which has everything that was acknowledged in its safe queue."""
    rng = random.Random(f"{SEED} {mode}")
    lab = make_lab(config=write_pair(tmp_path / "lab.json", mode), powerfs=True)
    lab.wait_promotable("primary")
    active = "primary"
    for number in range(max(1, ROUNDS // 3)):
        before = read_volume(lab, active)
        writing = Writing(lab, active, tmp_path / f"writer{number}", rng.randrange(1 << 30))
        writing.wait_answers()
        time.sleep(rng.uniform(0.2, 1.5))
        hosts = ["primary", "secondary"]
        rng.shuffle(hosts)
        for host in hosts:
            lab.crash(host, power=True, torn=rng.random() < 0.5)
        ledger = writing.ledger()
        for host in hosts:
            lab.start(host)
        active = lab.wait_until(lambda: next((host for host in hosts if lab.role(host) == "active"), None), "an active end")
        lab.wait_active(active)
        after = read_volume(lab, active)
        if mode == "sync":
            verdict = judge_disk(ledger, before, after, ledger.promised(mode))
        else:
            verdict = judge(ledger, before, after, ledger.promised(mode))
        assert verdict, "\n".join(verdict.errors[:10])
        assert_equal_stores(lab, active)
