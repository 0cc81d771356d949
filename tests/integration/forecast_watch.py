#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Asks this host's end for its forecast over and over and writes a line "NS BYTES" to FILE for each answer: the moment
of the question (CLOCK_MONOTONIC), and what a takeover would lose.

    forecast_watch.py FILE
"""

import json
import subprocess
import sys
import time

PAUSE_SECONDS = 0.05


def main():
    with open(sys.argv[1], "w", buffering=1) as file:
        while True:
            asked = time.monotonic_ns()
            done = subprocess.run(["pairctl", "status", "--json"], stdout=subprocess.PIPE, check=False)
            if done.returncode == 0:
                file.write(f"{asked} {json.loads(done.stdout)['forecast']['loss_bytes']}\n")
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
