#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Busy neighbours: two pairs at the default timeout, one idle, one written to, on a machine whose processors, memory and disk
other programs keep busy, for MINUTES.

    neighbours.py MINUTES [--hogs N] [--no-memory] [--no-disk]

Each host is active for one of the pairs. Beside them run, at nice 0: N loops that never wait (default: two for each
processor), one that fills and frees memory, and one that writes large files and syncs them. Nobody may take over, step
down, or lose a session; at the end both stores of the written pair are equal. Says each minute, and at the end, how long
an end was silent to its peer at most.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from crashloop import Writing  # noqa: E402
from labs import Lab, PEER  # noqa: E402
from test_pairs import ADDRESS, HOME, status, wait_promotable, write_pairs  # noqa: E402

IDLE, WRITTEN = "east", "west"
RATE = 4 << 20  # bytes a second that are written
SPIN = "while :; do :; done"
MEMORY = """
import mmap, os
size = min(1 << 30, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
while True:
    with mmap.mmap(-1, size) as piece:
        for at in range(0, size, 4096):
            piece[at] = 1
"""
DISK = 'while :; do dd if=/dev/zero of="$0" bs=1M count=512 conv=fsync 2>/dev/null; rm -f "$0"; done'
BAD = ("taking over", "probing", "suspended", "is silent", "going alone", "stale")


class OnePair:
    """What a writer needs of a lab, for one pair of several."""

    def __init__(self, lab, pair):
        self.lab, self.pair = lab, pair

    def __getattr__(self, name):
        return getattr(self.lab, name)

    def uri(self, host):
        volume = status(self.lab, host, self.pair)["volumes"][0]
        return f"nbd+unix:///{volume['name']}?socket={volume['export']}"


class Story:
    """What a pair's ends have noted since this was made."""

    def __init__(self, lab, pair):
        self.lab, self.pair = lab, pair
        self.before = {host: self.lines(host) for host in PEER}

    def lines(self, host):
        return self.lab.pairctl(host, "-p", self.pair, "history").stdout.splitlines()

    def bad(self):
        return [f"{self.pair}, {host}: {line}" for host in PEER for line in self.lines(host)
                if line not in self.before[host] and any(word in line for word in BAD)]


def neighbours(arguments, directory):
    commands = [["sh", "-c", SPIN]] * arguments.hogs
    commands += [] if arguments.no_memory else [[sys.executable, "-c", MEMORY]]
    commands += [] if arguments.no_disk else [["sh", "-c", DISK, str(directory / "churn")]]
    return [subprocess.Popen(command, start_new_session=True) for command in commands]


def silences(lab):
    """{(pair, host): the longest silence of its peer in ms}"""
    return {(pair, host): status(lab, host, pair)["peer"]["longest_silence_ms"] for pair in ADDRESS for host in PEER}


def sessions(lab):
    return {(pair, host): status(lab, host, pair)["session"] for pair in ADDRESS for host in PEER}


def equal(lab, pair):
    active = HOME[pair]
    lab.wait_until(lambda: status(lab, PEER[active], pair)["positions"]["applied"]
                   >= status(lab, active, pair)["positions"]["numbered"], "everything to be applied")
    stores = [os.path.join(lab.base, host, "volumes", pair + ".img") for host in PEER]
    assert subprocess.run(["cmp", *stores], check=False).returncode == 0, "the stores differ"


def watch(lab, arguments, directory):
    for pair, host in HOME.items():
        wait_promotable(lab, pair, host)
    stories, met = [Story(lab, pair) for pair in ADDRESS], sessions(lab)
    writing = Writing(OnePair(lab, WRITTEN), HOME[WRITTEN], directory / "writer", 1, rate=RATE)
    writing.wait_answers()
    end = time.monotonic() + arguments.minutes * 60
    while time.monotonic() < end:
        time.sleep(min(60, max(0, end - time.monotonic())))
        found = silences(lab)
        load = os.getloadavg()[0]
        print(f"{time.strftime('%H:%M:%S')} load {load:.1f}; longest silence: "
              + ", ".join(f"{pair} as seen by {host} {ms} ms" for (pair, host), ms in found.items()), flush=True)
        bad = [line for story in stories for line in story.bad()]
        assert not bad, "\n".join(bad)
        assert sessions(lab) == met, "a session was lost"
    ledger = writing.stop()
    equal(lab, WRITTEN)
    return max(silences(lab).values()), len(ledger.answered())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--hogs", type=int, default=2 * os.cpu_count())
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-disk", action="store_true")
    arguments = parser.parse_args()
    lab, started = Lab(), []
    directory = pathlib.Path(tempfile.mkdtemp(prefix="neighbours.", dir="/var/tmp"))
    try:
        (directory / "config").mkdir()
        write_pairs(directory / "config")
        lab.up(config=directory / "config")
        started = neighbours(arguments, directory)
        longest, answered = watch(lab, arguments, directory)
        print(f"no takeover in {arguments.minutes:g} minutes; {answered} writes answered; the longest silence of an end to its "
              f"peer was {longest} ms", flush=True)
        return 0
    except (AssertionError, OSError, KeyError, subprocess.SubprocessError):
        traceback.print_exc()
        print(lab.report(), file=sys.stderr)
        return 1
    finally:
        for process in started:
            os.killpg(process.pid, 9)
            process.wait()
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
