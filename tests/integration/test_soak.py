# SPDX-License-Identifier: Apache-2.0
"""A short run of the crash loops: every fault of soak.py once in `sync`, those of the power in the other modes. The long
one is deploy/soak. $LEDGER_SEED is the seed of what is random here.
"""

import os
import random

import pytest

from soak import FAULTS, Figures, run_block

SEED = os.environ.get("LEDGER_SEED") or "1"


@pytest.mark.parametrize("mode, faults", [
    ("sync", FAULTS),
    ("strict", ("power-passive-serves", "power-both", "crash-both")),
    ("async", ("kill-both", "power-both", "crash-both")),
], ids=["sync", "strict", "async"])
@pytest.mark.row("a daemon is killed at any instruction; power is lost on one end or both")
def test_every_promise_is_kept_through(make_lab, tmp_path, mode, faults):
    rng, figures = random.Random(f"{SEED} {mode}"), Figures()
    faults = list(faults)
    rng.shuffle(faults)
    run_block(make_lab, mode, faults, tmp_path / "soak", rng, figures)
    assert figures.rounds == len(faults)
    print(figures.line())
