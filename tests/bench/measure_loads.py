# SPDX-License-Identifier: Apache-2.0
"""The loads of load.py as measures: all contenders are up at once, and each load is run against each in turn."""

import os

import benchlab
import contenders
import load as loads
import measures

PEERS = {"raw": contenders.Raw, "nbdkit": contenders.Nbdkit, "mirror": contenders.Mirror}
ENCRYPTED = ("async", "sync", "strict")
CLEAR = tuple(f"{mode}-clear" for mode in ENCRYPTED)
FLOORS = {"floor": {}, "floor-strict": {"strict": True}, "floor-clear": {"clear": True}}
CONTENDERS = (*PEERS, *ENCRYPTED, *CLEAR, *FLOORS)

for _load in loads.LOADS.values():
    measures.Measure(_load.name, _load.text, "per_s",
                     ["MB_s", "p50_us", "p99_us", "p999_us", "drain_ms"],
                     peers=("nbdkit", "mirror"), quick=_load.quick)


class Running:
    """Every contender, warm: all of its volume written once, in small pieces."""

    def __init__(self, bench, names):
        self.bench, self.names = bench, names
        self.size = bench.sizes.volume
        self.contenders, self.loopback = [], None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self.contenders

    def __exit__(self, *_):
        for contender in self.contenders:
            contender.close()
        if self.loopback:
            self.loopback.close()
        self.bench.lab.down()

    def start(self):
        encrypted = [name for name in self.names if name in ENCRYPTED]
        clear = [name for name in self.names if name in CLEAR]
        if encrypted or any(name in FLOORS for name in self.names):  # a lab has at least one pair
            config = os.path.join(self.bench.work, "pairs")
            for number, mode in enumerate(encrypted or ["sync"]):
                benchlab.write_pair(config, benchlab.pair_of_lab(mode, mode, self.size, number))
            self.bench.lab.up(config)
        if clear:
            self.loopback = self.start_loopback(clear)
        for name in self.names:
            self.contenders.append(self.make(name))
            loads.fio(self.contenders[-1], loads.fill_arguments(self.size))
            self.contenders[-1].drain()

    def start_loopback(self, names):
        work = os.path.join(self.bench.work, "loopback")
        volumes = os.path.join(work, "volumes")
        os.makedirs(volumes)
        stores = {name: {end: os.path.join(volumes, f"{name}-{end}.img") for end in ("primary", "secondary")}
                  for name in names}
        return benchlab.Loopback(work, names, lambda name: benchlab.pair_in_clear(
            name, name.removesuffix("-clear"), self.size, names.index(name), stores[name]))

    def make(self, name):
        if name in PEERS:
            return PEERS[name](self.bench.work, self.size)
        if name in FLOORS:
            return contenders.Floor(name, self.bench.work, self.size, self.bench.lab, **FLOORS[name])
        clear = name in CLEAR
        return contenders.Pair(name, self.bench.work, self.size, self.loopback if clear else self.bench.lab, name,
                               name.removesuffix("-clear"), by_itself=not clear)


def run(bench, chosen, names):
    """{load: {contender: [run, ...]}} of all chosen loads. After each turn both copies of each are compared."""
    sizes = bench.sizes
    found = {load.name: {name: [] for name in names} for load in chosen}
    with Running(bench, names) as running:
        for turn in range(sizes.turns):
            for load in chosen:
                words = load.arguments(sizes.volume, sizes.seconds)
                for contender in running:
                    found[load.name][contender.name].append(loads.run(contender, load, words))
            for contender in running:
                contender.check()
            bench.say(f"  turn {turn + 1} of {sizes.turns}: done, and both copies of each are equal")
    return found
