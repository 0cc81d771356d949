# SPDX-License-Identifier: Apache-2.0
"""One run of a load with fio against one contender, and the loads there are.

Each run of writes ends with a flush inside the timing: what is only in a cache has not been written yet.
"""

import collections
import json
import subprocess

from benchlab import LabFailed
import process

LOADS = collections.OrderedDict()
PIECE = 32 << 10  # images are filled in pieces of at most this: larger ones leave large folios behind (see docs)


class Load:
    """`rw`, `block` bytes, `depth` requests in flight in each of `jobs` connections; `flush`: after every write."""

    def __init__(self, name, text, rw, block, depth, jobs=1, flush=False, quick=False):
        self.name, self.text, self.rw, self.block = name, text, rw, block
        self.depth, self.jobs, self.flush, self.quick = depth, jobs, flush, quick
        LOADS[name] = self

    @property
    def reads(self):
        return self.rw == "randread"

    def arguments(self, size, seconds=None, volume=None):
        """For so many seconds, or, without, until so much has been written: the whole size, or `volume` bytes."""
        words = [f"--rw={self.rw}", f"--bs={self.block}", f"--iodepth={self.depth}", f"--numjobs={self.jobs}",
                 f"--size={size}", "--randrepeat=0", "--norandommap", "--refill_buffers", "--group_reporting",
                 "--lat_percentiles=1", "--clat_percentiles=0"]
        if seconds:
            words += ["--time_based", f"--runtime={int(seconds * 1000)}ms"]
        if volume:
            words += [f"--io_size={volume}"]
        if self.flush:
            words += ["--fsync=1"]
        elif not self.reads:
            words += ["--end_fsync=1"]
        return words


Load("write-4k-1", "4 KiB random write, depth 1", "randwrite", 4096, 1, quick=True)
Load("write-4k-16", "4 KiB random write, depth 16", "randwrite", 4096, 16, quick=True)
Load("write-4k-64", "4 KiB random write, depth 64", "randwrite", 4096, 64)
Load("write-4k-4x4", "4 KiB random write, 4 connections of depth 4", "randwrite", 4096, 4, jobs=4)
Load("flush-4k-1", "4 KiB write + flush, depth 1", "randwrite", 4096, 1, flush=True, quick=True)
Load("flush-4k-8", "4 KiB write + flush, 8 writers", "randwrite", 4096, 1, jobs=8, flush=True, quick=True)
Load("write-64k-16", "64 KiB random write, depth 16", "randwrite", 65536, 16, quick=True)
Load("seq-64k-16", "64 KiB sequential write, depth 16", "write", 65536, 16)
Load("write-1m-4", "1 MiB random write, depth 4", "randwrite", 1 << 20, 4)
Load("seq-1m-4", "1 MiB sequential write, depth 4", "write", 1 << 20, 4)
Load("read-4k-16", "4 KiB random read, depth 16", "randread", 4096, 16, quick=True)
Load("mixed-4k-16", "4 KiB 70 % read, 30 % write, depth 16", "randrw --rwmixread=70", 4096, 16)


def fill_arguments(size):
    return ["--rw=write", f"--bs={PIECE}", "--iodepth=4", f"--size={size}", "--end_fsync=1", "--refill_buffers"]


def fio(contender, words):
    """Runs fio against the contender: the parsed result."""
    words = [part for word in words for part in word.split()]
    argv = ["fio", "--name=bench", "--output-format=json", *contender.target(words), *words]
    done = subprocess.run(argv, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False)
    start = done.stdout.find("{")
    if done.returncode != 0 or start < 0:
        raise LabFailed(f"{contender.name}: fio: {(done.stderr or done.stdout).strip()[-500:]}")
    return json.JSONDecoder().raw_decode(done.stdout[start:])[0]


def summary(result, load):
    """Rates and latencies of a result of fio, and what fio itself used: (figures, operations, CPU seconds).

    A load that flushes after every write counts writes, and its latencies are the flushes'. One that reads and writes
    has a second set, of the writes; the first is of the reads.
    """
    job = result["jobs"][0]
    sides = {side: job[side] for side in ("read", "write") if job[side]["total_ios"]}
    if not sides:
        raise LabFailed(f"{load.name}: fio has done nothing")
    count = sum(side["total_ios"] for side in sides.values())
    # A side's runtime ends when the last flush has been answered.
    runtime = max(side["runtime"] for side in sides.values()) / 1000
    lead = job["sync"] if load.flush else next(iter(sides.values()))
    figures = {"per_s": count / runtime, "MB_s": sum(side["io_bytes"] for side in sides.values()) / runtime / 1e6,
               **percentiles(lead["lat_ns"])}
    if len(sides) == 2:
        figures.update({f"write {key}": value for key, value in percentiles(sides["write"]["lat_ns"]).items()})
    return figures, count, (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000


def percentiles(latencies):
    found = latencies.get("percentile", {})
    return {name: found[key] / 1000 if key in found else None
            for name, key in (("p50_us", "50.000000"), ("p99_us", "99.000000"), ("p999_us", "99.900000"))}


def run(contender, load, words):
    """One run: rates and latencies, the drain of the queues, CPU per operation of each process, and what was
    guaranteed."""
    contender.ready()
    meter = process.Meter(contender.processes())
    result = fio(contender, words)
    guarantee = contender.guarantee()
    drain = contender.drain() if not load.reads else None
    figures, operations, client = summary(result, load)
    used = {**meter.read(), "client": client}
    return {**figures, "drain_ms": drain, "guarantee": guarantee,
            **{f"cpu_us {name}": seconds * 1e6 / operations for name, seconds in used.items()}}
