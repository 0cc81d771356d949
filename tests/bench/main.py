# SPDX-License-Identifier: Apache-2.0
"""deploy/bench: measures a pair beside its peers, in turn, and says by how much they differ.

Every load is run against every contender one after the other, and that again for each turn (A B C A B C): what else
the machine does then hits all alike, and the ratios of one run can be believed where its rates cannot.

A measure that fails is reported, and the others go on; the figures are written after each. Exit status 1: one has
failed.
"""

import argparse
import dataclasses
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import benchlab  # noqa: E402
import figures  # noqa: E402
import load as loads  # noqa: E402
import measure_bulk  # noqa: E402,F401 (registers its measures, as the others do)
import measure_loads  # noqa: E402
import measure_long  # noqa: E402,F401
import measure_outage  # noqa: E402,F401
import measure_upkeep  # noqa: E402,F401
from measures import MEASURES  # noqa: E402
import sizes  # noqa: E402

FORMAT = 2
EXPECTED = (benchlab.LabFailed, benchlab.hosts.LabError, subprocess.SubprocessError)
ABOUT = """What protection costs, beside the peers of the same run. A full run takes about 100 minutes on two quiet
processors, --quick less than two minutes. Progress is printed; the figures are in the JSON file after each measure,
and shown at the end. Volumes and queues are in /var/tmp, which needs 12 GiB; the full run needs 8 GiB of memory."""


class Stopped(BaseException):
    """A signal asks to stop: what has been measured is shown, and everything is removed."""


class Bench:
    """What a measure gets."""

    def __init__(self, options):
        self.sizes, self.quick = options.sizes, options.quick
        self.lab = benchlab.BenchLab()
        self.begun = time.monotonic()
        self.work = tempfile.mkdtemp(prefix="understudy-bench-", dir="/var/tmp")

    def say(self, text=""):
        seconds = time.monotonic() - self.begun
        print(f"{seconds // 60:4.0f}:{seconds % 60:02.0f} {text}", flush=True)

    def close(self):
        self.lab.down()
        shutil.rmtree(self.work, ignore_errors=True)


def parse():
    top = argparse.ArgumentParser(prog="bench", description=ABOUT)
    top.add_argument("measure", nargs="*", help="only these: names of measures, or their beginnings; see --list")
    size = top.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under two minutes: fewer measures, smaller, two turns")
    size.add_argument("--small", action="store_true", help="tiny sizes and one turn, to see that everything works")
    top.add_argument("--only", metavar="NAME,...", help="loads for these contenders alone, of "
                     + ", ".join(measure_loads.CONTENDERS) + "; without names of measures, loads alone")
    top.add_argument("--turns", type=int, help="of every load (default: 5; quick: 2)")
    top.add_argument("--seconds", type=float, help="of one load in one turn (default: 3; quick: 0.4)")
    top.add_argument("--size", type=int, help="of the loads' volume in MiB (default: 256; quick: 64)")
    top.add_argument("--json", metavar="FILE", help="where the figures go (default: bench.json in the build tree)")
    top.add_argument("--compare", metavar="OLD.json", help="figures of an earlier run, shown beside these")
    top.add_argument("--list", action="store_true", help="the measures there are")
    options = top.parse_args()
    options.sizes = sizes.quick() if options.quick else sizes.small() if options.small else sizes.full()
    for name, value in (("turns", options.turns), ("seconds", options.seconds),
                        ("volume", options.size and options.size << 20)):
        if value:
            setattr(options.sizes, name, value)
    check_contenders(options, top)
    options.chosen = chosen(options, top)
    return options


def check_contenders(options, top):
    slow = {*measure_loads.CLEAR, *measure_loads.FLOORS} if options.quick else {}
    default = [name for name in measure_loads.CONTENDERS if name not in slow]
    names = options.only.split(",") if options.only else default
    unknown = [name for name in names if name not in measure_loads.CONTENDERS]
    if unknown:
        top.error(f"no contender {', '.join(unknown)}; there are {', '.join(measure_loads.CONTENDERS)}")
    options.contenders = [name for name in measure_loads.CONTENDERS if name in names]


def chosen(options, top):
    """The measures to take, in their order."""
    if not options.measure:
        return [one for one in MEASURES.values() if (one.quick or not options.quick)
                and (one.name in loads.LOADS or not options.only)]
    found = set()
    for word in options.measure:
        fitting = {name for name in MEASURES if name.startswith(word)}
        if not fitting:
            top.error(f"no measure {word!r}; --list shows them")
        found |= {word} if word in fitting else fitting
    return [one for one in MEASURES.values() if one.name in found]


def read_old(path):
    if not path:
        return {}
    try:
        with open(path) as file:
            old = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"bench: {path}: {error}")
    if not isinstance(old, dict) or old.get("format") != FORMAT:
        sys.exit(f"bench: {path}: not figures of format {FORMAT}")
    return old.get("measures", {})


class Results:
    """What has been found so far; in the file after each measure."""

    def __init__(self, options):
        self.path = options.json or os.path.join(os.environ["UNDERSTUDY_BUILD"], "bench.json")
        self.all = {"format": FORMAT, "time": time.time(), "kernel": platform.release(),
                    "processors": os.cpu_count(), "quick": options.quick, "small": options.small,
                    "sizes": dataclasses.asdict(options.sizes), "load_before": os.getloadavg(), "load_after": None,
                    "measures": {}, "failed": {}}

    def save(self):
        self.all["load_after"] = os.getloadavg()
        with open(self.path + ".new", "w") as file:
            json.dump(self.all, file, indent=1)
        os.rename(self.path + ".new", self.path)


def attempt(bench, results, names, take):
    """Calls `take`, which gives {measure: rows}; a failure is noted for all of `names`."""
    try:
        for name, rows in take().items():
            results.all["measures"][name] = MEASURES[name].result(rows)
    except Exception as error:  # whatever it is: the other measures are worth having
        text = f"{type(error).__name__}: {error}"
        bench.say(f"FAILED: {text}" if isinstance(error, EXPECTED) else "FAILED: " + traceback.format_exc())
        results.all["failed"].update(dict.fromkeys(names, text))
        bench.lab.down()
    results.save()


def take_all(bench, results, options):
    of_loads = [loads.LOADS[one.name] for one in options.chosen if one.name in loads.LOADS]
    others = [one for one in options.chosen if one.name not in loads.LOADS]
    if of_loads:
        bench.say(f"{len(of_loads)} loads, for {', '.join(options.contenders)}; filling first")
        attempt(bench, results, [load.name for load in of_loads],
                lambda: measure_loads.run(bench, of_loads, options.contenders))
    for number, one in enumerate(others):
        bench.say(f"{number + 1} of {len(others)}: {one.name}: {one.text}")
        attempt(bench, results, [one.name], lambda one=one: {one.name: one.function(bench)})


def show(results, old):
    said = []
    for name, found in results.all["measures"].items():
        print(f"\n{found['text']} ({name})")
        print("\n".join(figures.table(found, old.get(name))))
        new = [text for text in figures.guarantees(found) if text not in said]
        if new:
            print("  guaranteed then:")
        for text in new:
            said.append(text)
            print(f"    {text}")
    for name, text in results.all["failed"].items():
        print(f"\nFAILED: {name}: {text}")


def stop(number, frame):
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(signal.Signals(number).name)


def lock():
    """One benchmark of a name at a time: it removes what an earlier one has left."""
    file = open(f"/var/tmp/.understudy-bench-{os.environ['LAB']}.lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"bench: another one runs in the lab {os.environ['LAB']!r}; name another lab with LAB=NAME")
    return file


def main():
    options = parse()
    if options.list:
        for one in MEASURES.values():
            print(f"{one.name:14} {one.text}{' (quick)' if one.quick else ''}")
        return 0
    old = read_old(options.compare)
    held = lock()
    results = Results(options)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    stopped = None
    bench = Bench(options)
    try:
        bench.lab.down()
        take_all(bench, results, options)
    except Stopped as signalled:
        stopped = f"stopped by {signalled}"
        results.all["failed"]["the rest"] = stopped
    finally:
        bench.close()
        os.unlink(held.name)
    results.save()
    show(results, old)
    before, after = results.all["load_before"][0], results.all["load_after"][0]
    print(f"\n{time.monotonic() - bench.begun:.0f} s; load average {before:.1f} before, {after:.1f} after, on "
          f"{results.all['processors']} processors; figures in {results.path}")
    return 1 if results.all["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
