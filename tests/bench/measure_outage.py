# SPDX-License-Identifier: Apache-2.0
"""Measures of what a client misses: a takeover, and the start of a daemon with a full queue."""

import json
import os
import re
import signal
import subprocess
import time

import nbd

import benchlab
from benchlab import wait
import contenders
import load as loads
import measures
from measures import measure
import process

ADDRESS = "192.0.2.10"
# Asks until an answer has come, and prints when. The clock is that of the whole machine.
ASK = f"""
import socket, time
while True:
    try:
        with socket.create_connection(("{ADDRESS}", 80), 0.1) as s:
            s.settimeout(0.5)
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            if s.recv(100).startswith(b"HTTP/"):
                print(time.monotonic())
                break
    except OSError:
        time.sleep(0.005)
"""
SPILLED = {"memory": "136M", "spill": "4G"}


def answered(lab):
    """When a client was answered over HTTP, by CLOCK_MONOTONIC; asks until it is."""
    done = subprocess.run(lab.enter("client", ["/usr/bin/python3", "-ISc", ASK]), stdout=subprocess.PIPE, text=True,
                          timeout=120, check=True)
    return float(done.stdout)


def steps(lab, pair, since):
    """The takeover by step, as the history has it, in ms: how long each took, and when the end changed its state."""
    found = {}
    for event in json.loads(lab.pairctl("secondary", pair, "history", "--json")):
        change = re.match("[a-z ]+ -> [a-z ]+", event["text"])
        if event["time_ms"] < since * 1000:
            continue
        if change:
            found[f"at {change.group(0)} ms"] = event["time_ms"] - since * 1000
        elif event.get("ms") is not None and event["ms"] >= 0:
            found[event["text"] + " ms"] = event["ms"]
    return found


def write_on(pair, size):
    """A writer that has begun, and goes on until it is killed."""
    words = loads.LOADS["write-4k-16"].arguments(size, 600)
    before = pair.status("primary")["positions"]["numbered"]
    writer = subprocess.Popen(["fio", "--name=bench", *pair.target(words), *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait("the writer to begin", lambda: pair.status("primary")["positions"]["numbered"] > before + 100)
    except BaseException:
        writer.kill()
        raise
    return writer


def takeover(bench, mode, busy):
    """From the cut of all cables of the active host, of which everything is killed then, until a client is answered."""
    lab, size = bench.lab, bench.sizes.volume
    with measures.a_pair(bench, mode, size, fill=True) as pair:
        answered(lab)  # the application is known to be there
        writer = None
        if busy:
            writer = write_on(pair, size)
        forecast = lab.status("secondary", pair.pair)["forecast"]
        real = time.time() - time.monotonic()
        try:
            cut = lab.crash("primary")
            seconds = answered(lab) - cut
        finally:
            if writer:
                writer.kill()
                writer.wait()
        return {"seconds": seconds, "forecast_seconds": forecast["takeover_ms"] / 1000,
                **steps(lab, pair.pair, real + cut), "guarantee": pair.PROMISES[mode]}


@measure("takeover", "takeover: from the crash of the active host until a client is answered over HTTP", "seconds",
         ["forecast_seconds"], quick=True)
def measure_takeover(bench):
    parties = {"sync idle": lambda: takeover(bench, "sync", False)}
    if not bench.quick:
        parties["sync 4k writes"] = lambda: takeover(bench, "sync", True)
    return measures.in_turn(bench.sizes.turns_bulk, parties, bench.say)


def reads(path):
    """Whether an export at this socket answers a read."""
    handle = nbd.NBD()
    try:
        handle.set_export_name("disk")
        handle.connect_unix(path)
        handle.pread(4096, 0)
        return True
    except nbd.Error:
        return False


def restarted(bench, name, answers):
    """Kills the daemon, which is started again at once: seconds from its kill, and from its new process' start, until
    it answers; and what it used for that."""
    lab = bench.lab
    before = lab.daemons()[name]
    dead = time.monotonic()
    os.kill(before, signal.SIGKILL)
    pid = wait(f"{name} to be started again",
               lambda: (found := lab.daemons().get(name)) and found != before and found, pause=0.002)
    wait(f"{name} to answer", answers, pause=0.002)
    outage = time.monotonic() - dead
    running = time.clock_gettime(time.CLOCK_BOOTTIME) - process.started(pid)
    return {"seconds": running, "outage_seconds": outage, "cpu_seconds": process.cpu_seconds(pid)}


def start_active(bench, queues):
    """The active end's daemon, with a queue that its absent peer has not taken: until its export answers a read."""
    lab, content = bench.lab, bench.sizes.content
    with measures.a_pair(bench, "sync", content, queues=queues) as pair:
        lab.run("kill", "secondary", "--hold")
        wait("the active end to be alone", lambda: pair.status("primary").get("alone"))
        loads.fio(pair, loads.fill_arguments(content))
        queued = pair.status("primary")["unsafe_queue"]
        found = restarted(bench, "primaryd", lambda: reads(lab.export(pair.pair)))
        found.update(queue_MiB=queued["bytes"] / 2**20, spilled_MiB=queued["spilled_bytes"] / 2**20)
        lab.run("start", "secondary")
        pair.check()
    return {**found, "guarantee": "nothing lost, no resync: what was queued is streamed on"}


def start_passive(bench):
    """The passive end's daemon, with a safe queue of which nothing is applied: until the active end hears it."""
    lab, content = bench.lab, bench.sizes.content
    with measures.a_pair(bench, "sync", content) as pair:
        _, queued = measures.fill_safe_queue(bench, pair, content)
        found = restarted(bench, "secondaryd", lambda: pair.status("secondary").get("peer", {}).get("connected"))
        found["queue_MiB"] = queued / 2**20
        if pair.status("secondary").get("paused"):
            lab.pairctl("secondary", pair.pair, "resume", "--replay")
        pair.check()
    return {**found, "guarantee": "what was confirmed is there"}


def start_nbdkit(bench):
    """An unprotected export, of a file of that size."""
    with measures.a_directory(bench) as work:
        begun = time.monotonic()
        peer = contenders.Nbdkit(work, bench.sizes.content)
        try:
            wait("nbdkit to answer", lambda: reads(peer.socket), pause=0.002)
            return {"seconds": time.monotonic() - begun, "guarantee": peer.guarantee()}
        finally:
            peer.close()


@measure("start", "start of a killed daemon with a full queue, until it answers", "seconds",
         ["outage_seconds", "cpu_seconds", "queue_MiB", "spilled_MiB"])
def measure_start(bench):
    memory = {"memory": bench.sizes.content * 5 // 2 + (136 << 20), "spill": 0}
    return measures.in_turn(bench.sizes.turns_bulk, {
        "nbdkit": lambda: start_nbdkit(bench),
        "active, queue in memory": lambda: start_active(bench, memory),
        "active, queue spilled": lambda: start_active(bench, SPILLED),
        "passive": lambda: start_passive(bench)}, bench.say)
