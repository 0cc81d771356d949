# SPDX-License-Identifier: Apache-2.0
"""Measures of a whole pair: first mirror (beside nbdcopy), what it uses when idle, and takeover."""

import os
import shutil
import subprocess
import time

import benchlab
import contenders
import process

PORT = 7790
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


def make_image(path, size, content):
    """A sparse file whose first `content` bytes are random, written in small pieces."""
    with open(path, "wb", buffering=0) as out:
        for _ in range(content >> 15):
            out.write(os.urandom(1 << 15))
        out.truncate(size)
        os.fsync(out.fileno())


def first_mirror(lab, work, size, image):
    """Brings the pair up with the image; seconds from the mirror's begin until it is synchronized."""
    directory = os.path.join(work, "whole")
    os.makedirs(directory, exist_ok=True)
    benchlab.write_pair(directory, "whole", "sync", size, PORT, whole=True)
    lab.up(directory, "--image", image, "--no-wait")

    def begun():
        status = lab.status("primary", "whole")
        return time.monotonic() if status.get("resync", {}).get("active") or status.get("synchronized") else None
    start = contenders.wait("the mirror to begin", begun, pause=0.002)
    contenders.wait("the mirror to end", lambda: lab.status("primary", "whole").get("synchronized"), pause=0.005)
    end = time.monotonic()
    contenders.wait("the grant", lambda: lab.status("secondary", "whole").get("granted"))
    return end - start


def nbdcopy(work, size, image):
    """Seconds for the same data with nbdcopy, from one nbdkit to another."""
    peer = contenders.Contender("nbdcopy", work, size)
    try:
        source, target = peer.nbdkit("source", image), peer.nbdkit("target", peer.file("copy"))
        start = time.monotonic()
        subprocess.run(["nbdcopy", "--flush", f"nbd+unix:///?socket={source}", f"nbd+unix:///?socket={target}"],
                       check=True)
        return time.monotonic() - start
    finally:
        peer.close()
        shutil.rmtree(peer.work)


def idle(lab, seconds):
    """{process: {cpu_percent, rss, pss}} of a pair that nobody writes to."""
    pids = lab.daemons(("primaryd", "secondaryd", "understudy-gua", "guard"))
    meter = process.Meter(pids)
    time.sleep(seconds)
    used = meter.read()
    return {name: {"cpu_percent": used[name] / seconds * 100, **process.memory(pid)} for name, pid in pids.items()}


def takeover(lab):
    """Seconds from the crash of the active host until a client is answered, and what the pair said of it."""
    forecast = lab.status("secondary", "whole")["forecast"]
    # One answer beforehand: the application is known to be there.
    before = subprocess.run(lab.enter("client", ["/usr/bin/python3", "-ISc", ASK]), stdout=subprocess.PIPE, text=True,
                            timeout=60, check=True)
    assert before.stdout
    start = time.monotonic()
    lab.run("crash", "primary")
    down = time.monotonic()
    after = subprocess.run(lab.enter("client", ["/usr/bin/python3", "-ISc", ASK]), stdout=subprocess.PIPE, text=True,
                           timeout=60, check=True)
    last = lab.status("secondary", "whole").get("last_event", {})
    return {"seconds": float(after.stdout) - start, "crash_seconds": down - start,
            "forecast_ms": forecast["takeover_ms"], "last_event": last}


def measure(lab, work, options, say):
    """Everything of this file: {"mirror": [...], "nbdcopy": [...], "idle": {...}, "takeover": [...]}."""
    content, size = options.content << 20, options.mirror << 20
    image = os.path.join(work, "content.img")
    make_image(image, size, content)
    found = {"content_bytes": content, "volume_bytes": size, "mirror": [], "nbdcopy": [], "takeover": []}
    for turn in range(options.turns_whole):
        found["nbdcopy"].append(nbdcopy(work, size, image))
        found["mirror"].append(first_mirror(lab, work, size, image))
        try:
            if turn == 0:
                found["idle"] = idle(lab, options.idle)
            found["takeover"].append(takeover(lab))
        finally:
            lab.down()
        say(f"  mirror {found['mirror'][-1]:.2f} s, nbdcopy {found['nbdcopy'][-1]:.2f} s, "
            f"takeover {found['takeover'][-1]['seconds']:.2f} s")
    os.unlink(image)
    return found
