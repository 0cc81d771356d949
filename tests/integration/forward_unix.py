#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""Connects standard input and output with a unix socket: what QEMU runs for each connection of a guest to a port.

    forward_unix.py PATH
"""

import os
import socket
import sys
import threading


def pump(read, write, end):
    while data := read(1 << 18):
        write(data)
    end()


def write_all(data):
    while data:
        data = data[os.write(1, data):]


def main():
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(sys.argv[1])
        threading.Thread(target=pump, daemon=True, args=(lambda size: os.read(0, size), server.sendall,
                                                         lambda: server.shutdown(socket.SHUT_WR))).start()
        pump(server.recv, write_all, lambda: None)


if __name__ == "__main__":
    main()
