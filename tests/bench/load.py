# SPDX-License-Identifier: Apache-2.0
"""One run of a load with fio against one contender, and the measures there are.

Each run of writes ends with a flush inside the timing: what is only in a cache has not been written yet.
"""

import collections
import json
import subprocess

import process

LOADS = collections.OrderedDict()
PIECE = 32 << 10  # images are filled in pieces of at most this: larger ones leave large folios behind (see docs)


class LoadFailed(Exception):
    """fio could not do it; the text says why."""


class Load:
    """`rw`, `block` bytes, `depth` requests in flight in each of `jobs` connections; `flush`: after every write."""

    def __init__(self, name, text, rw, block, depth, jobs=1, flush=False, quick=False):
        self.name, self.text, self.rw, self.block = name, text, rw, block
        self.depth, self.jobs, self.flush, self.quick = depth, jobs, flush, quick
        LOADS[name] = self

    @property
    def reads(self):
        return "read" in self.rw

    def arguments(self, size, seconds):
        words = [f"--rw={self.rw}", f"--bs={self.block}", f"--iodepth={self.depth}", f"--numjobs={self.jobs}",
                 f"--size={size}", "--time_based", f"--runtime={int(seconds * 1000)}ms", "--randrepeat=0",
                 "--norandommap", "--refill_buffers", "--group_reporting", "--lat_percentiles=1",
                 "--clat_percentiles=0"]
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
Load("write-1m-4", "1 MiB sequential write, depth 4", "write", 1 << 20, 4)
Load("read-4k-16", "4 KiB random read, depth 16", "randread", 4096, 16, quick=True)
Load("mixed-4k-16", "4 KiB 70 % read, 30 % write, depth 16", "randrw --rwmixread=70", 4096, 16)


def fill_arguments(size):
    return ["--rw=write", f"--bs={PIECE}", "--iodepth=4", f"--size={size}", "--end_fsync=1", "--refill_buffers"]


def fio(contender, words):
    """Runs fio against the contender: the parsed result."""
    words = [part for word in words for part in word.split()]
    argv = contender.enter(["fio", "--name=bench", "--output-format=json", *contender.target(words), *words])
    done = subprocess.run(argv, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False)
    start = done.stdout.find("{")
    if done.returncode != 0 or start < 0:
        raise LoadFailed(f"{contender.name}: {(done.stderr or done.stdout).strip()[-500:]}")
    return json.JSONDecoder().raw_decode(done.stdout[start:])[0]


def summary(result, load):
    """{rate, bytes_rate, p50_us, p99_us, p999_us, client} of a result of fio; `client` in CPU seconds.

    A load that flushes after every write counts writes, and its latencies are the flushes'.
    """
    job = result["jobs"][0]
    sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
    count = sum(side["total_ios"] for side in sides)
    # A side's runtime ends when the last flush has been answered.
    runtime = max(side["runtime"] for side in sides) / 1000
    lead = job["sync"] if load.flush else max(sides, key=lambda side: side["total_ios"])
    return {"operations": count, "seconds": runtime, "rate": count / runtime,
            "bytes_rate": count * load.block / runtime, **percentiles(lead["lat_ns"]),
            "client": (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000}


def percentiles(latencies):
    found = latencies.get("percentile", {})
    return {name: found[key] / 1000 if key in found else None
            for name, key in (("p50_us", "50.000000"), ("p99_us", "99.000000"), ("p999_us", "99.900000"))}


def run(contender, load, size, seconds):
    """One run: the summary, CPU per operation of each process, the drain of the queues, and what was guaranteed."""
    contender.ready()
    meter = process.Meter(contender.processes())
    result = fio(contender, load.arguments(size, seconds))
    guarantee = contender.guarantee()
    drain = contender.drain() if not load.reads else None
    found = summary(result, load)
    used = {**meter.read(), "client": found.pop("client")}
    found["cpu_us"] = {name: seconds * 1e6 / found["operations"] for name, seconds in used.items()}
    found["drain_ms"] = drain
    found["guarantee"] = guarantee
    return found
