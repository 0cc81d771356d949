# SPDX-License-Identifier: Apache-2.0
"""Measures of much data at once: the first mirror, coming back after changes, the replay of a safe queue; each beside
nbdcopy of as much data from one nbdkit to another."""

import os
import subprocess
import time

import benchlab
from benchlab import wait
import contenders
import load as loads
import measures
from measures import measure

NBDCOPY = "one copy becomes two, once; nothing is followed afterwards"
PIECES = "--rw=randwrite --bs=65536 --iodepth=4 --randrepeat=0 --refill_buffers --end_fsync=1"


def nbdcopy(bench, image, size, content):
    """One run of nbdcopy of the image."""
    with measures.a_directory(bench) as work:
        peer = contenders.Contender("nbdcopy", work, size)
        try:
            source, target = peer.nbdkit("source", image), peer.nbdkit("target", peer.file("copy"))
            start = time.monotonic()
            subprocess.run(["nbdcopy", "--flush", f"nbd+unix:///?socket={source}", f"nbd+unix:///?socket={target}"],
                           check=True)
            seconds = time.monotonic() - start
            contenders.compare("nbdcopy", image, os.path.join(peer.work, "copy"))
        finally:
            peer.close()
    return {"MB_s": content / seconds / 1e6, "seconds": seconds, "guarantee": NBDCOPY}


def first_mirror(bench, image, size, content):
    """From the mirror's begin until it is synchronized."""
    lab = bench.lab
    with measures.a_directory(bench) as work:
        benchlab.write_pair(work, benchlab.pair_of_lab("pair", "sync", size, whole=True))
        try:
            lab.up(work, "--image", image, "--no-wait")

            def begun():
                status = lab.status("primary", "pair")
                return status.get("resync", {}).get("active") or status.get("synchronized")
            wait("the mirror to begin", begun, pause=0.002)
            start = time.monotonic()
            wait("the mirror to end", lambda: lab.status("primary", "pair").get("synchronized"), pause=0.025,
                 seconds=900)
            seconds, wire = time.monotonic() - start, lab.wire_bytes()
            pair = contenders.Pair("pair", work, size, lab, "pair", "sync")
            pair.check()
            return {"MB_s": content / seconds / 1e6, "seconds": seconds, "wire_per_byte": wire / content,
                    "guarantee": "durable in the safe queue, applied; followed from here on"}
        finally:
            lab.down()


@measure("mirror", "first mirror of a mostly empty volume", "MB_s", ["seconds", "wire_per_byte"], ["nbdcopy"],
         quick=True)
def measure_mirror(bench):
    size, content = bench.sizes.bulk, bench.sizes.content
    with measures.an_image(bench, size, content) as image:
        return measures.in_turn(bench.sizes.turns_bulk, {
            "nbdcopy": lambda: nbdcopy(bench, image, size, content),
            "pair": lambda: first_mirror(bench, image, size, content)}, bench.say)


def write_pieces(pair, size, volume):
    """So many bytes in pieces of 64 KiB, each at another place."""
    loads.fio(pair, [*PIECES.split(), f"--size={size}", f"--io_size={volume}"])


def away(bench, pair, reboot):
    """The passive daemon is held; changes are written; with `reboot` the active host then loses its unsafe queue."""
    lab, size, changed = bench.lab, bench.sizes.bulk, bench.sizes.changed
    lab.run("kill", "secondary", "--hold")
    wait("the active end to be alone", lambda: pair.status("primary").get("alone"))
    write_pieces(pair, size, changed)
    if reboot:
        lab.run("crash", "primary")
        lab.run("start", "primary")
        wait("the active end to serve again", lambda: pair.status("primary").get("role") == "active"
             and os.path.exists(lab.export(pair.pair)))


def come_back(bench, image, reboot):
    """Seconds and bytes from the start of the passive daemon until the pair is synchronized."""
    lab, changed = bench.lab, bench.sizes.changed
    with measures.a_pair(bench, "sync", bench.sizes.bulk, image=image) as pair:
        away(bench, pair, reboot)
        before, start = lab.wire_bytes(), time.monotonic()
        lab.run("start", "secondary")
        wait("the ends to meet", lambda: pair.status("secondary").get("peer", {}).get("connected"), pause=0.002)
        met = time.monotonic()
        wait("the resync to end", lambda: pair.status("primary").get("synchronized") and pair.status("secondary").get(
            "synchronized"), pause=0.002, seconds=900)
        seconds = time.monotonic() - met
        pair.ready()
        promotable, wire = time.monotonic() - met, lab.wire_bytes() - before
        pair.check()
    return {"MB_s": changed / seconds / 1e6, "seconds": seconds, "wire_per_byte": wire / changed,
            "promotable_seconds": promotable, "start_seconds": met - start,
            "guarantee": "the replica is promotable again, and equal"}


@measure("resync", "the passive end comes back after random changes in 64 KiB pieces", "MB_s",
         ["seconds", "wire_per_byte", "promotable_seconds", "start_seconds"], ["nbdcopy"])
def measure_resync(bench):
    """Beside nbdcopy of all that the volume holds, which is what has to be done where nobody knows what has changed.
    Its rate counts all that it has copied."""
    size, content = bench.sizes.bulk, bench.sizes.content
    with measures.an_image(bench, size, content) as image:
        return measures.in_turn(bench.sizes.turns_bulk, {
            "nbdcopy": lambda: nbdcopy(bench, image, size, content),
            "by map": lambda: come_back(bench, image, True),
            "by queue": lambda: come_back(bench, image, False)}, bench.say)


def replay(bench, content):
    """Seconds from `resume --replay` until a safe queue of so many bytes is applied."""
    lab = bench.lab
    with measures.a_pair(bench, "sync", content) as pair:
        numbered, queued = measures.fill_safe_queue(bench, pair, content)
        start = time.monotonic()
        lab.pairctl("secondary", pair.pair, "resume", "--replay")
        wait("the replay to end", lambda: pair.status("secondary").get("positions", {}).get("applied", 0) >= numbered,
             pause=0.002)
        seconds = time.monotonic() - start
        pair.check()
    return {"MB_s": content / seconds / 1e6, "seconds": seconds, "queue_MiB": queued / 2**20,
            "guarantee": "a valid state at each instant; equal at the end"}


@measure("replay", "replay of a full safe queue", "MB_s", ["seconds", "queue_MiB"], ["nbdcopy"])
def measure_replay(bench):
    content = bench.sizes.content
    with measures.an_image(bench, content, content) as image:
        return measures.in_turn(bench.sizes.turns_bulk, {
            "nbdcopy": lambda: nbdcopy(bench, image, content, content),
            "pair": lambda: replay(bench, content)}, bench.say)
