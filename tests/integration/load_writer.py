#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes pieces of 64 KiB of random data to random places of a volume at a steady rate, with a flush now and then, until
the file STOP exists; runs inside a host.

    load_writer.py URI RATE SEED STOP PROGRESS

PROGRESS is written anew all the time: bytes written, and bytes of the regions that they lie in; what was answered counts.
"""

import os
import random
import sys
import time

import nbd

PIECE = 64 * 1024
FLUSH_SECONDS = 0.25


def main():
    uri, rate, seed, stop, progress = sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
    rng = random.Random(seed)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    pieces = handle.get_size() // PIECE
    written, places = 0, set()
    began = told = time.monotonic()
    with open(progress, "wb", buffering=0) as file:
        while not os.path.exists(stop):
            place = rng.randrange(pieces)
            handle.pwrite(rng.randbytes(PIECE), place * PIECE)
            written += PIECE
            places.add(place)
            os.pwrite(file.fileno(), b"%15d %15d\n" % (written, len(places) * PIECE), 0)
            now = time.monotonic()
            if now - told > FLUSH_SECONDS:
                handle.flush()
                told = now
            time.sleep(max(0.0, began + written / rate - time.monotonic()))
    handle.flush()
    handle.shutdown()


if __name__ == "__main__":
    main()
