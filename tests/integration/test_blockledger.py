# SPDX-License-Identifier: Apache-2.0
"""The judge of the crash tests, judged: small histories whose every possible volume is known by trying all orders."""

import itertools
import random

import pytest

from blockledger import BLOCK_BYTES, FLUSH, FLUSHED, FUA, WRITE, WRITTEN, Ledger, judge, stamp

NONCE = b"judgment"
BLOCKS = 4
BEFORE = (0,) * BLOCKS


def image(numbers):
    """The volume in which each block was last written by that write; 0: never."""
    return b"".join(stamp(NONCE, number, block) if number else bytes(BLOCK_BYTES)
                    for block, number in enumerate(numbers))


def random_ledger(rng, count):
    """Writes of random ranges, several in flight, some never answered; some flushes."""
    ledger, in_flight, number = Ledger(NONCE), [], 0
    while number < count or in_flight:
        if number < count and (not in_flight or rng.random() < 0.5):
            number += 1
            if rng.random() < 0.15:
                ledger.add(0, number, 0, 0, 0, FLUSH)
                in_flight.append((number, FLUSHED))
            else:
                block = rng.randrange(BLOCKS)
                ledger.add(0, number, block, rng.randrange(1, BLOCKS - block + 1), FUA if rng.random() < 0.2 else 0, WRITE)
                in_flight.append((number, WRITTEN))
        else:
            done, kind = in_flight.pop(rng.randrange(len(in_flight)))
            if rng.random() < 0.9:
                ledger.add(0, done, 0, 0, 0, kind)
    return ledger


def all_prefixes(ledger):
    """{volume: [sets of the writes that can have made it]} by trying every order that agrees with what is certain."""
    writes = list(ledger.writes.values())
    found = {BEFORE: {frozenset()}}

    def go(volume, done, left):
        for write in left:
            if any(other.answered < write.sent for other in left if other is not write):
                continue
            after = tuple(write.number if block in write.range() else volume[block] for block in range(BLOCKS))
            made = done | {write.number}
            if made in found.setdefault(after, set()):
                continue
            found[after].add(made)
            go(after, made, [other for other in left if other is not write])
    go(BEFORE, frozenset(), writes)
    return found


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("mode", ["async", "sync", "strict"])
def test_judge_accepts_exactly_what_some_order_leaves(seed, mode):
    rng = random.Random(f"{seed} {mode}")
    ledger = random_ledger(rng, 6)
    prefixes = all_prefixes(ledger)
    promised = ledger.promised(mode)
    needed = {write.number for write in promised}
    numbers = [0] + list(ledger.writes)
    for volume in itertools.product(numbers, repeat=BLOCKS):
        possible = any(needed <= made for made in prefixes.get(volume, ()))
        verdict = judge(ledger, image(BEFORE), image(volume), promised)
        assert bool(verdict) == possible, (volume, verdict.errors, list(ledger.writes.values()))
        if possible:
            for made in prefixes[volume]:
                if needed <= made:
                    assert verdict.kept <= made
                    assert not {write.number for write in verdict.missing} & made


def changed(volume, at, content):
    return volume[:at] + content + volume[at + len(content):]


def test_damage_is_found():
    ledger = Ledger(NONCE)
    ledger.add(0, 1, 0, 2, 0, WRITE)
    ledger.add(0, 1, 0, 0, 0, WRITTEN)
    whole = image((1, 1, 0, 0))
    assert judge(ledger, image(BEFORE), whole)
    assert not judge(ledger, image(BEFORE), changed(whole, 100, b"x")), "a part of a block"
    assert not judge(ledger, image(BEFORE), changed(whole, 3 * BLOCK_BYTES, b"x")), "a block that nobody wrote"
    assert not judge(ledger, image(BEFORE), changed(whole, 3 * BLOCK_BYTES, stamp(NONCE, 1, 0))), "misplaced"
    assert not judge(ledger, image(BEFORE), image((2, 1, 0, 0))), "invented"
    assert not judge(ledger, image(BEFORE), changed(whole, 0, stamp(b"other...", 1, 0))), "of another ledger"


def test_a_flush_promises_what_was_answered_before_it_was_sent():
    ledger = Ledger(NONCE)
    for event in ((1, 0, 1, 0, WRITE), (1, 0, 0, 0, WRITTEN), (2, 1, 1, 0, WRITE), (3, 0, 0, 0, FLUSH),
                  (2, 0, 0, 0, WRITTEN), (4, 2, 1, FUA, WRITE), (3, 0, 0, 0, FLUSHED), (4, 0, 0, 0, WRITTEN)):
        ledger.add(0, *event)
    assert [write.number for write in ledger.promised("sync")] == [1, 4]
    assert [write.number for write in ledger.promised("strict")] == [1, 2, 4]
    assert ledger.promised("async") == []
