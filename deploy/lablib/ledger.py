#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""Clients of the guest's service, and their ledger of what was acknowledged to them.

    ledger.py ADDRESS FILE [WRITERS]

Each writer appends numbered records, one after another, with numbers that nobody else uses. FILE gets "try N" before a
record is sent, and "ack N SECONDS" (CLOCK_MONOTONIC) after it was acknowledged. A record whose answer does not come is
left in doubt and never tried again. Ends on SIGTERM.

Imported, it reads such a file and holds it against what the guest has.
"""

import http.client
import itertools
import os
import signal
import sys
import threading
import time

ANSWER_SECONDS = 1.0
PAUSE_SECONDS = 0.05  # after a failure


class Writer(threading.Thread):
    def __init__(self, address, out, numbers):
        super().__init__(daemon=True)
        self.address, self.out, self.numbers = address, out, numbers
        self.connection = None

    def append(self, number):
        """True when the service has acknowledged it."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address, timeout=ANSWER_SECONDS)
            self.connection.request("POST", f"/append?n={number}")
            response = self.connection.getresponse()
            response.read()
            return response.status == 200
        except (OSError, http.client.HTTPException):
            if self.connection:
                self.connection.close()
            self.connection = None
            return False

    def run(self):
        while True:
            number = next(self.numbers)
            os.write(self.out, f"try {number}\n".encode())
            if self.append(number):
                os.write(self.out, f"ack {number} {time.monotonic():.6f}\n".encode())
            else:
                time.sleep(PAUSE_SECONDS)


class Ledger:
    """What FILE says: `tried` numbers, and `acked` {number: time}."""

    def __init__(self, path):
        self.tried, self.acked = set(), {}
        with open(path) as file:
            for line in file:
                words = line.split()
                if not line.endswith("\n"):
                    break
                if words[0] == "try":
                    self.tried.add(int(words[1]))
                else:
                    self.acked[int(words[1])] = float(words[2])

    def missing(self, records):
        """Acknowledged, but not there."""
        return sorted(set(self.acked) - set(records))

    def invented(self, records):
        """There, but never sent; or there twice."""
        return sorted(set(records) - self.tried) + (["twice"] if len(records) != len(set(records)) else [])

    def first_after(self, moment):
        """When the first record was acknowledged after that moment; None when none was."""
        return min((at for at in self.acked.values() if at > moment), default=None)

    def last_before(self, moment):
        return max((at for at in self.acked.values() if at <= moment), default=None)


def main():
    address, path = sys.argv[1:3]
    writers = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    numbers = itertools.count(1)  # next() of it is atomic
    for _ in range(writers):
        Writer(address, out, numbers).start()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
