# SPDX-License-Identifier: Apache-2.0
"""What processes have used, from /proc: CPU seconds, memory, and bytes that went to the disk."""

import os
import threading

TICKS = os.sysconf("SC_CLK_TCK")
FIELDS = {"Rss": "rss", "Pss": "pss", "Pss_Anon": "anon", "Pss_Shmem": "shmem"}


def cpu_seconds(pid):
    """User and system time of a process with all its threads, the ended ones too."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def started(pid):
    """When the process was started, in seconds of CLOCK_BOOTTIME; to a hundredth."""
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[19]) / TICKS


def memory(pid):
    """Bytes of a process: {"rss", "pss", "anon", "shmem"}. `shmem` is its share of tmpfs: the unsafe queue is there."""
    found = dict.fromkeys(FIELDS.values(), 0)
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        for line in rollup:
            word, _, rest = line.partition(":")
            if word in FIELDS:
                found[FIELDS[word]] = int(rest.split()[0]) << 10
    return found


def written_bytes(pid):
    """Bytes that the process has caused to be written to storage: what it made dirty in the page cache, or wrote
    around it; not what went to tmpfs, nor what the file system writes of its own. The kernel counts a page cache folio
    as a whole when it becomes dirty, so that small writes into large folios count for more than they are."""
    with open(f"/proc/{pid}/io") as io:
        fields = dict(line.split(": ") for line in io.read().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


def device_written_bytes(path):
    """Bytes written so far to the block device of the path's file system, by whoever; None where it has no device of
    its own."""
    number = os.stat(path).st_dev
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat") as stat:
            return int(stat.read().split()[6]) * 512
    except OSError:
        return None


def of_group(directory):
    """{name: pid} of the processes in a control group and those below it."""
    found = {}
    for place, _, files in os.walk(directory):
        if "cgroup.procs" not in files:
            continue
        with open(os.path.join(place, "cgroup.procs")) as procs:
            for pid in procs.read().split():
                try:
                    with open(f"/proc/{pid}/comm") as comm:
                        found[comm.read().strip()] = int(pid)
                except OSError:
                    pass  # it has just ended
    return found


class Meter:
    """What `read_one(pid)` counts (CPU seconds, if not said otherwise), by process, since it was made."""

    def __init__(self, pids, read_one=cpu_seconds):
        self.pids, self.read_one = pids, read_one
        self.before = {name: read_one(pid) for name, pid in pids.items()}

    def read(self):
        return {name: self.read_one(pid) - self.before[name] for name, pid in self.pids.items()}


class MemoryPeak:
    """The most memory that each process had while this was entered, looked at every `pause` seconds."""

    def __init__(self, pids, pause=0.25):
        self.pids, self.pause = pids, pause
        self.peak = {}
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def look(self):
        for name, pid in self.pids.items():
            now, before = memory(pid), self.peak.get(name, {})
            self.peak[name] = {key: max(value, before.get(key, 0)) for key, value in now.items()}

    def watch(self):
        try:
            while not self.done.wait(self.pause):
                self.look()
        except OSError:
            pass  # a process has ended; whoever runs the load finds that, and says it better

    def __enter__(self):
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
