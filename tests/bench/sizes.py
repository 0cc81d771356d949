# SPDX-License-Identifier: Apache-2.0
"""How much is measured: the full run, the quick one, and the small one, which only tries whether everything works."""

import dataclasses

MIB, GIB = 1 << 20, 1 << 30


@dataclasses.dataclass
class Sizes:
    """Bytes and seconds."""

    volume: int = 256 * MIB           # of the loads' volumes
    turns: int = 5                    # of every load
    seconds: float = 3.0              # of a load in one turn
    turns_bulk: int = 3               # of everything else, but for what follows
    turns_long: int = 2               # of what takes minutes
    bulk: int = 10 * GIB              # the volume of mirror and resync
    content: int = GIB                # what it holds; what a queue to replay, or to start with, holds
    changed: int = 100 * MIB          # what is changed before a resync
    idle: float = 30.0                # window in which the CPU of idle pairs is counted
    idle_volume: int = 64 * MIB       # of each idle pair
    settle: float = 5.0               # before such a window, and before bytes are counted
    patience: float = 120.0           # for the first mirror of 1 TiB
    seconds_memory: float = 20.0      # of the load under which memory is looked at
    sparse_written: int = 64 * MIB    # to 1 TiB, in 4 KiB: each an extent, which some disks take long to free
    bytes_written: int = 512 * MIB    # by which the bytes on the wire and to the disk are divided
    slow_written: int = 512 * MIB     # over the slow link
    sustained: float = 300.0          # of the load that goes on


def full():
    return Sizes()


def quick():
    return Sizes(volume=64 * MIB, turns=2, seconds=0.4, turns_bulk=1, bulk=256 * MIB, content=128 * MIB, idle=3.0,
                 settle=1.0)


def small():
    """Everything once, for minutes rather than hours; its figures mean nothing."""
    return Sizes(volume=32 * MIB, turns=1, seconds=0.3, turns_bulk=1, turns_long=1, bulk=128 * MIB, content=64 * MIB,
                 changed=4 * MIB, idle=3.0, idle_volume=16 * MIB, settle=1.0, patience=5.0, seconds_memory=1.0,
                 sparse_written=8 * MIB, bytes_written=16 * MIB, slow_written=96 * MIB, sustained=6.0)
