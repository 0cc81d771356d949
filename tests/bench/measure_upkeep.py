# SPDX-License-Identifier: Apache-2.0
"""Measures of what a pair takes: CPU and memory when idle and under load, and bytes on the wire and to the disk.

Memory: `rss` is all that a process has in memory, `shmem` of it the unsafe queue, which the pair file limits, and
`beside` its share (PSS) of everything else: the figure that must not grow with volumes and hardly with pairs.
"""

import os
import time

import benchlab
from benchlab import wait
import contenders
import load as loads
import measures
from measures import measure
import process

MIB = 2**20
QUEUES = {"memory": "136M"}
PATHS = 1  # of each idle pair: with two there is room for 73 pairs (see docs/channel.md)
GUARDS = (*benchlab.DAEMONS, benchlab.GUARDS)


def memory_figures(name, one):
    return {f"{name} beside_MiB": (one["pss"] - one["shmem"]) / MIB, f"{name} rss_MiB": one["rss"] / MIB,
            f"{name} shmem_MiB": one["shmem"] / MIB, f"{name} anon_MiB": one["anon"] / MIB}


def worst_end(memories):
    """Of the daemons' memory, the larger one beside the queue."""
    return max((one["pss"] - one["shmem"]) / MIB for name, one in memories.items() if name in benchlab.DAEMONS)


def all_granted(lab, count):
    found = lab.status("secondary")
    found = [found] if isinstance(found, dict) else found
    return len(found) == count and all(one.get("granted") for one in found)


def idle(bench, count):
    """CPU and memory of the daemons of so many pairs that nobody writes to."""
    lab, sizes = bench.lab, bench.sizes
    with measures.a_directory(bench) as work:
        for number in range(count):
            benchlab.write_pair(work, benchlab.pair_of_lab(f"p{number}", "sync", sizes.idle_volume, number,
                                                           queues=QUEUES, paths=PATHS))
        try:
            lab.up(work)
            begun = time.monotonic()  # both daemons answer: making the lab takes longer than what is measured
            wait(f"{count} pairs to be promotable", lambda: all_granted(lab, count), pause=0.1, seconds=600)
            ready = time.monotonic() - begun
            time.sleep(sizes.settle)
            pids = lab.daemons(GUARDS)
            meter = process.Meter(pids)
            begun = time.monotonic()
            time.sleep(sizes.idle)
            used, seconds = meter.read(), time.monotonic() - begun
            memories = {name: process.memory(pid) for name, pid in pids.items()}
            if not all_granted(lab, count):
                raise benchlab.LabFailed(f"idle: not all of {count} pairs are promotable any more")
        finally:
            lab.down()
    found = {"core_percent": sum(used.values()) / seconds * 100, "beside_MiB": worst_end(memories),
             "beside_MiB_per_pair": worst_end(memories) / count, "ready_seconds": ready}
    for name, one in memories.items():
        found[f"{name} percent"] = used[name] / seconds * 100
        found.update(memory_figures(name, one))
    return {**found, "guarantee": "every pair promotable, before and after"}


def idle_nbdkit(bench, count):
    """As many exports that protect nothing."""
    with measures.a_directory(bench) as work:
        peers = []
        try:
            for number in range(count):
                peers.append(contenders.Nbdkit(os.path.join(work, str(number)), bench.sizes.idle_volume))
            time.sleep(bench.sizes.settle)
            pids = {number: pid for number, peer in enumerate(peers) for pid in peer.processes().values()}
            meter = process.Meter(pids)
            begun = time.monotonic()
            time.sleep(bench.sizes.idle)
            used, seconds = sum(meter.read().values()), time.monotonic() - begun
            beside = sum(process.memory(pid)["pss"] for pid in pids.values()) / MIB
            return {"core_percent": used / seconds * 100, "beside_MiB": beside, "beside_MiB_per_pair": beside / count,
                    "guarantee": peers[0].guarantee()}
        finally:
            for peer in peers:
                peer.close()


def register_idle(count):
    @measure(f"idle-{count}", f"idle: {count} pair{'s' if count > 1 else ''} between two daemons, with their guards",
             "core_percent", ["beside_MiB", "beside_MiB_per_pair", "ready_seconds"], quick=count == 1)
    def measure_idle(bench):
        return {"nbdkit": [idle_nbdkit(bench, count)], "pairs": [idle(bench, count)]}


for _count in (1, 10, 100):
    register_idle(_count)


def under_load(contender, worst, *arguments, **options):
    """The most memory that the contender's processes have while it takes 4 KiB writes at depth 16."""
    load = loads.LOADS["write-4k-16"]
    pids = contender.processes()
    before = {name: process.memory(pid) for name, pid in pids.items()}
    with process.MemoryPeak(pids) as watch:
        found = loads.run(contender, load, load.arguments(*arguments, **options))
    figures = {"beside_MiB": worst(watch.peak), "before_MiB": worst(before), "per_s": found["per_s"]}
    for name, one in watch.peak.items():
        figures.update(memory_figures(name, one))
    return {**figures, "guarantee": found["guarantee"]}


def sum_of_all(memories):
    return sum((one["pss"] - one["shmem"]) / MIB for one in memories.values())


def memory_of_peer(bench, make, size):
    with measures.a_peer(make, bench, size) as peer:
        return under_load(peer, sum_of_all, size, bench.sizes.seconds_memory)


def memory_of_pair(bench, size):
    with measures.a_pair(bench, "sync", size, fill=True) as pair:
        found = under_load(pair, worst_end, size, bench.sizes.seconds_memory)
        pair.check()
        return found


@measure("memory-load", "memory under the load of write-4k-16: the most that an end has beside its queue",
         "beside_MiB", ["before_MiB", "per_s"])
def measure_memory_load(bench):
    size = bench.sizes.volume
    return measures.in_turn(1, {"nbdkit": lambda: memory_of_peer(bench, contenders.Nbdkit, size),
                                "mirror": lambda: memory_of_peer(bench, contenders.Mirror, size),
                                "sync": lambda: memory_of_pair(bench, size)}, bench.say)


class Mirroring(contenders.Pair):
    """A pair whose first mirror may still go on: it is measured as it is, and its guarantee says so."""

    def ready(self):
        wait(f"pair {self.pair} to serve", lambda: os.path.exists(self.place.export(self.pair))
             and self.status("primary").get("role") == "active")

    def drain(self):
        return None


def huge_pair(bench, size):
    """The volume is not filled. Its first mirror gets a while to go over what is empty."""
    with measures.a_pair(bench, "sync", size, kind=Mirroring) as pair:
        end = time.monotonic() + bench.sizes.patience
        while time.monotonic() < end and not pair.protected():
            time.sleep(0.2)
        found = under_load(pair, worst_end, size, volume=bench.sizes.sparse_written)
        resync = pair.status("primary").get("resync", {})
        if resync.get("active"):
            found["mirrored_percent"] = 100 * resync["done_bytes"] / max(resync["total_bytes"], 1)
        return found


def huge_nbdkit(bench, size):
    with measures.a_peer(contenders.Nbdkit, bench, size, fill=False) as peer:
        return under_load(peer, sum_of_all, size, volume=bench.sizes.sparse_written)


@measure("memory-1t", "the same with a sparse volume of 1 TiB", "beside_MiB", ["before_MiB", "per_s"])
def measure_memory_1t(bench):
    size = 1 << 40
    return measures.in_turn(1, {"nbdkit": lambda: huge_nbdkit(bench, size), "sync": lambda: huge_pair(bench, size)},
                            bench.say)


def bytes_of_load(contender, load, bench, lab=None):
    """Bytes to the disk of each process and of all, and over the channel, for a byte that the client has written."""
    volume = bench.sizes.bytes_written
    os.sync()
    device = process.device_written_bytes(bench.work)
    meter = process.Meter(contender.processes(), process.written_bytes)
    wire = lab.wire_bytes() if lab else 0
    loads.fio(contender, load.arguments(bench.sizes.volume, volume=volume))
    contender.drain()
    time.sleep(bench.sizes.settle)
    contender.check()
    os.sync()
    found = {f"{name} disk_per_byte": count / volume for name, count in meter.read().items()}
    if device is not None:
        found["device_per_byte"] = (process.device_written_bytes(bench.work) - device) / volume
    if lab:
        found["wire_per_byte"] = (lab.wire_bytes() - wire) / volume
    return {**found, "guarantee": contender.guarantee()}


def register_bytes(name, text):
    load = loads.LOADS[name]

    def peer(bench, make):
        with measures.a_peer(make, bench, bench.sizes.volume) as contender:
            return bytes_of_load(contender, load, bench)

    def pair(bench, mode):
        with measures.a_pair(bench, mode, bench.sizes.volume, fill=True) as contender:
            return bytes_of_load(contender, load, bench, bench.lab)

    @measure(f"bytes-{text}", f"bytes to the disks (all ends) and on the wire for a byte written, {load.text}",
             "device_per_byte", ["wire_per_byte"], ["nbdkit", "mirror"])
    def measure_bytes(bench):
        """The device's are all that was written to it meanwhile, by whoever, file system and all: nothing else may be
        going on. Those of each end are /proc/PID/io's, which see dirty folios (process.written_bytes()). The wire's are
        those of the channel's interfaces, both directions, heartbeats and acknowledgements included."""
        return measures.in_turn(bench.sizes.turns_bulk, {
            "nbdkit": lambda: peer(bench, contenders.Nbdkit), "mirror": lambda: peer(bench, contenders.Mirror),
            "async": lambda: pair(bench, "async"), "sync": lambda: pair(bench, "sync"),
            "strict": lambda: pair(bench, "strict")}, bench.say)


for _name, _text in (("write-4k-16", "4k"), ("write-64k-16", "64k")):
    register_bytes(_name, _text)
