# SPDX-License-Identifier: Apache-2.0
"""deploy/bench: measures a pair beside its peers, in turn, and says by how much they differ.

Every load is run against every contender one after the other, and that again for each turn (A B C A B C): what else
the machine does then hits all alike, and the ratios of one run can be believed where its rates cannot.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import benchlab  # noqa: E402
import contenders  # noqa: E402
import load as loads  # noqa: E402
import whole  # noqa: E402

FORMAT = 1
CONTENDERS = ("raw", "nbdkit", "mirror", "async", "sync", "strict")
PAIRS = ("async", "sync", "strict")
WHOLE = "whole"


def say(text=""):
    print(text, flush=True)


def parse():
    top = argparse.ArgumentParser(prog="bench", description="What protection costs, beside the peers, in one run.")
    top.add_argument("measure", nargs="*", help=f"only these: names of loads, their beginnings, or {WHOLE!r}")
    top.add_argument("--quick", action="store_true", help="under two minutes: fewer loads, smaller, two turns")
    top.add_argument("--only", metavar="NAME,...", help=f"only these contenders of {', '.join(CONTENDERS)}")
    top.add_argument("--turns", type=int, help="of every load (default: 5; quick: 2)")
    top.add_argument("--seconds", type=float, help="of one load in one turn (default: 4; quick: 0.5)")
    top.add_argument("--size", type=int, help="of the volume in MiB (default: 256; quick: 64)")
    top.add_argument("--json", metavar="FILE", help="where the figures go (default: bench.json in the build tree)")
    top.add_argument("--compare", metavar="FILE", help="figures of an earlier run, shown beside these")
    top.add_argument("--list", action="store_true", help="the measures there are")
    options = top.parse_args()
    quick = options.quick
    options.turns = options.turns or (2 if quick else 5)
    options.seconds = options.seconds or (0.5 if quick else 4.0)
    options.size = options.size or (64 if quick else 256)
    options.content, options.mirror = (128, 256) if quick else (1024, 10240)
    options.turns_whole, options.idle = (1, 3.0) if quick else (3, 20.0)
    names = options.only.split(",") if options.only else list(CONTENDERS)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        top.error(f"no contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    options.contenders = [name for name in CONTENDERS if name in names]
    return options, top


def chosen(options, top):
    """The loads to run, and whether the whole pair is measured."""
    if not options.measure:
        return [load for load in loads.LOADS.values() if load.quick or not options.quick], not options.only
    found = []
    for word in options.measure:
        fitting = [load for load in loads.LOADS.values() if load.name.startswith(word)]
        fitting = [load for load in fitting if load.name == word] or fitting
        if not fitting and word != WHOLE:
            top.error(f"no measure {word!r}; --list shows them")
        found += [load for load in fitting if load not in found]
    return found, WHOLE in options.measure


def start(options, lab, work):
    """Every contender, warm: all of its volume written once, in small pieces."""
    size = options.size << 20
    running = []
    try:
        pairs = [name for name in options.contenders if name in PAIRS]
        if pairs:
            directory = os.path.join(work, "pairs")
            os.makedirs(directory)
            for number, name in enumerate(pairs):
                benchlab.write_pair(directory, name, name, size, 7700 + 10 * number)
            lab.up(directory)
        for name in options.contenders:
            if name in PAIRS:
                running.append(contenders.Pair(name, work, size, lab, name, name))
            else:
                made = {"raw": contenders.Raw, "nbdkit": contenders.Nbdkit, "mirror": contenders.Mirror}[name]
                running.append(made(work, size))
            loads.fio(running[-1], loads.fill_arguments(size))
            running[-1].drain()
    except BaseException:
        for contender in running:
            contender.close()
        raise
    return running


def run_loads(chosen_loads, running, options):
    found = {load.name: {contender.name: [] for contender in running} for load in chosen_loads}
    for turn in range(options.turns):
        for load in chosen_loads:
            for contender in running:
                found[load.name][contender.name].append(
                    loads.run(contender, load, options.size << 20, options.seconds))
        say(f"  turn {turn + 1} of {options.turns}")
    return found


def middle(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def condense(runs):
    """Several runs of one load against one contender: medians, and the spread of the rate."""
    rates = [run["rate"] for run in runs]
    found = {key: middle([run[key] for run in runs])
             for key in ("rate", "bytes_rate", "p50_us", "p99_us", "p999_us", "drain_ms")}
    found["rate_low"], found["rate_high"] = min(rates), max(rates)
    found["cpu_us"] = {name: middle([run["cpu_us"][name] for run in runs]) for name in runs[0]["cpu_us"]}
    found["guarantee"] = sorted({run["guarantee"] for run in runs})
    found["rates"] = rates
    return found


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1])]
        say("  " + "  ".join(cells + [row[-1]]))


def number(value):
    return "-" if value is None else f"{value:,.0f}"


def ratio(found, name, peer):
    return f"{found[name]['rate'] / found[peer]['rate']:.2f}" if peer in found else "-"


def show_load(load, found, old):
    say(f"\n{load.text} ({load.name})")
    rows = [["", "per s", "low..high", "MB/s", "p50 us", "p99 us", "/nbdkit", "/mirror", "drain ms"]
            + (["old /nbdkit"] if old else []) + ["CPU us per operation"]]
    for name, one in found.items():
        cpu = ", ".join(f"{process} {us:.1f}" for process, us in one["cpu_us"].items())
        row = [name, f"{one['rate']:,.0f}", f"{one['rate_low']:,.0f}..{one['rate_high']:,.0f}",
               f"{one['bytes_rate'] / 1e6:,.1f}", number(one["p50_us"]), number(one["p99_us"]),
               ratio(found, name, "nbdkit"), ratio(found, name, "mirror"), number(one["drain_ms"])]
        if old:
            before = old["loads"].get(load.name, {})
            row.append(ratio(before, name, "nbdkit") if name in before else "-")
        rows.append(row + [cpu])
    table(rows)


def show_guarantees(results):
    say("\nWhat each guaranteed while it was measured")
    for name in CONTENDERS:
        seen = sorted({text for found in results["loads"].values() if name in found
                       for text in found[name]["guarantee"]})
        for text in seen:
            say(f"  {name}: {text}")


def show_whole(found, old):
    rate = {name: found["content_bytes"] / middle(found[name]) / 1e6 for name in ("mirror", "nbdcopy")}
    say(f"\nFirst mirror of {found['content_bytes'] >> 20} MiB in a volume of {found['volume_bytes'] >> 20} MiB "
        "(encrypted; durable in the safe queue and replayed)")
    for name, text in (("mirror", "the pair"), ("nbdcopy", "nbdcopy")):
        times = ", ".join(f"{seconds:.2f}" for seconds in found[name])
        say(f"  {text}: {rate[name]:.0f} MB/s ({times} s)")
    say(f"  ratio {rate['mirror'] / rate['nbdcopy']:.2f}" + (
        f" (old {middle(old['nbdcopy']) / middle(old['mirror']):.2f})" if old and
        old["content_bytes"] == found["content_bytes"] else ""))
    say("\nIdle, one pair")
    for name, one in found["idle"].items():
        say(f"  {name}: {one['cpu_percent']:.1f} % of a core, resident {one['rss'] / 2**20:.1f} MiB, "
            f"its share {one['pss'] / 2**20:.1f} MiB")
    say("\nTakeover: from the crash of the active host until a client is answered over HTTP")
    for one in found["takeover"]:
        say(f"  {one['seconds']:.2f} s (forecast {one['forecast_ms']} ms; the crash itself takes "
            f"{one['crash_seconds']:.2f} s)")


def read_old(path):
    if not path:
        return None
    with open(path) as file:
        old = json.load(file)
    if old.get("format") != FORMAT:
        raise SystemExit(f"bench: {path}: format {old.get('format')!r}, expected {FORMAT}")
    return old


def measure(options, chosen_loads, with_whole):
    lab = benchlab.BenchLab()
    results = {"format": FORMAT, "time": time.time(), "kernel": platform.release(), "processors": os.cpu_count(),
               "load_before": os.getloadavg(), "turns": options.turns, "seconds": options.seconds,
               "size": options.size << 20, "loads": {}}
    work = tempfile.mkdtemp(prefix="understudy-bench-", dir="/var/tmp")
    running = []
    try:
        if chosen_loads:
            say(f"bench: {len(chosen_loads)} loads, {', '.join(options.contenders)}; filling")
            running = start(options, lab, work)
            for name, found in run_loads(chosen_loads, running, options).items():
                results["loads"][name] = {one: condense(runs) for one, runs in found.items()}
            lab.down()
        if with_whole:
            say("bench: first mirror, idle, takeover")
            results["whole"] = whole.measure(lab, work, options, say)
    finally:
        for contender in running:
            contender.close()
        lab.down()
        shutil.rmtree(work)
    results["load_after"] = os.getloadavg()
    return results


def main():
    options, top = parse()
    if options.list:
        for load in loads.LOADS.values():
            say(f"{load.name:14} {load.text}{' (quick)' if load.quick else ''}")
        say(f"{WHOLE:14} first mirror, idle, takeover (quick)")
        return
    chosen_loads, with_whole = chosen(options, top)
    old = read_old(options.compare)
    begun = time.monotonic()
    results = measure(options, chosen_loads, with_whole)
    for name, found in results["loads"].items():
        show_load(loads.LOADS[name], found, old)
    if results["loads"]:
        show_guarantees(results)
    if with_whole:
        show_whole(results["whole"], old and old.get("whole"))
    target = options.json or os.path.join(os.environ["UNDERSTUDY_BUILD"], "bench.json")
    with open(target, "w") as file:
        json.dump(results, file, indent=1)
    say(f"\n{time.monotonic() - begun:.0f} s; load average {results['load_before'][0]:.1f} before, "
        f"{results['load_after'][0]:.1f} after, on {results['processors']} processors; figures in {target}")


if __name__ == "__main__":
    try:
        main()
    except (benchlab.LabFailed, contenders.ContenderFailed, loads.LoadFailed) as error:
        sys.exit(f"bench: {error}")
