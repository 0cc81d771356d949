# SPDX-License-Identifier: Apache-2.0
"""What a measure is: a name, what it measures, and how its result is shown; and the register of all of them.

A measure's function takes the bench (see main.py: `lab`, `work`, `sizes`, `say`) and returns {row: [run, ...]}, the
runs as figures.py has them. Contenders are measured in turn (A B A B): what else the machine does hits all alike.
"""

import collections
import contextlib
import os
import shutil
import tempfile

import benchlab
import contenders
import figures
import load as loads

MEASURES = collections.OrderedDict()
HISTORY_LINES = 12  # of each end, behind a measure that failed


class Measure:
    """`head` is the figure that is compared with the `peers`' and with an earlier run's; `columns` are the others that
    have one in the table; all are in the JSON."""

    def __init__(self, name, text, head, columns, function=None, peers=(), quick=False):
        self.name, self.text, self.head, self.columns = name, text, head, list(columns)
        self.function, self.peers, self.quick = function, list(peers), quick
        MEASURES[name] = self

    def result(self, rows):
        return {"text": self.text, "head": self.head, "columns": self.columns, "peers": self.peers,
                "rows": {name: figures.condense(runs) for name, runs in rows.items()}}


def measure(name, text, head, columns, peers=(), quick=False):
    """Registers the function below as a measure."""
    def register(function):
        Measure(name, text, head, columns, function, peers, quick)
        return function
    return register


def in_turn(turns, parties, say):
    """Calls each of `parties` ({row: function}) once a turn, one after the other."""
    rows = {name: [] for name in parties}
    for turn in range(turns):
        for name, party in parties.items():
            rows[name].append(party())
        say(f"  turn {turn + 1} of {turns}")
    return rows


@contextlib.contextmanager
def a_directory(bench):
    work = tempfile.mkdtemp(dir=bench.work)
    try:
        yield work
    finally:
        shutil.rmtree(work)


def say_history(bench, pair):
    """What the ends tell of the last minutes, for who reads why a measure failed: the lab is gone then."""
    for host in benchlab.ENDS:
        try:
            lines = bench.lab.pairctl(host, pair, "history").splitlines()
        except (benchlab.LabFailed, benchlab.hosts.LabError) as error:
            lines = [str(error)]
        bench.say(f"history of {host}:")
        print("\n".join("    " + line for line in lines[-HISTORY_LINES:]), flush=True)


@contextlib.contextmanager
def a_pair(bench, mode, size, image=None, queues=None, fill=False, name="pair", kind=contenders.Pair):
    """A lab with one pair in it, ready as its `kind` is; `fill`: its volume written once, in small pieces."""
    with a_directory(bench) as work:
        config = os.path.join(work, "pairs")
        benchlab.write_pair(config, benchlab.pair_of_lab(name, mode, size, whole=True, queues=queues))
        bench.lab.up(config, *(["--image", image] if image else []))
        try:
            pair = kind(mode, work, size, bench.lab, name, mode)
            if fill:
                loads.fio(pair, loads.fill_arguments(size))
                pair.drain()
            yield pair
        except Exception:
            say_history(bench, name)
            raise
        finally:
            bench.lab.down()


@contextlib.contextmanager
def a_peer(make, bench, size, fill=True, **options):
    with a_directory(bench) as work:
        peer = make(work, size, **options)
        try:
            if fill:
                loads.fio(peer, loads.fill_arguments(size))
            yield peer
        finally:
            peer.close()


@contextlib.contextmanager
def an_image(bench, size, content):
    """The path of a sparse file whose first `content` bytes are random, written in small pieces."""
    path = os.path.join(bench.work, "content.img")
    with open(path, "wb", buffering=0) as out:
        for _ in range(content // loads.PIECE):
            out.write(os.urandom(loads.PIECE))
        out.truncate(size)
        os.fsync(out.fileno())
    try:
        yield path
    finally:
        os.unlink(path)


def fill_safe_queue(bench, pair, content):
    """So many bytes into the passive end's queue, whose replay is paused. Gives the position behind them, and the bytes in
    the queue."""
    bench.lab.pairctl("secondary", pair.pair, "pause", "--replay")
    loads.fio(pair, loads.fill_arguments(content))
    numbered = pair.status("primary")["positions"]["numbered"]
    benchlab.wait("everything to be in the safe queue",
                  lambda: pair.status("secondary")["positions"]["durable"] >= numbered)
    queued = pair.status("secondary")["safe_queue"]["bytes"]
    if queued < content:
        raise benchlab.LabFailed(f"only {queued} bytes are in the safe queue: the replay was not paused")
    return numbered, queued
