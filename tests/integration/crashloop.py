# SPDX-License-Identifier: Apache-2.0
"""What the crash tests share: a writer in the active host, crashes, and the judgement of what the other host has."""

import errno
import filecmp
import os
import random
import time

from blockledger import Ledger, judge
from labs import HERE, PEER, PUBLIC_ADDRESS

PYTHON = "/usr/bin/python3"
REGION = 32 << 20
WHOLE_MAX = 128 << 20
RATE, WARM = 4 << 20, 16 << 20  # of a steady load: bytes a second, and bytes until it counts as one
FORECAST_SECONDS = 1.0
FORECAST_AGE_NS = 100_000_000  # a forecast may be that old when it is told


class Writing:
    """A ledger_writer.py in a host."""

    def __init__(self, lab, host, directory, seed, rate=0, region=REGION):
        self.lab = lab
        self.nonce = random.Random(f"{directory} {time.monotonic_ns()}").randbytes(8)
        self.log, self.stop_file, self.output = (str(directory / name) for name in ("log", "stop", "output"))
        directory.mkdir()
        with open(self.output, "w") as output:
            self.process = lab.popen(host, PYTHON, "-B", os.path.join(HERE, "ledger_writer.py"), lab.uri(host), self.log,
                                     self.nonce.hex(), self.stop_file, "--seed", seed, "--rate", rate, "--region", region,
                                     stdout=output, stderr=output)

    def said(self):
        with open(self.output) as file:
            return file.read()

    def ledger(self):
        return Ledger.read(self.log, self.nonce)

    def wait_answers(self, count=200):
        """Until so many writes were answered."""
        def good():
            assert self.process.poll() is None, f"the writer ended by itself: {self.said()}"
            return os.path.exists(self.log) and len(self.ledger().answered()) >= count
        self.lab.wait_until(good, f"{count} answered writes")

    def stop(self):
        """Ends it in order: everything answered and flushed."""
        with open(self.stop_file, "w"):
            pass
        assert self.process.wait(timeout=120) == 0, f"the writer failed: {self.said()}"
        return self.ledger()

    def after_crash(self):
        self.process.wait(timeout=60)
        ledger = self.ledger()
        assert ledger.failed == 0, f"a request failed before the crash: {self.said()}"
        assert ledger.reconnects == 0, "the connection was lost before the crash"
        return ledger


class SteadyLoad:
    """A load_writer.py in a host."""

    def __init__(self, lab, host, directory, seed, rate=RATE):
        self.stop_file, self.progress = (directory / f"{name}-{seed}" for name in ("stop", "progress"))
        self.process = lab.popen(host, PYTHON, "-B", os.path.join(HERE, "load_writer.py"), lab.uri(host), rate, seed, self.stop_file,
                                 self.progress)
        lab.wait_until(lambda: self.written() > WARM, "load")

    def written(self):
        """Bytes that were answered."""
        try:
            return int(self.progress.read_text().split()[0])
        except (OSError, IndexError):
            return 0

    def stop(self):
        self.stop_file.touch()
        assert self.process.wait(timeout=120) == 0
        return self.written()


def read_volume(lab, host):
    """What the store holds. Of a large one only the region that the writer uses: behind it everything has to be zero."""
    with open(lab.store(host), "rb") as file:
        if os.fstat(file.fileno()).st_size <= WHOLE_MAX:
            return file.read()
        try:
            file.seek(os.lseek(file.fileno(), REGION, os.SEEK_DATA))
        except OSError as error:
            assert error.errno == errno.ENXIO, error
        else:
            assert not file.read().strip(b"\0"), f"{lab.store(host)} has data where nothing was written"
        file.seek(0)
        return file.read(REGION)


def assert_equal_stores(lab, active):
    """Both ends are quiet and byte for byte the same."""
    lab.wait_settled(active)
    paths = [lab.store(host) for host in PEER]
    filecmp.clear_cache()
    assert filecmp.cmp(*paths, shallow=False), f"the stores differ: cmp {paths[0]} {paths[1]}"


class HttpWatch:
    """A client that asks the public address all along."""

    def __init__(self, lab, directory):
        self.lab, self.path = lab, str(directory / "http")
        self.process = lab.popen("client", PYTHON, "-B", os.path.join(HERE, "http_watch.py"), PUBLIC_ADDRESS, self.path)

    def answers(self):
        if not os.path.exists(self.path):
            return []
        with open(self.path) as file:
            lines = [line.split() for line in file if line.endswith("\n")]
        return [(float(moment), host) for moment, host in lines]

    def wait_answer(self, host, after=0.0):
        """The moment of the first answer of this host after that moment."""
        def first():
            return next((moment for moment, name in self.answers() if moment > after and name == host), None)
        return self.lab.wait_until(first, f"HTTP from {host} at the public address")


class ForecastWatch:
    def __init__(self, lab, host, directory):
        self.path = str(directory / "forecast")
        self.process = lab.popen(host, PYTHON, "-B", os.path.join(HERE, "forecast_watch.py"), self.path)

    def bound(self, ledger):
        """The most that may be missing: the largest forecast of the last second, and what was written since."""
        with open(self.path) as file:
            polls = [tuple(map(int, line.split())) for line in file if line.endswith("\n")]
        recent = [(loss, asked) for asked, loss in polls if asked >= ledger.last_ns - FORECAST_SECONDS * 1e9]
        # Where this machine was too busy to ask within that second, the last answer counts, and what was written since.
        loss, asked = max(recent) if recent else polls[-1][::-1]
        return loss + ledger.sent_bytes_since(asked - FORECAST_AGE_NS)


def taken_over(lab, passive, http, moment):
    """The moment of the first answer of the passive host; None: it had no grant at the crash, or was held up until that was
    over, and so did not take over. For either it is enough that this machine is very busy."""
    def outcome():
        answer = next((at for at, name in http.answers() if at > moment and name == passive), None)
        status = lab.status(passive)
        stale = status.get("state") == "passive" and status["stale_ms"] is not None
        return answer or (stale and "stale")
    found = lab.wait_until(outcome, f"HTTP from {passive} at the public address")
    return None if found == "stale" else found


def crash_round(lab, mode, active, directory, http, rng, power=False, rate=0, poll=False):
    """One crash of the active host while it is written to, and all that is promised for it; returns the new active."""
    for attempt in range(3):
        after = crash_once(lab, mode, active, directory.with_name(f"{directory.name}.{attempt}"), http, rng, power, rate, poll)
        if after:
            return after
        lab.start(active)
        active = lab.wait_one_promotable()
    raise AssertionError("three times there was no grant when the host died: see the histories")


def crash_once(lab, mode, active, directory, http, rng, power, rate, poll):
    directory.mkdir()
    passive = PEER[active]
    before = read_volume(lab, active)
    writing = Writing(lab, active, directory / "writer", rng.randrange(1 << 30), rate)
    forecast = ForecastWatch(lab, active, directory) if poll else None
    writing.wait_answers()
    time.sleep(rng.uniform(0.2, 2.5))
    lab.wait_promotable(active)
    torn = rng.random() < 0.5
    moment = lab.crash(active, power, torn)
    answer = taken_over(lab, passive, http, moment)
    if answer is None:
        print(f"{mode}: no grant at the crash of {active}: once more", flush=True)
        writing.process.wait(timeout=60)
        return None
    seconds = answer - moment
    ledger = writing.after_crash()
    lab.wait_active(passive)
    promised = ledger.promised(mode)
    verdict = judge(ledger, before, read_volume(lab, passive), promised)
    print(f"{mode}: crash {active}{' with power' if power else ''}{', torn' if power and torn else ''}: HTTP after {seconds:.2f} s; "
          f"{len(ledger.writes)} writes sent, {len(ledger.answered())} answered, {ledger.flushes} flushes, "
          f"{len(promised)} promised, {len(verdict.missing)} missing ({verdict.missing_bytes()} bytes)", flush=True)
    assert verdict, "\n".join(verdict.errors)
    if forecast:
        bound = forecast.bound(ledger)
        print(f"{mode}: at most {bound} bytes were to be lost", flush=True)
        assert verdict.missing_bytes() <= bound
    lab.start(active)
    assert_equal_stores(lab, passive)
    return passive
