#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes numbered blocks to a volume over NBD and logs each event; what blockledger.py judges. Runs inside a host.

    ledger_writer.py URI LOG NONCE STOP [--region BYTES] [--hot BYTES] [--rate BYTES] [--seed N] [--depth N]

Several requests are in flight, on two connections; some are flushes, some FUA, some zeroings (writes of zeros, discards),
and most writes fall into a small hot region, where they overlap on purpose; only zeroings are kept apart, as the judge
demands. A lost connection is made again, and what was not answered is sent again, as a
guest's block driver does. When the file STOP exists, everything is answered, flushed and ended with status 0.
"""

import argparse
import errno
import functools
import mmap
import os
import random
import select
import time

import nbd

from blockledger import (BLOCK_BYTES, EVENT, FAILED, FLUSH, FLUSHED, FUA, RECONNECTED, TRIM, WRITE, WRITTEN, ZERO, stamp)

LOG_BYTES = EVENT.size << 21
FLUSH_SHARE, FUA_SHARE, ZERO_SHARE, TRIM_SHARE = 0.02, 0.04, 0.03, 0.02
PLACE_TRIES = 4
CONNECTIONS = 2
CONNECT_SECONDS = 120.0


class Log:
    def __init__(self, path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.ftruncate(fd, LOG_BYTES)
        self.map = mmap.mmap(fd, LOG_BYTES)
        self.at = 0
        os.close(fd)

    def add(self, kind, number=0, block=0, blocks=0, flags=0):
        EVENT.pack_into(self.map, self.at, time.monotonic_ns(), number, block, blocks, flags, kind)
        self.at += EVENT.size

    def full(self):
        return self.at + EVENT.size * 4096 > LOG_BYTES


class Writer:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.nonce = bytes.fromhex(options.nonce)
        self.log = Log(options.log)
        self.handles = [None] * CONNECTIONS
        self.pending = [{} for _ in range(CONNECTIONS)]  # number: (kind, block, blocks, flags), in the order of sending
        self.number = 0
        self.sent_bytes = 0
        self.failed = 0

    def connect(self, which, seconds=CONNECT_SECONDS):
        end = time.monotonic() + seconds
        while True:
            handle = nbd.NBD()
            try:
                handle.connect_uri(self.options.uri)
                self.handles[which] = handle
                return
            except nbd.Error:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def submit(self, which, number):
        """Sends (again) what is pending under this number."""
        kind, block, blocks, flags = self.pending[which][number]
        handle = self.handles[which]

        def answered(error, pending=self.pending[which]):
            if handle is not self.handles[which]:
                return 1  # of a connection that has been given up
            if error.value:
                if error.value != errno.ENOTCONN:  # that is libnbd's own word for a lost connection
                    self.log.add(FAILED, number)
                    self.failed = error.value
                return 1
            del pending[number]
            self.log.add(WRITTEN if kind == WRITE else FLUSHED, number)
            return 1
        if kind == FLUSH:
            handle.aio_flush(completion=answered)
            return
        at, size, fua = block * BLOCK_BYTES, blocks * BLOCK_BYTES, nbd.CMD_FLAG_FUA if flags & FUA else 0
        if flags & TRIM:
            handle.aio_trim(size, at, completion=answered, flags=fua)
        elif flags & ZERO:
            handle.aio_zero(size, at, completion=answered, flags=fua)
        else:
            data = b"".join(stamp(self.nonce, number, block + i) for i in range(blocks))
            handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at, completion=answered, flags=fua)

    def apart(self, flags, block, blocks):
        """Whether nothing in flight overlaps that must not: a zeroing anything, anything a zeroing."""
        return not any(kind == WRITE and (flags | other) & (ZERO | TRIM) and block < at + count and at < block + blocks
                       for pending in self.pending for kind, at, count, other in pending.values())

    def new_request(self):
        chance = self.random.random
        if chance() < FLUSH_SHARE:
            return FLUSH, 0, 0, 0
        flags = FUA if chance() < FUA_SHARE else 0
        kind = chance()
        flags |= ZERO if kind < ZERO_SHARE else TRIM if kind < ZERO_SHARE + TRIM_SHARE else 0
        blocks = self.random.choice((1, 1, 1, 2, 3, 4, 8, 16))
        region = self.options.hot if chance() < 0.6 else self.options.region
        for _ in range(PLACE_TRIES):
            block = self.random.randrange(region // BLOCK_BYTES - blocks + 1)
            if self.apart(flags, block, blocks):
                return WRITE, block, blocks, flags
        return FLUSH, 0, 0, 0

    def send_one(self, which):
        self.number += 1
        request = self.new_request()
        kind, block, blocks, flags = request
        self.pending[which][self.number] = request
        self.log.add(kind, self.number, block, blocks, flags)
        self.sent_bytes += blocks * BLOCK_BYTES
        self.submit(which, self.number)

    def interest(self, which):
        """What a connection waits for: its file descriptor, events."""
        handle = self.handles[which]
        direction = handle.aio_get_direction()
        events = select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0
        events |= select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0
        return handle.aio_get_fd(), events

    def lost(self, which):
        return self.handles[which].aio_is_dead() or self.handles[which].aio_is_closed()

    def send_again(self, which):
        for number in sorted(self.pending[which]):
            self.submit(which, number)

    def guarded(self, which, function):
        """Does something with a connection; when it is lost, makes a new one and sends again what was not answered."""
        while True:
            try:
                function()
            except nbd.Error:
                if not self.lost(which):
                    raise
            if not self.lost(which):
                return
            self.log.add(RECONNECTED)
            self.connect(which)
            function = functools.partial(self.send_again, which)

    def fill(self, which):
        depth = self.options.depth // CONNECTIONS
        while len(self.pending[which]) < depth and not self.held():
            self.send_one(which)

    def held(self):
        """Too fast, or too much for the log."""
        rate = self.options.rate
        return self.log.full() or (rate and self.sent_bytes > rate * (time.monotonic() - self.started))

    def wait(self, milliseconds):
        poller, found = select.poll(), {}
        for which in range(CONNECTIONS):
            fd, events = self.interest(which)
            poller.register(fd, events)
            found[fd] = which
        for fd, events in poller.poll(milliseconds):
            which = found[fd]
            handle = self.handles[which]
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self.guarded(which, handle.aio_notify_read)
            elif events & select.POLLOUT:
                self.guarded(which, handle.aio_notify_write)

    def run(self):
        for which in range(CONNECTIONS):
            self.connect(which)
        self.started = time.monotonic()
        look = self.started
        while True:
            for which in range(CONNECTIONS):
                self.guarded(which, lambda: self.fill(which))
            self.wait(5)
            if self.failed:
                raise SystemExit(f"a request was answered with error {os.strerror(self.failed)}")
            if time.monotonic() > look:
                if os.path.exists(self.options.stop):
                    break
                look = time.monotonic() + 0.05
        self.drain()

    def drain(self):
        while any(self.pending):
            self.wait(100)
        self.number += 1
        self.pending[0][self.number] = (FLUSH, 0, 0, 0)
        self.log.add(FLUSH, self.number)
        self.guarded(0, lambda: self.submit(0, self.number))
        while any(self.pending):
            self.wait(100)


def main():
    parser = argparse.ArgumentParser()
    for name in ("uri", "log", "nonce", "stop"):
        parser.add_argument(name)
    parser.add_argument("--region", type=int, default=32 << 20)
    parser.add_argument("--hot", type=int, default=1 << 20)
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", type=int, default=16)
    Writer(parser.parse_args()).run()


if __name__ == "__main__":
    main()
