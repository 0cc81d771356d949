#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The NBD server, byte by byte: handshake, errors, limits, clients that misbehave or vanish, refusals."""

import os
import random
import select
import socket
import stat as st
import struct
import sys
import unittest

from nbd_rig import *


class Handshake(unittest.TestCase):
    def test_greeting_names_a_fixed_newstyle_server(self):
        with Server() as server, Raw(server, export=None) as raw:
            self.assertEqual(raw.greeting, b"NBDMAGICIHAVEOPT\0\3")

    def test_go_tells_size_flags_and_block_sizes(self):
        with Server(size=3 * MIB) as server, Raw(server, structured=True) as raw:
            kinds = {data[:2]: data[2:] for kind, data in raw.go[:-1]}
            size, flags = struct.unpack(">QH", kinds[b"\0\0"])
            self.assertEqual(size, 3 * MIB)
            self.assertEqual(flags, 0x9ED | 0)
            self.assertEqual(struct.unpack(">III", kinds[b"\0\3"]), (1, 4096, 32 * MIB))

    def test_the_empty_name_is_the_sockets_only_volume(self):
        with Server(volumes=2) as server:
            for name, ok in ((b"", True), (b"disk", True), (b"disk1", False), (b"dis", False)):
                with Raw(server, export=name) as raw:
                    self.assertEqual(raw.go[-1][0], ACK if ok else UNKNOWN, name)
            with Raw(server, path=server.files[1] + ".nbd", export=b"disk1") as raw:
                self.assertEqual(raw.go[-1][0], ACK)

    def test_info_does_not_enter(self):
        with Server() as server, Raw(server, export=None) as raw:
            infos = raw.option(INFO, struct.pack(">IHH", 0, 1, 1))
            self.assertEqual([k for k, _ in infos], [3, 3, 3, ACK])
            self.assertIn(b"\0\1disk", [data for _, data in infos])
            self.assertEqual(raw.option(LIST), [(2, struct.pack(">I", 4) + b"disk"), (ACK, b"")])

    def test_export_name_enters_with_and_without_zeroes(self):
        for flags, zeroes in ((1, 124), (3, 0)):
            with Server(size=MIB) as server, Raw(server, export=None, flags=flags) as raw:
                raw.send(struct.pack(">QII", OPTION, EXPORT_NAME, 4) + b"disk")
                size, _ = struct.unpack(">QH", raw.take(10))
                self.assertEqual(size, MIB)
                self.assertEqual(raw.take(zeroes), bytes(zeroes))
                raw.ask(FLUSH, 7)
                self.assertEqual(raw.simple(), (7, 0))

    def test_export_name_of_an_unknown_export_closes(self):
        with Server() as server, Raw(server, export=None) as raw:
            raw.send(struct.pack(">QII", OPTION, EXPORT_NAME, 4) + b"disc")
            self.assertTrue(raw.at_end())

    def test_abort_is_acknowledged(self):
        with Server() as server, Raw(server, export=None) as raw:
            self.assertEqual(raw.option(ABORT), [(ACK, b"")])
            self.assertTrue(raw.at_end())

    def test_broken_and_unknown_options_are_answered_and_the_handshake_goes_on(self):
        lies = (
            (GO, b""),
            (GO, struct.pack(">I", 1000) + b"disk\0\0"),
            (GO, struct.pack(">IHH", 0, 2, 1)),
            (INFO, struct.pack(">IH", 0, 0) + b"more"),
            (LIST, b"x"),
            (STRUCTURED, b"x"),
            (SET_META, struct.pack(">III", 0, 0xFFFFFFFF, 3)),
            (LIST_META, b""),
        )
        with Server() as server, Raw(server, export=None) as raw:
            self.assertEqual(raw.option(SET_META, bytes(8))[0][0], INVALID)  # no structured replies yet
            self.assertEqual(raw.option(STRUCTURED)[0][0], ACK)
            for option, data in lies:
                self.assertEqual(raw.option(option, data)[0][0], INVALID, (option, data))
            for option in (STARTTLS, 4, 11, 12345):
                self.assertEqual(raw.option(option)[0][0], UNSUP)
            self.assertEqual(raw.option(GO, bytes(20000))[0][0], TOO_BIG)
            self.assertEqual(raw.option(GO, bytes(6))[-1][0], ACK)

    def test_metadata_contexts(self):
        def queries(*names):
            return struct.pack(">II", 0, len(names)) + b"".join(struct.pack(">I", len(n)) + n for n in names)

        have = b"base:allocation"
        with Server() as server, Raw(server, export=None) as raw:
            raw.option(STRUCTURED)
            for option, names, found in (
                (LIST_META, (), True), (LIST_META, (b"base:",), True), (LIST_META, (b"qemu:",), False),
                (SET_META, (), False), (SET_META, (b"base:",), False), (SET_META, (b"x", have), True),
            ):
                answers = raw.option(option, queries(*names))
                self.assertEqual([data[4:] for kind, data in answers if kind == 4], [have] if found else [])
                self.assertEqual(answers[-1][0], ACK)


class Errors(unittest.TestCase):
    """Each is answered with the right error, changes nothing, and the connection goes on."""

    def check(self, raw, expected, *args, payload=b"", **kwargs):
        raw.ask(*args, cookie=99, payload=payload, **kwargs)
        self.assertEqual(raw.simple(), (99, expected), (args, kwargs))

    def test_errors(self):
        size = 64 * MIB
        with Server(size=size) as server, Raw(server) as raw:
            for command, error in ((READ, EINVAL), (TRIM, EINVAL), (ZEROES, ENOSPC)):
                self.check(raw, error, command, offset=size, length=1)
                self.check(raw, error, command, offset=size - 1, length=2)
                self.check(raw, error, command, offset=(1 << 64) - 1, length=2)
            self.check(raw, ENOSPC, WRITE, offset=size - 1, length=2, payload=b"xy")
            self.check(raw, ENOSPC, WRITE, offset=(1 << 64) - 1, length=3 * MIB, payload=bytes(3 * MIB))
            for command in (READ, WRITE, TRIM, ZEROES):
                self.check(raw, EINVAL, command, length=0)
            self.check(raw, EINVAL, READ, length=32 * MIB + 1)
            self.check(raw, EINVAL, WRITE, length=32 * MIB + 1, payload=bytes(32 * MIB + 1))
            self.check(raw, EINVAL, BLOCK_STATUS, length=4096)
            for command in (CACHE, 8, 77):
                self.check(raw, EINVAL, command, length=4096)
            for command, flags in ((READ, 2), (READ, 4), (WRITE, 2), (WRITE, 16), (TRIM, 8), (FLUSH, 32)):
                self.check(raw, EINVAL, command, flags=flags, length=1, payload=b"x" * (command == WRITE))
            self.check(raw, 0, WRITE, length=5, payload=b"still")
            stat = server.stat()
            self.assertEqual((stat["errors"], stat["writes"], stat["store"][0]), (9 + 2 + 4 + 2 + 1 + 3 + 6, 1, 1))

    def test_a_refused_write_does_not_disturb_those_behind_it(self):
        with Server(size=MIB) as server, Raw(server) as raw:
            raw.send(raw.request(WRITE, 1, MIB, 100) + b"a" * 100 + raw.request(WRITE, 2, 0, 4) + b"good" +
                     raw.request(WRITE, 3, MIB, 300000) + b"b" * 300000 + raw.request(WRITE, 4, 4, 4) + b"news")
            self.assertEqual(sorted(raw.simple() for _ in range(4)), [(1, ENOSPC), (2, 0), (3, ENOSPC), (4, 0)])
            with open(server.file, "rb") as f:
                self.assertEqual(f.read(8), b"goodnews")

    def test_unaligned(self):
        with Server(align=512) as server, Raw(server) as raw:
            self.assertEqual(struct.unpack(">III", raw.go[1][1][2:])[0], 512)
            for command in (READ, TRIM, ZEROES):
                self.check(raw, EINVAL, command, offset=1, length=512)
                self.check(raw, EINVAL, command, offset=512, length=511)
            self.check(raw, EINVAL, WRITE, offset=256, length=512, payload=bytes(512))
            self.check(raw, EINVAL, WRITE, offset=256, length=200000, payload=bytes(200000))
            self.check(raw, 0, WRITE, offset=512, length=512, payload=b"z" * 512)

    def test_structured_errors_say_why(self):
        with Server(size=MIB) as server, Raw(server, structured=True) as raw:
            raw.ask(READ, 5, MIB, 1)
            cookie, flags, kind, data = raw.chunk()
            self.assertEqual((cookie, flags, kind), (5, 1, 0x8001))
            self.assertEqual(struct.unpack(">IH", data[:6]), (EINVAL, len(data) - 6))
            self.assertIn(b"end of the volume", data)

    def test_the_stores_errors_come_through(self):
        with Server() as server, Raw(server) as raw:
            for number, error in ((5, EIO), (28, ENOSPC), (122, ENOSPC), (30, 1), (71, EIO)):
                server(f"fail {number}")
                self.check(raw, error, WRITE, length=1, payload=b"x")
            server("fail 0")
            server("fail_reads 5")
            self.check(raw, EIO, READ, length=512)
            server("fail 5")
            self.check(raw, EIO, FLUSH)
            server("fail 0")
            self.check(raw, EIO, FLUSH)  # it is final

    def test_fast_zero_only_where_it_is(self):
        for fast in (0, 1):
            with Server(fast_zero=fast) as server, Raw(server) as raw:
                self.check(raw, 0 if fast else ENOTSUP, ZEROES, length=MIB, flags=16)
                self.check(raw, 0, ZEROES, length=MIB)
                self.assertEqual(server.stat()["store"][1], 1 + fast)

    def test_fua_syncs(self):
        with Server() as server, Raw(server) as raw:
            self.check(raw, 0, WRITE, length=1, payload=b"x")
            self.assertEqual(server.stat()["store"][3], 0)
            for command, payload in ((WRITE, b"x"), (ZEROES, b""), (TRIM, b"")):
                before = server.stat()["store"][3]
                self.check(raw, 0, command, length=1, payload=payload, flags=1)
                self.assertEqual(server.stat()["store"][3], before + 1)

    def test_block_status(self):
        with Server(size=16 * MIB) as server, Raw(server, structured=True, meta=True) as raw:
            raw.ask(WRITE, offset=MIB, length=MIB, payload=b"d" * MIB)
            self.assertEqual(raw.simple()[1], 0)
            raw.ask(ZEROES, offset=4 * MIB, length=MIB, flags=2)
            self.assertEqual(raw.simple()[1], 0)
            for flags, count in ((0, 3), (8, 1)):
                raw.ask(BLOCK_STATUS, 3, 0, 3 * MIB, flags)
                cookie, chunk_flags, kind, data = raw.chunk()
                self.assertEqual((cookie, chunk_flags, kind, data[:4]), (3, 1, 5, struct.pack(">I", 1)))
                extents = list(struct.iter_unpack(">II", data[4:]))
                self.assertEqual(extents, [(MIB, 3), (MIB, 0), (MIB, 3)][:count])
            raw.ask(BLOCK_STATUS, 3, 0, 0)
            self.assertEqual(raw.chunk()[2], 0x8001)
        with Server() as server, Raw(server, structured=True) as raw:
            raw.ask(BLOCK_STATUS, 3, 0, 4096)
            self.assertEqual(raw.chunk()[2], 0x8001)


class Data(unittest.TestCase):
    def test_largest_requests(self):
        for align in (1, 4096):
            with Server(align=align) as server, Raw(server) as raw:
                payload = os.urandom(32 * MIB)
                raw.ask(WRITE, 1, 4096, len(payload), payload=payload)
                self.assertEqual(raw.simple(), (1, 0))
                raw.ask(READ, 2, 4096, len(payload))
                self.assertEqual(raw.simple(), (2, 0))
                self.assertEqual(raw.take(len(payload)), payload)

    def flood(self, server, raw, count, size):
        """Everything is sent before any answer is taken, in pieces that end anywhere."""
        stream, expected = b"", bytearray(server.size)
        for i in range(count):
            data = os.urandom(size)
            expected[i * size:(i + 1) * size] = data
            stream += raw.request(WRITE, i, i * size, size) + data + raw.request(READ, 100000 + i, server.size - 4096, 4096)
        at, piece = 0, 1
        while at < len(stream):
            raw.send(stream[at:at + piece])
            at, piece = at + piece, piece * 7 % 300007
        return expected

    def take_flood(self, raw, count):
        seen = set()
        for _ in range(2 * count):
            cookie, error = raw.simple()
            self.assertEqual(error, 0)
            if cookie >= 100000:
                self.assertEqual(raw.take(4096), bytes(4096))
            self.assertNotIn(cookie, seen)
            seen.add(cookie)

    def test_more_in_flight_than_there_are_requests(self):
        # 700 requests: what cannot be taken yet waits, in the ring and in the socket.
        for align in (1, 512):
            with Server(align=align) as server, Raw(server) as raw:
                raw.socket.setsockopt(socket.SOL_SOCKET, 32, 16 * MIB)  # SO_SNDBUFFORCE: all of it at once
                server("hold")
                expected = self.flood(server, raw, 350, 512 * 5)
                server.until(lambda stat: stat["at_store"] + stat["waiting"] >= 120)
                server("go")
                self.take_flood(raw, 350)
                with open(server.file, "rb") as f:
                    self.assertEqual(f.read(), bytes(expected))
                server.until(lambda stat: stat["queue_bytes"] == 0)

    def test_simple_and_structured_reads(self):
        with Server() as server:
            with Raw(server) as raw:
                raw.ask(WRITE, 1, 1000, 3, payload=b"abc")
                self.assertEqual(raw.simple(), (1, 0))
                raw.ask(READ, 2, 999, 5)
                self.assertEqual(raw.simple(), (2, 0))
                self.assertEqual(raw.take(5), b"\0abc\0")
            with Raw(server, structured=True) as raw:
                raw.ask(READ, 2, 999, 5, flags=4)
                self.assertEqual(raw.chunk(), (2, 1, 1, struct.pack(">Q", 999) + b"\0abc\0"))

    def test_a_flush_covers_every_connection(self):
        with Server() as server, Raw(server) as one, Raw(server) as two:
            one.ask(WRITE, 1, 0, 4, payload=b"data")
            self.assertEqual(one.simple(), (1, 0))
            before = server.stat()["store"]
            two.ask(FLUSH, 2)
            self.assertEqual(two.simple(), (2, 0))
            after = server.stat()["store"]
            self.assertEqual((before[0], after[3] - before[3]), (1, 1))

    def test_a_full_queue_holds_clients_back_until_there_is_room(self):
        with Server(size=256 * MIB, ring=130 * MIB, peer=1) as server, Raw(server) as raw, Raw(server) as other:
            server("gate paired")
            server("slow_peer 1")
            sent = 0
            raw.socket.setblocking(False)
            stream = b"".join(raw.request(WRITE, i, i * MIB, MIB) + bytes([i]) * MIB for i in range(200))
            stat = None
            while stat is None or stat["level"] < 3:
                try:
                    sent += raw.socket.send(stream[sent:sent + MIB])
                except BlockingIOError:
                    pass
                stat = server.stat()
            other.ask(WRITE, 1000, 201 * MIB, 4, payload=b"late")
            self.assertLess(stat["writes"], 150)
            server("slow_peer 0")
            raw.socket.setblocking(True)
            raw.socket.settimeout(LIMIT_S)
            while server.stat()["level"] == 3:
                server("release")
            raw.send(stream[sent:])
            self.assertEqual([raw.simple()[1] for _ in range(200)], [0] * 200)
            self.assertEqual(other.simple(), (1000, 0))
            self.assertGreater(server.stat()["rooms"], 0)
            with open(server.file, "rb") as f:
                for i in range(200):
                    self.assertEqual(f.read(MIB), bytes([i]) * MIB)

    def test_a_payload_that_stands_still_does_not_hold_up_the_others(self):
        """It is in the ring, which is given back in its order: 260 MiB behind it do not fit."""
        for align in (1, 4096):
            with Server(size=8 * MIB, ring=130 * MIB, align=align) as server, Raw(server) as slow, Raw(server) as other:
                payload = os.urandom(4 * MIB)
                slow.ask(WRITE, 1, 4 * MIB, 4 * MIB, payload=payload[:100000])
                server.until(lambda stat: stat["queue_bytes"] > 0)
                for i in range(65):
                    other.ask(WRITE, i, 0, 4 * MIB, payload=bytes([i]) * 4 * MIB)
                    self.assertEqual(other.simple(), (i, 0))
                slow.send(payload[100000:200000])
                other.ask(FLUSH, 5)
                self.assertEqual(other.simple(), (5, 0))
                slow.send(payload[200000:] + Raw.request(READ, 2, 4 * MIB, 4 * MIB))
                answers = {}
                for _ in range(2):
                    cookie, error = slow.simple()
                    self.assertEqual(error, 0)
                    answers[cookie] = slow.take(4 * MIB) if cookie == 2 else b""
                self.assertEqual(sorted(answers), [1, 2])
                with open(server.file, "rb") as f:
                    self.assertEqual(f.read(), bytes([64]) * 4 * MIB + payload)
                server.until(lambda stat: stat["queue_bytes"] == 0)

    def test_a_client_that_takes_no_answers_leaves_the_others_theirs(self):
        with Server() as server, Raw(server) as deaf, Raw(server) as other:
            deaf.send(b"".join(Raw.request(READ, i, 0, 64 * 1024) for i in range(400)))
            server.until(lambda stat: stat["reads"] >= 32)
            for i in range(300):
                other.ask(READ, i, 0, 64 * 1024)
                self.assertEqual(other.simple(), (i, 0))
                other.take(64 * 1024)
            for i in range(400):
                self.assertEqual(deaf.simple(), (i, 0))
                deaf.take(64 * 1024)


class Misbehaviour(unittest.TestCase):
    def test_garbage_is_dropped_with_a_note_and_the_server_serves_on(self):
        with Server() as server:
            for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 4, struct.pack(">I", 3) + b"\0" * 16,
                            struct.pack(">IQII", 3, OPTION, GO, 0xFFFFFFF0)):
                with Raw(server, greet=False) as raw:
                    raw.take(18)
                    raw.send(garbage)
                    self.assertTrue(raw.at_end(), garbage)
            with Raw(server) as raw:
                raw.ask(READ, magic=0x25609514, length=1)
                self.assertTrue(raw.at_end())
            with Raw(server) as raw:
                raw.ask(WRITE, length=0xFFFFFFFF)
                self.assertTrue(raw.at_end())
            with Raw(server) as raw:
                raw.ask(FLUSH, 7)
                self.assertEqual(raw.simple(), (7, 0))
            server.stat()
            self.assertEqual(len([n for n in server.notes if "is dropped" in n]), 6)

    def test_anything_at_all(self):
        """Clients that send what comes to mind, and hang up anywhere."""
        seed = int(os.environ.get("SEED", "0")) or struct.unpack("<I", os.urandom(4))[0]
        print(f"SEED={seed}", end=" ", flush=True)
        draw = random.Random(seed)
        for align in (1, 512):
            with Server(size=MIB, align=align, refuse=0) as server:
                for _ in range(150):
                    with Raw(server, structured=draw.random() < 0.5, meta=False) as raw:
                        self.babble(draw, raw)
                server.until(lambda stat: stat["clients"] == 0 and stat["queue_bytes"] == 0)
                with Raw(server) as raw:
                    raw.ask(FLUSH, 7)
                    self.assertEqual(raw.simple(), (7, 0))

    @staticmethod
    def babble(draw, raw):
        stream = b""
        for _ in range(draw.randrange(1, 60)):
            command = draw.choice((READ, WRITE, WRITE, WRITE, FLUSH, TRIM, ZEROES, BLOCK_STATUS, draw.randrange(65536)))
            length = draw.choice((0, 1, 512, 4096, draw.randrange(300000), draw.randrange(1 << 20)))
            offset = draw.choice((0, 512, draw.randrange(1 << 21), draw.randrange(1 << 64)))
            flags = draw.choice((0, 0, 0, 1, draw.randrange(65536)))
            magic = draw.choice((REQUEST,) * 40 + (draw.randrange(1 << 32),))
            stream += raw.request(command, 1, offset, length, flags, magic)
            if command == WRITE and draw.random() < 0.98:
                stream += bytes(length)
        stream = stream[:draw.randrange(len(stream))] if draw.random() < 0.5 else stream
        raw.socket.setblocking(False)
        try:
            while stream:
                readable, writable, _ = select.select([raw.socket], [raw.socket], [], LIMIT_S)
                if writable:
                    stream = stream[raw.socket.send(stream[:draw.randrange(1, 200000)]):]
                if readable and (not writable or draw.random() < 0.5) and not raw.socket.recv(100000):
                    return
        except OSError:
            pass

    def test_a_client_that_vanishes_leaves_nothing_behind(self):
        with Server() as server:
            for cut in (b"", b"\x25", Raw.request(READ, 2, 0, MIB), Raw.request(WRITE, 2, 0, MIB),
                        Raw.request(WRITE, 2, 0, MIB) + b"x" * 5000, Raw.request(WRITE, 2, 1 << 40, MIB) + b"x"):
                with Raw(server) as raw:
                    raw.send(Raw.request(WRITE, 1, 0, 4) + b"good" + cut)
                    answer = raw.simple()
                    self.assertEqual(answer if answer[0] == 1 else raw.simple(), (1, 0))
                stat = server.until(lambda stat: stat["clients"] == 0)
                self.assertEqual(stat["queue_bytes"], 0, cut)
            self.assertTrue(any("middle of a request" in n for n in server.notes))
            with open(server.file, "rb") as f:
                self.assertEqual(f.read(8), b"good\0\0\0\0")

    def test_what_a_vanished_client_had_submitted_completes(self):
        with Server() as server:
            server("hold")
            with Raw(server) as raw:
                raw.send(b"".join(Raw.request(WRITE, i, i * 4, 4) + b"%4d" % i for i in range(300)))
                server.until(lambda stat: stat["at_store"] + stat["waiting"] >= 250)
            server.until(lambda stat: stat["clients"] == 0)
            self.assertEqual(server.stat()["quiet"], 0)
            server("go")
            server.until(lambda stat: stat["quiet"] == 1 and stat["queue_bytes"] == 0)
            with open(server.file, "rb") as f:
                self.assertEqual(f.read(1000), b"".join(b"%4d" % i for i in range(250)))

    def test_disc_answers_what_is_under_way_first(self):
        with Server() as server, Raw(server) as raw:
            server("hold")
            raw.ask(WRITE, 1, 0, 4, payload=b"last")
            raw.ask(READ, 2, 0, 4)
            raw.ask(DISC)
            server.until_noted("has left")
            server("go")
            self.assertEqual(raw.simple(), (1, 0))
            self.assertEqual(raw.simple(), (2, 0))
            raw.take(4)
            self.assertTrue(raw.at_end())

    def test_idle_handshakes_give_way_to_newer_clients(self):
        with Server() as server:
            idle = [Raw(server, export=None) for _ in range(64)]
            busy = [Raw(server) for _ in range(64)]
            self.assertTrue(idle[0].at_end())
            with Raw(server, greet=False) as raw:
                self.assertTrue(raw.at_end())
            for raw in busy:
                raw.ask(FLUSH, 5)
                self.assertEqual(raw.simple(), (5, 0))
            for raw in idle + busy:
                raw.close()
            server.until(lambda stat: stat["clients"] == 0)

    def test_a_handshake_has_a_deadline(self):
        with Server() as server, Raw(server, export=None) as idle, Raw(server) as raw:
            idle.send(b"I")
            self.assertTrue(idle.at_end())
            raw.ask(FLUSH, 5)
            self.assertEqual(raw.simple(), (5, 0))
            server.stat()
            self.assertTrue(any("no handshake within" in n for n in server.notes))


class Refusal(unittest.TestCase):
    WHY = "this end is passive: the volume is served by host west"

    def test_everything_that_enters_is_refused_with_the_reason(self):
        with Server(refuse=1) as server:
            server("refuse " + self.WHY)
            with Raw(server, export=None) as raw:
                for option, data in ((INFO, bytes(6)), (GO, bytes(6)), (LIST, b"")):
                    self.assertEqual(raw.option(option, data), [(POLICY, self.WHY.encode())])
                self.assertEqual(raw.option(STRUCTURED)[0][0], ACK)
                raw.send(struct.pack(">QII", OPTION, EXPORT_NAME, 0))
                self.assertTrue(raw.at_end())
            server("serve")
            with Raw(server) as raw:
                self.assertEqual(raw.go[-1][0], ACK)

    def test_connected_clients_get_their_answers_and_are_closed(self):
        with Server() as server, Raw(server) as raw, Raw(server) as idle, Raw(server, export=None) as early:
            server("hold")
            raw.ask(WRITE, 1, 0, 4, payload=b"data")
            raw.send(Raw.request(WRITE, 2, 0, 4) + b"da")
            server.until(lambda stat: stat["at_store"] == 1)
            server("refuse " + self.WHY)
            self.assertTrue(idle.at_end())
            self.assertEqual(server.stat()["quiet"], 0)
            server("go")
            self.assertEqual(raw.simple(), (1, 0))
            self.assertTrue(raw.at_end())
            server.until(lambda stat: stat["quiet"] == 1 and stat["queue_bytes"] == 0)
            self.assertEqual(early.option(GO, bytes(6)), [(POLICY, self.WHY.encode())])
            server("serve")
            self.assertEqual(early.option(GO, bytes(6))[-1][0], ACK)
            early.ask(FLUSH, 3)
            self.assertEqual(early.simple(), (3, 0))

    def test_a_closed_gate_closes_without_an_answer(self):
        with Server() as server, Raw(server) as raw:
            server("gate held")
            raw.ask(WRITE, 1, 0, 4, payload=b"data")
            server.until(lambda stat: stat["waiting"] == 1)
            server("gate closed")
            self.assertTrue(raw.at_end())
            with Raw(server) as raw:
                raw.ask(WRITE, 1, 0, 4, payload=b"data")
                self.assertTrue(raw.at_end())
            self.assertEqual(server.stat()["errors"], 0)
            server("gate alone")
            with Raw(server) as raw:
                raw.ask(WRITE, 1, 0, 4, payload=b"data")
                self.assertEqual(raw.simple(), (1, 0))

    def test_storage_that_does_not_answer_does_not_keep_a_refused_client(self):
        with Server() as server, Raw(server) as raw:
            server("hold")
            raw.ask(WRITE, 1, 0, 4, payload=b"data")
            server.until(lambda stat: stat["at_store"] == 1)
            server("refuse " + self.WHY)
            self.assertTrue(raw.at_end())
            self.assertEqual(server.stat()["quiet"], 0)
            server("go")
            server.until(lambda stat: stat["quiet"] == 1)

    def test_a_client_that_takes_no_answers_does_not_hold_up_a_refusal(self):
        with Server() as server, Raw(server) as deaf:
            deaf.send(b"".join(Raw.request(READ, i, 0, 64 * 1024) for i in range(200)))
            server.until(lambda stat: stat["reads"] >= 32)
            server("refuse " + self.WHY)
            server.until(lambda stat: stat["quiet"] == 1)


class Sockets(unittest.TestCase):
    def test_mode_and_removal(self):
        with Server() as server:
            mode = os.stat(server.socket).st_mode
            self.assertTrue(st.S_ISSOCK(mode))
            self.assertEqual(st.S_IMODE(mode), 0o600)
            server.process.stdin.close()
            server.process.wait(LIMIT_S)
            self.assertFalse(os.path.exists(server.socket))

    def test_a_stale_socket_is_replaced_a_live_one_is_not(self):
        with Server() as server:
            with self.assertRaisesRegex(EOFError, "another process listens there"):
                Server(directory=server.directory)
            server.kill()
            self.assertTrue(os.path.exists(server.socket))
            with Server(directory=server.directory) as second, Raw(second) as raw:
                self.assertEqual(raw.go[-1][0], ACK)
            with open(server.socket, "w", encoding="ascii") as f:
                f.write("precious")
            with self.assertRaisesRegex(EOFError, "is not a socket"):
                Server(directory=server.directory)
            self.assertTrue(os.path.exists(server.socket))


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
