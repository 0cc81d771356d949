# SPDX-License-Identifier: Apache-2.0
"""A split, in which both ends have acknowledged updates of their own: shown with what differs, resolved by naming the end
that is kept, and what the other one held found in its salvage, block by block."""

import json
import os
import shutil

import pytest

from conftest import PEER, write_pair

BLOCK = 4096
REGION = 64 * 1024
COMMON = [(0x10 + n, n << 20) for n in range(4)]


def write(lab, host, pieces, size="64k"):
    commands = [word for pattern, offset in pieces for word in ("-c", f"write -P {pattern} {offset} {size}")]
    lab.exec(host, "qemu-io", "-f", "raw", *commands, "-c", "flush", lab.uri(host))


def verify(lab, host, pieces, size="64k"):
    commands = [word for pattern, offset in pieces for word in ("-c", f"read -P {pattern} {offset} {size}")]
    said = lab.exec(host, "qemu-io", "-f", "raw", *commands, lab.uri(host)).stdout
    assert "verification failed" not in said, said


def make_split(lab, primary, secondary, size="64k"):
    """Both ends serve, cut off from each other, and get updates of their own; then they meet."""
    lab.wait_promotable("primary")
    write(lab, "primary", COMMON)
    lab.wait_settled("primary")
    lab.cut("channel")  # the grant ends over the public network, so that nobody has to step down afterwards
    lab.wait_for("primary", "alone", state="active", alone=True, granted=False, why=lambda why: why.startswith("alone"))
    write(lab, "primary", primary, size)
    lab.cut("public", "secondary")
    lab.wait_for("secondary", "stale and cut off", granted=False, state="passive",
                 peer=lambda peer: not peer["connected"])
    lab.pairctl("secondary", "takeover", "--force")
    lab.wait_active("secondary")
    write(lab, "secondary", secondary, size)
    lab.heal()
    for host in PEER:
        lab.wait_for(host, "in a split that both have looked at", split=True,
                     divergence=lambda found: found and found["counted"])


def keep_a_copy(lab, host, path):
    shutil.copyfile(lab.store(host), path)
    return path


def exported(lab, host, name, target):
    """{block: its bytes, or None where it was dropped before} of one salvage, exported inside the host."""
    lab.pairctl(host, "salvage", "export", name, target, "--image")
    files = os.path.join(lab.base, host, "lib", os.path.basename(target))
    blocks = {}
    with open(os.path.join(files, "disk.map"), encoding="ascii") as lines, \
            open(os.path.join(files, "disk.img"), "rb") as image:
        for line in lines:
            if line.startswith("#"):
                continue
            offset, length, kind, _ = line.split()
            assert kind in ("data", "zero", "dropped"), line
            image.seek(int(offset))
            data = image.read(int(length))
            for at in range(0, int(length), BLOCK):
                blocks[(int(offset) + at) // BLOCK] = data[at:at + BLOCK] if kind != "dropped" else None
    return blocks


def salvages(lab, host):
    return json.loads(lab.pairctl(host, "salvage", "list", "--json").stdout)


def blocks_of(pieces, size=REGION):
    return {block for _, offset in pieces for block in range(offset // BLOCK, (offset + size) // BLOCK)}


def compare(lab, loser, copy, blocks, own):
    """What is in the salvage is what the end had; and every block that it had written alone, and has lost, is there."""
    with open(copy, "rb") as had, open(lab.store(loser), "rb") as has:
        for block, data in blocks.items():
            had.seek(block * BLOCK)
            assert had.read(BLOCK) == data, f"block {block} is not what it was"
        had.seek(0)
        number = 0
        while True:
            before, now = had.read(BLOCK), has.read(BLOCK)
            if not before:
                break
            assert before == now or number in blocks or number not in own, f"block {number} is lost"
            number += 1


@pytest.mark.parametrize("kept, typed", [("primary", "secondary"), ("secondary", "secondary")])
def test_one_side_is_kept_and_the_other_one_salvaged(make_lab, tmp_path, kept, typed):
    lab = make_lab(config=write_pair(tmp_path / "lab.json"))
    loser = PEER[kept]
    of = {"primary": [(0x50 + n, (n << 20) + REGION) for n in range(6)] + [(0x77, 0)],
          "secondary": [(0x90 + n, (n << 20) + 2 * REGION) for n in range(6)] + [(0x99, 0)]}
    make_split(lab, of["primary"], of["secondary"])
    for host in PEER:
        found = lab.status(host)["divergence"]
        assert len(found["primary"]) == 1 and len(found["secondary"]) == 1, found
        assert found["primary"][0]["reason"] == "alone" and found["secondary"][0]["reason"] == "takeover"
        assert 13 <= found["regions"] <= (64 << 20) // REGION, found
        assert found["bytes"] == found["regions"] * REGION
        assert "resolve --keep" in lab.pairctl(host, "status").stdout
    assert lab.status("primary")["state"] == "active" and lab.status("secondary")["state"] == "split"
    copy = keep_a_copy(lab, loser, tmp_path / "had")

    lab.pairctl(typed, "resolve", "--keep", kept)
    lab.wait_promotable(kept)
    lab.wait_answered(kept)
    lab.same_content()
    verify(lab, kept, of[kept])
    verify(lab, kept, COMMON[1:])
    assert not lab.status(kept)["split"] and not lab.status(loser)["split"]

    assert salvages(lab, kept) == []
    salvage, = salvages(lab, loser)
    lab.wait_until(lambda: salvages(lab, loser)[0]["complete"], "the salvage to be closed")
    assert (salvage["end"], salvage["damaged"]) == (loser, False)
    assert "kept" in salvage["cause"]
    blocks = exported(lab, loser, salvage["name"], "/var/lib/understudy/out")
    own = blocks_of(of[loser])
    compare(lab, loser, copy, blocks, own)
    if loser == "secondary":  # what it had mirrored before, both ends know to be the same
        assert set(blocks) <= own, sorted(set(blocks) - own)
    lab.pairctl(loser, "salvage", "drop", salvage["name"])
    assert salvages(lab, loser) == []
    # It is an ordinary pair again.
    refused = lab.pairctl(kept, "resolve", "--keep", kept, check=False)
    assert refused.returncode == 1 and "not split" in refused.stderr
    lab.pairctl(kept, "switch")
    lab.wait_promotable(loser)
    verify(lab, loser, of[kept])


def test_a_full_salvage_stops_the_resync_until_there_is_room(make_lab, tmp_path):
    lab = make_lab(config=write_pair(tmp_path / "lab.json", queues={"salvage": "2MiB"}))
    # Six MiB that only the Secondary has; different ones on the Primary.
    mine, theirs = [(0x40 + n, n << 20) for n in range(6)], [(0xa0 + n, n << 20) for n in range(6)]
    make_split(lab, mine, theirs, size="1M")
    copy = keep_a_copy(lab, "secondary", tmp_path / "had")
    lab.pairctl("primary", "resolve", "--keep", "primary")

    def full_or_done():
        """The salvage that has to go: it holds something, and nobody writes to it. Or True: the pair is whole."""
        if lab.is_promotable("primary"):
            return True
        newest = (salvages(lab, "secondary") or [None])[-1]
        full = lab.status("secondary").get("salvage", {}).get("full")
        return newest if full and newest and newest["data_bytes"] and not newest["writing"] | newest["complete"] else None

    blocks, rounds = {}, 0
    while True:
        newest = lab.wait_until(full_or_done, "the salvage to be full, or the pair to be whole")
        if newest is True:
            break
        rounds += 1
        # Both ends say what is to be done.
        lab.wait_for("secondary", "saying so", why=lambda why: "salvage" in why and "queues.salvage" in why)
        lab.wait_for("primary", "waiting for the salvage of its peer", alone=True, why=lambda why: "salvage is full" in why)
        assert "FULL" in lab.pairctl("secondary", "status").stdout
        verify(lab, "primary", mine[:1], "1M")  # and serve
        found = exported(lab, "secondary", newest["name"], f"/var/lib/understudy/out{rounds}")
        for block, data in found.items():
            if data is None:
                assert block in blocks, "only what was exported was dropped"
            else:
                assert block not in blocks, f"block {block} is kept twice"
                blocks[block] = data
        if rounds == 2:  # in between the daemon is restarted: what was dropped is not kept again
            lab.pairctl("secondary", "salvage", "drop", newest["name"])
            lab.kill("secondary")
        else:
            lab.pairctl("secondary", "salvage", "drop", newest["name"])
    assert rounds >= 3, rounds
    lab.wait_promotable("primary")
    lab.same_content()
    for salvage in salvages(lab, "secondary"):
        found = exported(lab, "secondary", salvage["name"], f"/var/lib/understudy/last{salvage['name']}")
        blocks.update({block: data for block, data in found.items() if data is not None})
    compare(lab, "secondary", copy, blocks, blocks_of(theirs, 1 << 20))
    story = "\n".join(event["text"] for event in lab.events("secondary"))
    assert "Raise queues.salvage" in story and "has room again" in story
