# SPDX-License-Identifier: Apache-2.0
"""The outside ledger of a volume: what a client wrote, what was acknowledged to it, and the judgement whether a volume
can be what is left of that.

The client (ledger_writer.py) fills every 4 KiB block that it writes with the write's number, so the volume tells for
each block which write was the last one there. It logs, in the order of its own events, when each write was sent and
when it was answered. One write is certainly before another when it was answered before the other was sent; nothing else
is known about the order of two writes, overlapping or not.

A volume is a prefix of the history exactly if there is one order of all writes that agrees with what is certain, and a
first part of it which leaves exactly this volume. The judgement is exact in both directions: the smallest set of writes
that can have happened consists of those that are seen in a block, those that had to be kept, and those certainly before
any of these. Each write of this set must come before the last writer of each of its blocks. Such an order exists if and
only if these demands, together with what is certain, form no circle.

A zeroing (a write of zeros, or a discard, after which the range reads as zeros) leaves no number. A block of zeros may
show any zeroing of it, or none if it was zero before. The writer keeps the zeroings of a block apart from all else there:
none is in flight together with anything that overlaps it. So it is certain what came before and after each, and the
smallest set takes in, for a block of zeros, the first zeroing that is not certainly before a write of the set: no other
choice demands less.

The log is a file that the writer maps into its memory: it outlives the writer's death, up to the last event.
"""

import bisect
import struct

BLOCK_BYTES = 4096
SECTOR_BYTES = 512  # what a disk writes whole or not at all
PIECE = struct.Struct("<8s8sQII")  # magic, nonce, number of the write, block, 0
PIECES = BLOCK_BYTES // PIECE.size
MAGIC = b"LEDGER\x00\x01"
EVENT = struct.Struct("<QIIHBB4x")  # ns (CLOCK_MONOTONIC), number, block, blocks, flags, kind
WRITE, WRITTEN, FLUSH, FLUSHED, FAILED, RECONNECTED = range(1, 7)
FUA, ZERO, TRIM = 1, 2, 4  # flags of a write
ZEROS = bytes(BLOCK_BYTES)
NEVER = 1 << 62


def stamp(nonce, number, block):
    """What one block holds after this write."""
    return PIECE.pack(MAGIC, nonce, number, block, 0) * PIECES


class Write:
    __slots__ = ("number", "block", "blocks", "fua", "zeroing", "sent", "answered", "sent_ns", "answered_ns")

    def __init__(self, number, block, blocks, flags, sent, sent_ns):
        self.number, self.block, self.blocks = number, block, blocks
        self.fua, self.zeroing = bool(flags & FUA), bool(flags & (ZERO | TRIM))
        self.sent, self.answered = sent, NEVER  # positions in the log
        self.sent_ns, self.answered_ns = sent_ns, None

    @property
    def bytes(self):
        """Of data; a zeroing has none."""
        return 0 if self.zeroing else self.blocks * BLOCK_BYTES

    def range(self):
        return range(self.block, self.block + self.blocks)

    def __repr__(self):
        answered = "unanswered" if self.answered == NEVER else f"answered {self.answered}"
        return f"{'zeroing' if self.zeroing else 'write'} {self.number} (blocks {self.block}+{self.blocks}, sent {self.sent}, {answered})"


class Ledger:
    """A writer's log: `writes` by number, what flushes promised, and the time of the last event."""

    def __init__(self, nonce):
        self.nonce = nonce
        self.writes = {}
        self.flushed_before = -1  # every write answered before this position was flushed
        self.failed = 0
        self.reconnects = 0
        self.events = 0
        self.flushes = 0
        self.last_ns = 0
        self._flushes_sent = {}

    @classmethod
    def read(cls, path, nonce):
        ledger = cls(nonce)
        with open(path, "rb") as file:
            data = file.read()
        for event in EVENT.iter_unpack(data[:len(data) - len(data) % EVENT.size]):
            if event[-1] == 0:
                break
            ledger.add(*event)
        return ledger

    def add(self, ns, number, block, blocks, flags, kind):
        position = self.events
        self.events += 1
        self.last_ns = ns
        if kind == WRITE:
            self.writes[number] = Write(number, block, blocks, flags, position, ns)
        elif kind == WRITTEN:
            self.writes[number].answered = position
            self.writes[number].answered_ns = ns
        elif kind == FLUSH:
            self._flushes_sent[number] = position
        elif kind == FLUSHED:
            self.flushes += 1
            self.flushed_before = max(self.flushed_before, self._flushes_sent[number])
        elif kind == FAILED:
            self.failed += 1
        elif kind == RECONNECTED:
            self.reconnects += 1

    def zeroings(self):
        """{block: its zeroings, in their order}."""
        found = {}
        for write in self.writes.values():
            for block in write.range() if write.zeroing else ():
                found.setdefault(block, []).append(write)
        return found

    def answered(self):
        return [write for write in self.writes.values() if write.answered != NEVER]

    def promised(self, mode):
        """The writes that this mode may not lose."""
        if mode == "strict":
            return self.answered()
        if mode == "sync":
            return [write for write in self.answered() if write.fua or write.answered < self.flushed_before]
        return []

    def sent_bytes_since(self, ns):
        return sum(write.bytes for write in self.writes.values() if write.sent_ns >= ns)


class Verdict:
    def __init__(self):
        self.errors = []
        self.kept = set()    # numbers of the writes that have certainly happened
        self.missing = []    # answered writes that certainly have not

    def missing_bytes(self):
        return sum(write.bytes for write in self.missing)

    def __bool__(self):
        return not self.errors


def last_writers(ledger, before, after, errors):
    """({block: the write seen there}, blocks of zeros that were or may be zeroed: {block: whether it was zero before});
    `before` and `after` are the whole volume."""
    seen, zeros, zeroed = {}, {}, ledger.zeroings()
    assert len(before) == len(after)
    for block in range(len(after) // BLOCK_BYTES):
        content = after[block * BLOCK_BYTES:(block + 1) * BLOCK_BYTES]
        magic, nonce, number, place, _ = PIECE.unpack_from(content)
        if magic != MAGIC or nonce != ledger.nonce:
            old = before[block * BLOCK_BYTES:(block + 1) * BLOCK_BYTES]
            if block in zeroed and content == ZEROS:
                zeros[block] = old == ZEROS
            elif content != old:
                errors.append(f"block {block} is neither as before nor written by this ledger: {content[:32].hex()}")
            continue
        write = ledger.writes.get(number)
        if write is None:
            errors.append(f"block {block} holds write {number}, which was never sent")
        elif place != block or block not in write.range() or write.zeroing:
            errors.append(f"block {block} holds block {place} of {write!r}")
        elif content != stamp(ledger.nonce, number, block):
            errors.append(f"block {block} holds a part of {write!r} only")
        else:
            seen[block] = write
    return seen, zeros


def close(ledger, happened):
    """Adds all that is certainly before something that has happened."""
    horizon = max((write.sent for write in happened.values()), default=-1)
    happened.update((write.number, write) for write in ledger.writes.values() if write.answered < horizon)


def place_zeroings(ledger, seen, zeros, happened, errors):
    """Finds for each block of zeros the zeroing that shows there; adds it to `seen`, and what it demands to `happened`."""
    candidates, touching = ledger.zeroings(), {}
    for write in ledger.writes.values():
        for block in write.range():
            if block in zeros:
                touching.setdefault(block, []).append(write)
    changed = True
    while changed:
        changed = False
        for block, was_zero in zeros.items():
            there = [write for write in touching[block] if write.number in happened]
            if not there and was_zero:
                continue
            # The first that comes after all else there: what is certain leaves no other choice.
            fit = [zeroing for zeroing in candidates[block]
                   if not any(zeroing.answered < write.sent for write in there)]
            if not fit:
                errors.append(f"block {block} is zero, but {there[-1]!r} is certainly behind each zeroing of it")
                return
            seen[block] = fit[0]
            if fit[0].number not in happened:
                happened[fit[0].number] = fit[0]
                close(ledger, happened)
                changed = True


def find_circle(happened, demands):
    """A write that has no place in any order, or None: whether the demands {write: numbers of writes that come after it}
    contradict what is certain.

    What is certain needs no edge for each pair of writes. Writes are nodes in the order of their sending; beside them
    stands a chain of as many nodes, each before its own write and before the next of the chain, and every write is before
    the first node of the chain whose write was sent after it was answered.
    """
    order = sorted(happened, key=lambda write: write.sent)
    count = len(order)
    place = {write.number: index for index, write in enumerate(order)}
    sent = [write.sent for write in order]
    following = [[] for _ in range(2 * count)]
    for index, write in enumerate(order):
        first_after = bisect.bisect_left(sent, write.answered)
        following[index] = [place[number] for number in demands.get(write.number, ())]
        following[index] += [count + first_after] if first_after < count else []
        following[count + index] = [index] + ([count + index + 1] if index + 1 < count else [])
    incoming = [0] * (2 * count)
    for targets in following:
        for target in targets:
            incoming[target] += 1
    ready = [node for node in range(2 * count) if incoming[node] == 0]
    for node in ready:  # grows while it is walked
        for target in following[node]:
            incoming[target] -= 1
            if incoming[target] == 0:
                ready.append(target)
    return next((write for index, write in enumerate(order) if incoming[index] > 0), None)


def judge(ledger, before, after, promised=(), limit=10):
    """Whether `after` (bytes of the whole volume) is a prefix of the history on top of `before`, with everything
    `promised` in it."""
    verdict = Verdict()
    errors = verdict.errors
    seen, zeros = last_writers(ledger, before, after, errors)
    happened = {write.number: write for write in seen.values()}
    happened.update((write.number, write) for write in promised)
    close(ledger, happened)
    place_zeroings(ledger, seen, zeros, happened, errors)
    verdict.kept = set(happened)
    promised_numbers = {write.number for write in promised}
    demands = {}
    for write in happened.values():
        for block in write.range():
            last = seen.get(block)
            why = "was promised" if write.number in promised_numbers else "is before others that are there"
            if last is None:
                errors.append(f"{write!r} {why}, but block {block} is as before the round")
            elif last.answered < write.sent:
                errors.append(f"{write!r} {why}, but block {block} holds the older {last!r}")
            elif last is not write:
                demands.setdefault(write.number, set()).add(last.number)
    if not errors:
        circle = find_circle(happened.values(), demands)
        if circle is not None:
            errors.append(f"no order of the writes leaves this volume: see {circle!r}")
    verdict.missing = _missing(ledger, seen, zeros, verdict.kept)
    if len(errors) > limit:
        errors[limit:] = [f"… and {len(errors) - limit} more"]
    return verdict


def judge_disk(ledger, before, after, promised, limit=10):
    """Of a disk that lost its power under the active end: whatever else it kept, in whatever order and by single sectors,
    what was `promised` is there, and nothing that was never written."""
    verdict, zeroings, must = Verdict(), ledger.zeroings(), {}
    for write in promised:
        for block in write.range():
            must.setdefault(block, []).append(write)
    for block in range(len(after) // BLOCK_BYTES):
        span = slice(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
        new, old = after[span], before[span]
        if new == old and block not in must:
            continue
        for at in range(0, BLOCK_BYTES, SECTOR_BYTES):
            sector = new[at:at + SECTOR_BYTES]
            shown = _shown(ledger, zeroings.get(block, ()), block, sector)
            if not shown and sector != old[at:at + SECTOR_BYTES]:
                verdict.errors.append(f"block {block}, byte {at}, is neither as before nor written by this ledger: "
                                      f"{sector[:32].hex()}")
            for write in must.get(block, ()):
                if all(other.answered < write.sent for other in shown):
                    verdict.errors.append(f"{write!r} was promised, but block {block}, byte {at}, holds "
                                          f"{shown or 'what was before'}")
    if len(verdict.errors) > limit:
        verdict.errors[limit:] = [f"… and {len(verdict.errors) - limit} more"]
    return verdict


def _shown(ledger, zeroings, block, sector):
    """The writes of which any can be the last one to this sector."""
    if not sector.strip(b"\0"):
        return list(zeroings)
    _, nonce, number, _, _ = PIECE.unpack_from(sector)
    write = ledger.writes.get(number)
    if nonce != ledger.nonce or not write or write.zeroing or block not in write.range() \
            or sector != stamp(nonce, number, block)[:SECTOR_BYTES]:
        return []
    return [write]


def _missing(ledger, seen, zeros, kept):
    """Answered writes that have certainly not happened: a block of theirs shows an older one; and all after such."""
    zeroings = ledger.zeroings()

    def shows_older(write, block):
        if block in zeros:
            return all(zeroing.answered < write.sent for zeroing in zeroings[block])
        return block not in seen or seen[block].answered < write.sent

    def overwritten_by_nothing(write):
        return any(shows_older(write, block) for block in write.range())
    missing = [write for write in ledger.answered() if write.number not in kept and overwritten_by_nothing(write)]
    first = min((write.answered for write in missing), default=NEVER)
    chosen = {write.number for write in missing}
    missing += [write for write in ledger.answered() if write.sent > first and write.number not in chosen]
    return missing
