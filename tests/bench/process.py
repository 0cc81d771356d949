# SPDX-License-Identifier: Apache-2.0
"""What processes have used, from /proc: CPU seconds and memory."""

import os

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of a process with all its threads, the ended ones too."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid):
    """{"rss": bytes, "pss": bytes} of a process."""
    found = {}
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        for line in rollup:
            word, _, rest = line.partition(":")
            if word in ("Rss", "Pss"):
                found[word.lower()] = int(rest.split()[0]) << 10
    return found


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
    """CPU seconds of processes, by name, since it was made."""

    def __init__(self, pids):
        self.pids = pids
        self.before = {name: cpu_seconds(pid) for name, pid in pids.items()}

    def read(self):
        return {name: cpu_seconds(pid) - self.before[name] for name, pid in self.pids.items()}
