#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a return costs on the wire: one lab with a large sparse volume for each case, bytes counted at the channel's
interfaces, held against the bytes that were changed meanwhile. The table of docs/intent-map.md is made with it (root):

    UNDERSTUDY_BUILD=... tests/integration/wire_cost.py [--volume 10GiB] [--behind-mirror] [CASE...]
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

from crashloop import RATE, SteadyLoad
from labs import PEER, Lab, write_pair
from test_map import ENDED, set_on_disk, wait_map, wire_bytes, write_pieces

MIB = 1 << 20


def data_of(file, size):
    """The parts of a sparse file that are not holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        yield at, end
        at = end


def same_content(lab, active):
    """Both stores hold the same; holes are not read."""
    lab.wait_settled(active)
    paths = [lab.store(host) for host in PEER]
    with open(paths[0], "rb") as one, open(paths[1], "rb") as other:
        size = os.fstat(one.fileno()).st_size
        for start, end in [*data_of(one, size), *data_of(other, size)]:
            for at in range(start, end, MIB):
                length = min(MIB, end - at)
                assert os.pread(one.fileno(), length, at) == os.pread(other.fileno(), length, at), f"differs at {at}"


class Case:
    """A lab whose map holds next to nothing, in a known state; or (`behind_mirror`) everything, which its first mirror has just
    gone over."""

    behind_mirror = False

    def __init__(self, volume, mode="sync", powerfs=False, **changes):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="wire-cost-"))
        self.lab = Lab()
        self.powerfs = powerfs
        self.lab.up(config=write_pair(self.directory / "lab.json", mode=mode, size=volume, **changes), powerfs=powerfs)
        self.lab.wait_promotable("primary")
        if not self.behind_mirror:
            wait_map(self.lab, "primary", "the first mirror has left it", lambda count: count < 64 << 20)
        self.base, self.known = {}, {}

    def load(self, host, seed, rate=RATE):
        return SteadyLoad(self.lab, host, self.directory, seed, rate)

    def count_from_here(self, host, started=False):
        """`started`: a host that has just been started counts from nothing."""
        self.base[host] = 0 if started else wire_bytes(self.lab, host)

    def lose_queue(self):
        """The active host crashes and comes back, alone."""
        self.lab.crash("primary")
        self.lab.start("primary")
        self.lab.wait_active("primary")

    def resyncs(self, host):
        found = (ENDED.search(event["text"]) for event in self.lab.events(host))
        return [tuple(1024 * int(number) for number in match.groups()) for match in found if match]

    def result(self, name, host, changed):
        moved = wire_bytes(self.lab, host) - self.base[host]
        over = [(o // MIB, s // MIB) for o, s in self.resyncs(host)]
        same_content(self.lab, next(host for host in PEER if self.lab.role(host) == "active"))
        print(f"| {name} | {changed / MIB:.0f} | {moved / MIB:.0f} | {moved / changed:.3f} | {over} |", flush=True)
        self.lab.down()


def away(volume):
    """a: the passive host is away and comes back"""
    case = Case(volume)
    case.lab.crash_passive("secondary")
    changed = write_pieces(case.lab, "primary", "away")
    case.count_from_here("primary")
    case.lab.start("secondary")
    case.lab.wait_promotable("primary", 600)
    case.result("a passive host away and back", "primary", changed)


def away_lost(volume):
    """a2: the same, and the active host has lost its queue meanwhile"""
    case = Case(volume)
    case.lab.crash_passive("secondary")
    changed = write_pieces(case.lab, "primary", "away")
    case.lose_queue()
    case.count_from_here("primary")
    case.lab.start("secondary")
    case.lab.wait_promotable("primary", 600)
    case.result("a2 the same, the queue lost", "primary", changed)


def killed(volume):
    """b: the passive daemon is killed under load, and comes back"""
    case = Case(volume)
    load = case.load("primary", "load")
    before = load.written()
    case.count_from_here("primary")
    case.lab.kill("secondary")
    changed = write_pieces(case.lab, "primary", "killed")
    case.lab.wait_promotable("primary", 600)
    changed += load.stop() - before
    case.result("b passive daemon killed", "primary", changed)


def takeover(volume, mode="sync", name="c takeover, return under load"):
    """c: crash of the active host under load, takeover, 100 MiB written, it returns under load"""
    case = Case(volume, mode)
    load = case.load("primary", "load")
    case.lab.wait_until(lambda: load.written() > 64 * MIB, "load")
    case.lab.crash("primary")
    case.lab.wait_active("secondary")
    changed = write_pieces(case.lab, "secondary", "after")
    load = case.load("secondary", "again")
    case.count_from_here("secondary")
    case.lab.start("primary")
    case.lab.wait_promotable("secondary", 600)
    changed += load.stop()
    case.result(name, "secondary", changed)


def takeover_async(volume):
    """d: the same in async, with records lost on a slow link"""
    case = Case(volume, "async")
    load = case.load("primary", "load")
    case.lab("slow", "16mbit")
    case.lab.wait_until(lambda: case.lab.status("primary")["unsafe_queue"]["bytes"] > 32 * MIB, "a queue")
    queued = case.lab.status("primary")["unsafe_queue"]["bytes"]
    case.lab.crash("primary")
    case.lab.wait_active("secondary")
    changed = queued + write_pieces(case.lab, "secondary", "after")
    load = case.load("secondary", "again")
    case.count_from_here("secondary")
    case.lab.heal()
    case.lab.start("primary")
    case.lab.wait_promotable("secondary", 600)
    changed += load.stop()
    case.result("d the same, async, records lost", "secondary", changed)


def switch(volume):
    """e: switch by the operator under load"""
    case = Case(volume)
    load = case.load("primary", "load")
    load.process.poll()
    case.count_from_here("primary")
    before = load.written()
    case.lab.pairctl("primary", "switch")
    case.lab.wait_active("secondary")
    changed = load.written() - before
    load = case.load("secondary", "again")
    case.lab.wait_promotable("secondary", 600)
    changed += load.stop()
    case.result("e switch under load", "primary", changed)


def resync_restart(volume):
    """f: the passive daemon is killed while the resync runs"""
    case = Case(volume, resync={"rate": "192M"})
    case.lab.crash_passive("secondary")
    changed = write_pieces(case.lab, "primary", "away")
    case.lose_queue()
    case.count_from_here("primary")
    case.lab.start("secondary")

    def left():
        volumes = case.lab.status("primary").get("volumes")
        return volumes and not volumes[0]["synchronized"] and volumes[0]["out_of_sync_bytes"]
    case.lab.wait_until(left, "the resync", 300)
    all_of_it = left()
    for part in (0.7, 0.4):
        case.lab.wait_until(lambda: (left() or 0) < part * all_of_it, "a part of it", 300)
        case.lab.kill("secondary")
    case.lab.wait_promotable("primary", 600)
    case.result("f passive killed twice in mid-resync", "primary", changed)


def both(volume):
    """g: both daemons are killed at once under load"""
    case = Case(volume)
    load = case.load("primary", "load")
    before = load.written()
    case.count_from_here("primary")
    case.lab.kill("secondary")
    case.lab.kill("primary")
    load.process.wait(timeout=60)
    changed = load.written() - before
    case.lab.wait_one_promotable(600)
    active = "primary" if case.lab.role("primary") == "active" else "secondary"
    changed += write_pieces(case.lab, active, "more")
    case.lab.wait_promotable(active, 600)
    case.result("g both daemons killed", "primary", changed)


def power(volume):
    """h: both hosts lose power under load"""
    case = Case(volume, powerfs=True)
    load = case.load("primary", "load")
    case.lab.wait_until(lambda: load.written() > 64 * MIB, "load")
    before = load.written()
    case.lab.crash("secondary", power=True)
    case.lab.crash("primary", power=True)
    changed = load.written() - before
    case.lab.start("primary")
    case.count_from_here("primary", started=True)
    case.lab.start("secondary")
    case.lab.wait_until(lambda: any(case.lab.role(host) == "active" for host in ("primary", "secondary")), "one to serve")
    active = "primary" if case.lab.role("primary") == "active" else "secondary"
    case.lab.wait_active(active)
    changed += write_pieces(case.lab, active, "more")
    case.lab.wait_promotable(active, 600)
    case.result("h power of both lost", "primary", changed)


def steady(volume, share=0.7, name="i writer at 70 % of the link", **changes):
    """i: a resync under a writer that takes 70 % of a slow link"""
    case = Case(volume, "async", **changes)
    link = 80e6 / 8
    case.lab.crash_passive("secondary")
    changed = write_pieces(case.lab, "primary", "away", 512)
    case.lose_queue()
    case.lab("slow", "80mbit")
    load = case.load("primary", "steady", share * link)
    case.count_from_here("primary")
    began = time.monotonic()
    case.lab.start("secondary")

    def look():
        status = case.lab.status("primary")
        left = status["volumes"][0]["out_of_sync_bytes"]
        print(f"  {time.monotonic() - began:5.0f} s: written {load.written() / MIB:.0f}, out of sync {left / MIB:.0f}, queue "
              f"{status['unsafe_queue']['bytes'] / MIB:.0f} MiB, {status['resync']}", file=sys.stderr, flush=True)
        return case.lab.is_promotable("primary")
    end = time.monotonic() + 240
    while not look() and time.monotonic() < end and load.process.poll() is None:
        time.sleep(5)
    seconds = time.monotonic() - began
    changed += load.written()
    print(f"  {name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    load.stop()
    case.lab.heal()
    case.result(name, "primary", changed)


def faster(volume):
    """j: a writer that is faster than the link, with a small queue"""
    steady(volume, 1.5, "j writer at 150 % of the link", queues={"memory": "136M", "spill": "136M"})


CASES = {"a": away, "a2": away_lost, "b": killed, "c": takeover, "d": takeover_async, "e": switch, "f": resync_restart,
         "g": both, "h": power, "i": steady, "j": faster}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", default="10GiB")
    parser.add_argument("--behind-mirror", action="store_true", help="begin when the first mirror has just ended: all is set")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args()
    failed = 0
    Case.behind_mirror = options.behind_mirror
    print("| case | changed, MiB | on the wire, MiB | ratio | resyncs: gone over, sent (MiB) |")
    for name in options.cases or CASES:
        began = time.monotonic()
        try:
            CASES[name](options.volume)
        except Exception as error:  # the next one is measured all the same
            failed += 1
            print(f"| {name} | failed: {error} |", flush=True)
        print(f"  ({name}: {time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
