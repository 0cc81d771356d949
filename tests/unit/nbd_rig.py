# SPDX-License-Identifier: Apache-2.0
"""What the tests of the NBD server share: the server as a process, and a client that says exactly what it is told."""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile

SERVER = os.path.abspath("nbd_server")
LIMIT_S = 120
MIB = 1 << 20

OPTION, ANSWER, REQUEST = 0x49484156454F5054, 0x3E889045565A9, 0x25609513
SIMPLE, CHUNK = 0x67446698, 0x668E33EF
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META = 1, 2, 3, 5, 6, 7, 8, 9, 10
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, BLOCK_STATUS = range(8)
ACK, POLICY, INVALID, UNKNOWN, UNSUP, TOO_BIG = 1, 0x80000002, 0x80000003, 0x80000006, 0x80000001, 0x80000009
EIO, EINVAL, ENOSPC, ENOTSUP = 5, 22, 28, 95


class Server:
    """nbd_server over new files of `size` bytes, called disk, disk1, ..."""

    def __init__(self, size=64 * MIB, volumes=1, directory=None, **options):
        self.temporary = None if directory else tempfile.TemporaryDirectory()
        self.directory = directory or self.temporary.name
        self.files = [os.path.join(self.directory, "disk" + (str(i) if i else "")) for i in range(volumes)]
        for path in self.files:
            if not os.path.exists(path):
                with open(path, "wb") as f:
                    f.truncate(size)
        self.size, self.file = size, self.files[0]
        self.socket = self.file + ".nbd"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.notes = []
        # In the order in which the program wants them.
        order = ["align", "ring", "peer", "refuse", "fast_zero"]
        arguments = [f"{name}={options[name]}" for name in order if name in options]
        self.process = subprocess.Popen(
            [SERVER, *arguments, self.directory, *self.files],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.buffer = b""
        try:
            self.answer()
        except EOFError:
            self.process.wait()
            self.process.stdout.close()
            self.process.stdin.close()
            raise

    def line(self):
        while b"\n" not in self.buffer:
            if not select.select([self.process.stdout], [], [], LIMIT_S)[0]:
                raise TimeoutError("the server says nothing")
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                raise EOFError("the server has ended: " + "".join(self.notes[-1:]))
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def answer(self):
        while True:
            line = self.line()
            if line.startswith("="):
                return line[1:].strip()
            self.notes.append(line)

    def __call__(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()

    def stat(self):
        return json.loads(self("stat"))

    def until(self, true):
        """Waits for true(stat); returns that stat."""
        poll = select.poll()
        for _ in range(LIMIT_S * 50):
            stat = self.stat()
            if true(stat):
                return stat
            poll.poll(20)
        raise TimeoutError(str(stat))

    def until_noted(self, text):
        self.until(lambda stat: any(text in note for note in self.notes))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            status = self.process.wait(LIMIT_S)
            assert status == 0, f"the server has ended with {status}"
        self.process.stdout.close()
        self.process.stdin.close()
        if self.temporary:
            self.temporary.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Raw:
    """A client of few words. Without `export` it stops in front of the options."""

    def __init__(self, server, export=b"", structured=False, meta=False, flags=3, greet=True, path=None):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(path or server.socket)
        if not greet:
            return
        self.greeting = self.take(18)
        self.send(struct.pack(">I", flags))
        if export is None:
            return
        if structured:
            assert self.option(STRUCTURED)[0][0] == ACK
        if meta:
            query = struct.pack(">I", len(export)) + export + struct.pack(">II", 1, 15) + b"base:allocation"
            assert [r[0] for r in self.option(SET_META, query)] == [4, ACK]
        self.go = self.option(GO, struct.pack(">I", len(export)) + export + struct.pack(">H", 0))

    def send(self, data):
        self.socket.sendall(data)

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def at_end(self):
        """Whether the server closes, as far as it has said everything."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def option(self, option, data=b""):
        """Returns the answers, the last one included, as (type, data)."""
        self.send(struct.pack(">QII", OPTION, option, len(data)) + data)
        answers = []
        while not answers or (answers[-1][0] != ACK and not answers[-1][0] & 0x80000000):
            magic, which, kind, size = struct.unpack(">QIII", self.take(20))
            assert (magic, which) == (ANSWER, option)
            answers.append((kind, self.take(size)))
        return answers

    @staticmethod
    def request(command, cookie=1, offset=0, length=0, flags=0, magic=REQUEST):
        return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)

    def ask(self, *args, payload=b"", **kwargs):
        self.send(self.request(*args, **kwargs) + payload)

    def simple(self):
        """The next answer, a simple one without data: (cookie, error)."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == SIMPLE, hex(magic)
        return cookie, error

    def chunk(self):
        """(cookie, flags, type, data)"""
        magic, flags, kind, cookie, size = struct.unpack(">IHHQI", self.take(20))
        assert magic == CHUNK, hex(magic)
        return cookie, flags, kind, self.take(size)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
