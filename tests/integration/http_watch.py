#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Asks http://ADDRESS/ over and over and writes a line "SECONDS HOST" (CLOCK_MONOTONIC) to FILE for each answer.

    http_watch.py ADDRESS FILE
"""

import socket
import sys
import time

ANSWER_SECONDS, PAUSE_SECONDS = 0.1, 0.01


def ask(address):
    """The name of the host that answered, or None."""
    try:
        with socket.create_connection((address, 80), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while data := connection.recv(4096):
                answer += data
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body.decode().strip() if head.startswith(b"HTTP/1.") and b" 200 " in head.split(b"\r\n")[0] else None


def main():
    address, path = sys.argv[1:]
    with open(path, "w", buffering=1) as file:
        while True:
            host = ask(address)
            if host:
                file.write(f"{time.monotonic():.3f} {host}\n")
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
