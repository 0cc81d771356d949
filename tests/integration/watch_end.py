#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""Runs inside a host of the lab and writes down, with the time of each change, what can be seen there of an end:

    watch_end.py ADDRESS CGROUP FILE

One line a change: "SECONDS address on|off" or "SECONDS frozen on|off" (CLOCK_MONOTONIC, the same in all hosts). Looks
every 2 ms; what is written is when the change was seen, so "off" is never too early.
"""

import ctypes
import os
import socket
import sys
import time


def has_address(probe, address):
    """A socket can be bound to an address only where it is."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
        return True
    except OSError:
        return False


def is_frozen(cgroup):
    try:
        with open(os.path.join(cgroup, "cgroup.events")) as events:
            return "frozen 1" in events.read()
    except OSError:
        return False


def main():
    address, cgroup, path = sys.argv[1:4]
    ctypes.CDLL(None).prctl(1, 9)  # ends with whoever started it
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))  # what is seen is seen at once, on a busy machine too
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    seen = {}
    while True:
        for what, now in (("address", has_address(None, address)), ("frozen", is_frozen(cgroup))):
            if seen.get(what) != now:
                seen[what] = now
                os.write(out, f"{time.monotonic():.6f} {what} {'on' if now else 'off'}\n".encode())
        time.sleep(0.002)


if __name__ == "__main__":
    main()
