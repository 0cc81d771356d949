#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""Stands in the way of a TCP port, and damages what comes through: what a broken router does behind good checksums.

    wire_damage.py LISTEN HOST PORT BYTES FILE

Accepts connections at the port LISTEN, connects each with HOST:PORT, and changes one bit of what the client sends after
each BYTES bytes. Adds a line to FILE for each bit.
"""

import asyncio
import sys


class Damage:
    def __init__(self, every, path):
        self.every, self.left, self.path = every, every, path

    def pass_on(self, data):
        if len(data) < self.left:
            self.left -= len(data)
            return data
        damaged = bytearray(data)
        damaged[self.left - 1] ^= 0x10
        self.left = self.every
        with open(self.path, "a") as file:
            file.write("a bit\n")
        return bytes(damaged)


async def pump(reader, writer, change):
    try:
        while data := await reader.read(1 << 16):
            writer.write(change(data))
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main():
    listen, host, port, every, path = sys.argv[1:]
    damage = Damage(int(every), path)

    async def accepted(reader, writer):
        try:
            inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, inner_writer, damage.pass_on), pump(inner_reader, writer, lambda data: data))

    server = await asyncio.start_server(accepted, host, int(listen))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
