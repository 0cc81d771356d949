#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes pieces of 64 KiB of random data to random places of a volume over NBD, flushes, and ends. Runs inside a host.

    piece_writer.py URI COUNT SEED
"""

import random
import sys

import nbd

PIECE = 64 * 1024


def main():
    uri, count, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    rng = random.Random(seed)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    places = rng.sample(range(handle.get_size() // PIECE), count)
    for place in places:
        handle.pwrite(rng.randbytes(PIECE), place * PIECE)
    handle.flush()
    handle.shutdown()


if __name__ == "__main__":
    main()
