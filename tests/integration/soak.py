#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Crash loops: an outside ledger is kept while daemons, hosts and their power are lost, round after round.

    soak.py [--rounds N] [--seed S] [--mode MODE]... [--fault FAULT]... [--size SIZE]

A round begins with a pair that is whole. A writer on the active host fills numbered blocks; at a random moment the
round's fault comes; what the mode promises is then held against the volume that is served afterwards, and, once the pair
is whole again, both stores are compared byte by byte. Modes take turns in blocks of rounds, faults one after the other
in a random order, all from the seed. Stops at the first violation, with a report; the lab is kept for a look at it.

The faults:
    kill-active, kill-passive, kill-both    the daemons alone, up to three times (kill -9)
    crash-active, crash-passive, crash-both hosts; their disks forget nothing
    power-active, power-passive, power-both hosts, whose disks forget what was not synced, or (torn) a random part of it
    power-passive-serves                    the power of both, and only the passive one comes back: an operator makes it
                                            active, and it must have everything promised
    power-alone, power-resync               the active host's power, while it is alone, and while its peer is resynced
                                            over a slow link: nobody else can serve until it is back
    stop-active, stop-passive               a daemon stands still (SIGSTOP) for a moment, or for longer than the timeout
    cut-channel, cut-one-way                the channel's networks, or what one host sends there
    switch-hosts                            an operator's switch
"""

import argparse
import os
import pathlib
import random
import shutil
import statistics
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blockledger import judge, judge_disk  # noqa: E402
from crashloop import HttpWatch, Writing, assert_equal_stores, read_volume  # noqa: E402
from labs import PEER, Lab, write_pair  # noqa: E402

MODES = ("sync", "strict", "async")
FAULTS = ("kill-active", "kill-passive", "kill-both", "crash-active", "crash-passive", "crash-both",
          "power-active", "power-passive", "power-both", "power-passive-serves", "power-alone", "power-resync",
          "stop-active", "stop-passive", "cut-channel", "cut-one-way", "switch-hosts")
PAUSE_SECONDS = (0.1, 6.0)  # of a stop or a cut: from much less than the timeout to twice as much
SLOW = "20mbit"
BLOCK_ROUNDS = 20  # of one mode, before the next one has its turn


class Figures:
    """What a run has come to."""

    def __init__(self):
        self.rounds, self.writes, self.promised, self.missing = 0, 0, 0, 0
        self.by_fault, self.outages, self.unasked, self.suspended = {}, [], 0, 0

    def line(self):
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.by_fault.items()))
        text = (f"{self.rounds} rounds ({faults}): {self.writes} writes answered, {self.promised} promised, all there; "
                f"{self.missing} answered ones that nothing had promised were lost")
        if self.outages:
            text += (f"; from the crash until HTTP was answered: median {statistics.median(self.outages):.2f} s, "
                     f"largest {max(self.outages):.2f} s of {len(self.outages)}")
        if self.unasked:
            text += f"; {self.unasked} takeovers although only a daemon was killed (it was not back in time)"
        if self.suspended:
            text += (f"; {self.suspended} times the active end stepped down when its peer had died, because this machine stood "
                     "still and the waypoint's answers had a gap: the peer's return ended it")
        return text


class Soak:
    """Rounds on one lab."""

    def __init__(self, lab, mode, directory, rng, figures):
        self.lab, self.mode, self.directory, self.rng, self.figures = lab, mode, directory, rng, figures
        self.number = 0
        lab.wait_promotable("primary")
        self.http = HttpWatch(lab, directory)
        self.http.wait_answer("primary")

    # Faults. `active` is who was active when the round began.
    def kill(self, hosts):
        for number in range(self.rng.randrange(1, 4)):
            if number:
                time.sleep(self.rng.uniform(0.05, 1.5))
            runs = {host: self.lab.status(host).get("run") for host in hosts}
            for host in hosts:
                self.lab.kill(host)
            for host in hosts:
                self.lab.wait_for(host, "another run", run=lambda now, then=runs[host]: now != then)

    def crash(self, host, power):
        self.writer_died |= host == self.active
        return self.lab.crash(host, power, torn=self.rng.random() < 0.5)

    def stop(self, host):
        daemon = {"primary": "primaryd", "secondary": "secondaryd"}[host]
        self.lab.exec(host, "sh", "-c", f"kill -STOP $(pidof {daemon})")
        time.sleep(self.rng.uniform(*PAUSE_SECONDS))
        self.lab.exec(host, "sh", "-c", f"kill -CONT $(pidof {daemon})")

    def cut(self, arguments):
        self.lab.cut("channel", *arguments)
        time.sleep(self.rng.uniform(*PAUSE_SECONDS))
        self.lab.heal()

    def dies_alone(self):
        """Its passive end is there, without a grant, and waits."""
        self.lab.cut("channel")
        self.lab.wait_for(self.active, "without a peer that may take over", granted=False)
        time.sleep(self.rng.uniform(0.1, 1.0))
        self.crash(self.active, power=True)
        self.comes_back()

    def dies_in_resync(self):
        """Half of what the passive end has is older than the other half."""
        passive = PEER[self.active]
        self.lab.crash_passive(passive)
        time.sleep(self.rng.uniform(0.1, 1.0))
        self.lab("slow", SLOW)
        self.lab.start(passive)
        self.lab.wait_for(passive, "back", state="passive", peer=lambda peer: peer["connected"])
        time.sleep(self.rng.uniform(0.1, 2.0))
        self.crash(self.active, power=True)
        self.comes_back()

    def comes_back(self):
        time.sleep(self.rng.uniform(0.1, 4.0))
        self.lab.start(self.active)
        self.lab.heal()

    def one_dies(self, host, power):
        moment = self.crash(host, power)
        if host == self.active:
            self.figures.outages.append(self.http.wait_answer(PEER[host], moment) - moment)
            self.lab.wait_active(PEER[host])
        else:
            self.lab.wait_for(PEER[host], "without its peer", peer=lambda peer: not peer["connected"])

    def both_die(self, power):
        hosts = list(PEER)
        self.rng.shuffle(hosts)
        for host in hosts:
            self.crash(host, power)
        self.rng.shuffle(hosts)
        for host in hosts:
            self.lab.start(host)

    def passive_serves_alone(self):
        passive = PEER[self.active]
        for host in (self.active, passive):
            self.crash(host, power=True)
        self.lab.start(passive)
        said = []

        def forced():
            said.append(self.lab.pairctl(passive, "takeover", "--force", check=False).stderr.strip())
            return self.lab.role(passive) == "active"
        try:
            self.lab.wait_until(forced, f"{passive} to be taken over by force")
        except AssertionError as error:
            raise AssertionError(f"{error}: {said[-1]}") from None
        self.lab.wait_active(passive)

    def strike(self, fault):
        what, whom = fault.split("-", 1)
        power = what == "power"
        hosts = {"active": [self.active], "passive": [PEER[self.active]]}.get(whom, list(PEER))
        if what == "kill":
            self.kill(hosts)
        elif what == "stop":
            self.stop(hosts[0])
        elif what == "cut":
            self.cut(["--one-way", self.rng.choice(list(PEER))] if whom == "one-way" else [])
        elif what == "switch":
            self.lab.pairctl(self.active, "switch")
        elif whom == "alone":
            self.dies_alone()
        elif whom == "resync":
            self.dies_in_resync()
        elif whom == "passive-serves":
            self.passive_serves_alone()
        elif whom == "both":
            self.both_die(power)
        else:
            self.one_dies(hosts[0], power)

    # Judgement.
    def serving(self):
        """Who serves behind the fault, and is sure of it: its peer is back, or it is alone. An active end that has lost sight
        of everybody for a moment, and whose peer is dead, waits for that peer: it is started, as an operator would."""
        def outcome():
            for host in PEER:
                status = self.lab.status(host)
                if status.get("state") == "suspended" and PEER[host] in self.off():
                    self.figures.suspended += 1
                    self.lab.start(PEER[host])
                elif (status.get("role") == "active" and status["state"] != "suspended"
                      and (status["alone"] or status["peer"]["connected"])
                      and all(volume["serving"] for volume in status["volumes"])):
                    return host
            return None
        return self.lab.wait_until(outcome, "one end to serve")

    def off(self):
        return [host for host in PEER if self.lab("exec", host, "--", "true", check=False).returncode != 0]

    def judge_round(self, fault, writing, before, active):
        """`active` serves now. The writer lives if its host does, and may go on if its end still serves."""
        # Its own disk, without the queue of its former run: a write that was killed in its middle is there in part.
        mode = "sync" if fault in ("power-alone", "power-resync") and self.mode == "strict" else self.mode  # without a peer
        own_disk = active == self.active and self.writer_died and mode != "strict"
        if not self.writer_died:
            if active == self.active and writing.process.poll() is None:
                ledger = writing.stop()
                self.lab.wait_settled(active)
                promised = ledger.answered()
            else:
                self.figures.unasked += fault.startswith("kill")
                writing.process.kill()
                writing.process.wait()
                ledger = writing.ledger()
                promised = ledger.answered() if fault == "switch-hosts" else ledger.promised(self.mode)
        else:
            writing.process.wait(timeout=60)
            ledger = writing.ledger()
            promised = ledger.promised(mode)
        assert ledger.failed == 0, f"a request was answered with an error: {writing.said()}"
        verdict = (judge_disk if own_disk else judge)(ledger, before, read_volume(self.lab, active), promised)
        self.figures.writes += len(ledger.answered())
        self.figures.promised += len(promised)
        self.figures.missing += len(verdict.missing)
        assert verdict, "\n".join(verdict.errors)
        return (f"{len(ledger.answered())} answered, {ledger.flushes} flushes, {len(promised)} promised, "
                f"{len(verdict.missing)} lost")

    def round(self, fault):
        self.number += 1
        self.writer_died = False
        directory = self.directory / f"round{self.number}"
        self.active = self.lab.wait_one_promotable()
        before = read_volume(self.lab, self.active)
        writing = Writing(self.lab, self.active, directory, self.rng.randrange(1 << 30))
        writing.wait_answers()
        time.sleep(self.rng.uniform(0.1, 2.0))
        self.strike(fault)
        active = self.serving()
        if fault in ("crash-passive", "power-passive"):
            for host in self.off():
                self.lab.start(host)
            self.lab.wait_promotable(self.active)
        text = self.judge_round(fault, writing, before, active)
        for host in self.off():
            self.lab.start(host)
        assert_equal_stores(self.lab, active)
        fatal = self.lab.fatal()
        assert not fatal, "\n".join(fatal)
        self.figures.rounds += 1
        self.figures.by_fault[fault] = self.figures.by_fault.get(fault, 0) + 1
        shutil.rmtree(directory)
        return f"{self.mode} {fault}, {self.active} was active, {active} is: {text}"


def plan(rounds, modes, faults, rng):
    """[(mode, faults of a block of rounds)]: every fault comes once before any comes again."""
    blocks, left, bag = [], rounds, []
    turn = 0
    size = min(BLOCK_ROUNDS, max(1, -(-rounds // len(modes))))
    while left > 0:
        chosen = []
        for _ in range(min(size, left)):
            if not bag:
                bag = list(faults)
                rng.shuffle(bag)
            chosen.append(bag.pop())
        blocks.append((modes[turn % len(modes)], chosen))
        left -= len(chosen)
        turn += 1
    return blocks


def run_block(make_lab, mode, faults, directory, rng, figures, size="64MiB", say=print):
    """One lab in one mode, and one round for each fault."""
    directory.mkdir()
    lab = make_lab(config=write_pair(directory / "lab.json", mode, size), powerfs=True)
    soak = Soak(lab, mode, directory, rng, figures)
    for fault in faults:
        say(f"{figures.rounds + 1:4d}  {soak.round(fault)}")
    return lab


def parse():
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.split("\n\n")[0],
                                     epilog=__doc__.split("\n\n", 3)[3], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", default=None, help="a number or word; default: of the time")
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--size", default="64MiB", help="of the volume")
    return parser.parse_args()


def main():
    options = parse()
    seed = options.seed or str(int(time.time()))
    rng, figures = random.Random(seed), Figures()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="understudy-soak-", dir="/var/tmp"))
    began, lab = time.monotonic(), None

    def make_lab(**arguments):
        nonlocal lab
        lab = Lab()
        return lab.up(**arguments)

    print(f"seed {seed}", flush=True)
    try:
        blocks = plan(options.rounds, options.mode or MODES, options.fault or FAULTS, rng)
        for number, (mode, faults) in enumerate(blocks):
            run_block(make_lab, mode, faults, directory / str(number), rng, figures, options.size,
                      say=lambda text: print(text, flush=True))
            lab.down()
    except Exception:
        traceback.print_exc()
        if lab:
            print(lab.report())
            print(f"kept: LAB={lab.name}, {directory}")
        print(f"FAILED with seed {seed} in round {figures.rounds + 1}; before it: {figures.line()}")
        return 1
    except KeyboardInterrupt:
        if lab:
            lab.down()
        print("interrupted")
        return 1
    shutil.rmtree(directory)
    print(f"PASSED with seed {seed} in {time.monotonic() - began:.0f} s: {figures.line()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
