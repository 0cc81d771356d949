# SPDX-License-Identifier: Apache-2.0
"""The judge of the crash tests, judged: small histories whose every possible volume is known by trying all orders."""

import itertools
import random

import pytest

from blockledger import BLOCK_BYTES, FLUSH, FLUSHED, FUA, NEVER, TRIM, WRITE, WRITTEN, ZERO, Ledger, judge, judge_disk, stamp

NONCE = b"judgment"
BLOCKS = 4
BEFORE = (0,) * BLOCKS
OLD = -1  # what was there before, where that is not zero


def image(numbers):
    """The volume in which each block was last written by that write; 0: never, or by a zeroing."""
    return b"".join(b"o" * BLOCK_BYTES if number == OLD else stamp(NONCE, number, block) if number
                    else bytes(BLOCK_BYTES) for block, number in enumerate(numbers))


def apart(ledger, flags, block, blocks):
    """Whether nothing unanswered overlaps that must not."""
    return not any(other.answered == NEVER and (flags & (ZERO | TRIM) or other.zeroing)
                   and block < other.block + other.blocks and other.block < block + blocks
                   for other in ledger.writes.values())


def random_ledger(rng, count, zeroings=0.0):
    """Writes of random ranges, several in flight, some never answered; some flushes; some zeroings, kept apart."""
    ledger, in_flight, number = Ledger(NONCE), [], 0
    while number < count or in_flight:
        if number < count and (not in_flight or rng.random() < 0.5):
            number += 1
            block = rng.randrange(BLOCKS)
            blocks = rng.randrange(1, BLOCKS - block + 1)
            flags = FUA if rng.random() < 0.2 else 0
            flags |= rng.choice((ZERO, TRIM)) if rng.random() < zeroings else 0
            if rng.random() < 0.15 or not apart(ledger, flags, block, blocks):
                ledger.add(0, number, 0, 0, 0, FLUSH)
                in_flight.append((number, FLUSHED))
            else:
                ledger.add(0, number, block, blocks, flags, WRITE)
                in_flight.append((number, WRITTEN))
        else:
            done, kind = in_flight.pop(rng.randrange(len(in_flight)))
            if rng.random() < 0.9:
                ledger.add(0, done, 0, 0, 0, kind)
    return ledger


def all_prefixes(ledger, before=BEFORE):
    """{volume: [sets of the writes that can have made it]} by trying every order that agrees with what is certain."""
    writes = list(ledger.writes.values())
    found = {before: {frozenset()}}

    def go(volume, done, left):
        for write in left:
            if any(other.answered < write.sent for other in left if other is not write):
                continue
            mark = 0 if write.zeroing else write.number
            after = tuple(mark if block in write.range() else volume[block] for block in range(BLOCKS))
            made = done | {write.number}
            if made in found.setdefault(after, set()):
                continue
            found[after].add(made)
            go(after, made, [other for other in left if other is not write])
    go(before, frozenset(), writes)
    return found


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("mode", ["async", "sync", "strict"])
@pytest.mark.parametrize("zeroings", [0.0, 0.4])
def test_judge_accepts_exactly_what_some_order_leaves(seed, mode, zeroings):
    rng = random.Random(f"{seed} {mode} {zeroings}")
    ledger = random_ledger(rng, 6, zeroings)
    before = tuple(rng.choice((0, OLD)) for _ in BEFORE) if zeroings else BEFORE
    prefixes = all_prefixes(ledger, before)
    promised = ledger.promised(mode)
    needed = {write.number for write in promised}
    numbers = sorted({0, *before}) + [number for number, write in ledger.writes.items() if not write.zeroing]
    for volume in itertools.product(numbers, repeat=BLOCKS):
        possible = any(needed <= made for made in prefixes.get(volume, ()))
        verdict = judge(ledger, image(before), image(volume), promised)
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


@pytest.mark.parametrize("seed", range(5))
def test_judge_of_a_disk_accepts_whatever_keeps_the_promise(seed):
    """A disk that lost its power may have kept any of the unflushed writes of a block, but none older than a promised one."""
    rng = random.Random(f"disk {seed}")
    ledger = random_ledger(rng, 6, 0.4)
    promised = ledger.promised("sync")
    numbers = [0] + [number for number, write in ledger.writes.items() if not write.zeroing]
    shown = {number: [write] for number, write in ledger.writes.items() if not write.zeroing}
    for volume in itertools.product(numbers, repeat=BLOCKS):
        whole = True
        for block, number in enumerate(volume):
            can = [write for write in shown.get(number, ledger.writes.values())
                   if block in write.range() and (number or write.zeroing)]
            whole = whole and (can or number == 0) and all(
                any(write.answered >= must.sent for write in can) for must in promised if block in must.range())
        verdict = judge_disk(ledger, image(BEFORE), image(volume), promised)
        assert bool(verdict) == bool(whole), (volume, verdict.errors, list(ledger.writes.values()))


def test_a_flush_promises_what_was_answered_before_it_was_sent():
    ledger = Ledger(NONCE)
    for event in ((1, 0, 1, 0, WRITE), (1, 0, 0, 0, WRITTEN), (2, 1, 1, 0, WRITE), (3, 0, 0, 0, FLUSH),
                  (2, 0, 0, 0, WRITTEN), (4, 2, 1, FUA, WRITE), (3, 0, 0, 0, FLUSHED), (4, 0, 0, 0, WRITTEN)):
        ledger.add(0, *event)
    assert [write.number for write in ledger.promised("sync")] == [1, 4]
    assert [write.number for write in ledger.promised("strict")] == [1, 2, 4]
    assert ledger.promised("async") == []
