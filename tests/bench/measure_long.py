# SPDX-License-Identifier: Apache-2.0
"""Measures that take minutes: a link slower than its writer, and a load that does not end."""

import os
import statistics
import time

import contenders
import load as loads
import measures
from measures import measure

LINK = "100mbit"
SMALL_QUEUE = {"memory": "136M", "spill": "16G"}


def slow_pair(bench, rate):
    """An async pair behind a link of that rate (None: the lab's own): the writer's rate, and what the queue did."""
    lab, sizes = bench.lab, bench.sizes
    load = loads.LOADS["write-4k-16"]
    with measures.a_pair(bench, "async", sizes.volume, queues=SMALL_QUEUE, fill=True) as pair:
        if rate:
            lab.run("slow", rate)
        begun = time.monotonic()
        figures, _, _ = loads.summary(loads.fio(pair, load.arguments(sizes.volume, volume=sizes.slow_written)), load)
        queue, guarantee = pair.status("primary")["unsafe_queue"], pair.guarantee()
        drain = pair.drain() / 1000
        seconds = time.monotonic() - begun
        pair.check()
    return {**figures, "drain_seconds": drain, "queue_MiB": queue["bytes"] / 2**20,
            "spilled_MiB": queue["spilled_bytes"] / 2**20, "link_MB_s": sizes.slow_written / seconds / 1e6,
            "guarantee": guarantee}


def slow_mirror(bench, rate):
    """QEMU's mirror over the same link. It waits for the link with each write, so it is given a tenth to write."""
    lab, sizes = bench.lab, bench.sizes
    load = loads.LOADS["write-4k-16"]
    volume = sizes.slow_written // 10
    with measures.a_pair(bench, "async", sizes.volume), measures.a_peer(
            contenders.Mirror, bench, sizes.volume, lab=lab) as mirror:
        lab.run("slow", rate)
        figures, _, _ = loads.summary(loads.fio(mirror, load.arguments(sizes.volume, volume=volume)), load)
        mirror.check()
        return {**figures, "guarantee": mirror.guarantee()}


@measure("slow-link", f"4 KiB random writes, depth 16, over a link of {LINK}, and the time to drain", "per_s",
         ["MB_s", "p50_us", "p99_us", "drain_seconds", "queue_MiB", "spilled_MiB", "link_MB_s"],
         ["async, whole link", "mirror"])
def measure_slow_link(bench):
    return measures.in_turn(bench.sizes.turns_long, {
        "async, whole link": lambda: slow_pair(bench, None),
        "async": lambda: slow_pair(bench, LINK),
        "mirror": lambda: slow_mirror(bench, LINK)}, bench.say)


def by_second(path):
    """Operations in each second, of fio's log of rates."""
    with open(path) as log:
        return [int(line.split(",")[1]) for line in log]


def sustained(bench, contender):
    """The rate of the first part of the time and of the last, and what lies between."""
    sizes = bench.sizes
    load = loads.LOADS["write-4k-16"]
    prefix = os.path.join(contender.work, "rate")
    words = load.arguments(sizes.volume, sizes.sustained) + [
        f"--write_iops_log={prefix}", "--log_avg_msec=1000", "--per_job_logs=0"]
    found = loads.run(contender, load, words)
    rates = by_second(prefix + "_iops.log")
    part = max(1, min(60, len(rates) // 3))
    first, last = statistics.mean(rates[:part]), statistics.mean(rates[-part:])
    figures = {"per_s": found.pop("per_s"), "first_per_s": first, "last_per_s": last, "last_to_first": last / first,
               "worst_second_per_s": min(rates), **found}
    contender.check()
    return figures


def sustained_pair(bench, mode):
    with measures.a_pair(bench, mode, bench.sizes.volume, fill=True) as pair:
        figures = sustained(bench, pair)
        positions = pair.status("secondary")["positions"]
        figures["numbered"] = positions["numbered"] or positions["received"]
        figures["settled"] = positions["settled"]
    return figures


def sustained_peer(bench, make):
    with measures.a_peer(make, bench, bench.sizes.volume) as peer:
        return sustained(bench, peer)


@measure("sustained", "4 KiB random writes, depth 16, for minutes: first minute and last (or thirds, if shorter)",
         "per_s", ["first_per_s", "last_per_s", "last_to_first", "worst_second_per_s", "p99_us", "p999_us",
                   "drain_ms", "settled"], ["nbdkit", "mirror"])
def measure_sustained(bench):
    return measures.in_turn(1, {"nbdkit": lambda: sustained_peer(bench, contenders.Nbdkit),
                                "mirror": lambda: sustained_peer(bench, contenders.Mirror),
                                "async": lambda: sustained_pair(bench, "async"),
                                "sync": lambda: sustained_pair(bench, "sync")}, bench.say)
