# SPDX-License-Identifier: Apache-2.0
"""The ladder of an unsafe queue that its peer does not drain (DESIGN §4): memory, disk, policy; DESIGN §7: "disk full
anywhere"."""

import re

import pytest

from conftest import write_pair

QUEUES = {"memory": "136M", "spill": "1G", "safe": "2G"}
SPILL = "/var/lib/understudy/lab/{}/spill"


@pytest.fixture(scope="module")
def shared(make_shared_lab, tmp_path_factory):
    return make_shared_lab(config=write_pair(tmp_path_factory.mktemp("pair") / "lab.json", mode="async", size="256MiB",
                                             queues=QUEUES))


@pytest.fixture
def lab(shared):
    return shared.normal()


def write(lab, host, megabytes, pattern, offset=0):
    """Writes as fast as the volume takes it; the lines of qemu-io."""
    return lab.exec(host, "qemu-io", "-f", "raw", "-c", f"write -q -P {pattern} {offset}M {megabytes}M", lab.uri(host),
                    timeout=600)


def files(lab, host):
    return lab.exec(host, "ls", SPILL.format(host)).stdout.split()


def spilled(queue):
    return queue["spilled_bytes"] > 0


def test_disk_full_a_slow_link_spills_and_drains_in_order(lab):
    """The writer goes on at its own speed; what memory cannot hold lies on disk, and both sides are equal in the end."""
    story = lab.story()
    lab("slow", "100mbit")
    write(lab, "primary", 200, 0x41)
    write(lab, "primary", 150, 0x42, 20)
    there = lab.wait_for("primary", "spilling", unsafe_queue=spilled)
    assert there["unsafe_queue"]["limit_bytes"] == (136 + 1024) << 20
    assert there["unsafe_queue"]["bytes"] >= there["unsafe_queue"]["spilled_bytes"]
    assert files(lab, "primary")
    # Killed while it is spilled: the next run goes on with it.
    lab.kill("primary")
    lab.wait_active("primary")
    lab("heal")
    lab.wait_settled("primary", 300)
    assert not story.tells("overflowed") and not story.tells("resync")
    assert lab.wait_for("primary", "empty", unsafe_queue=lambda queue: queue["spilled_bytes"] == 0)
    lab.wait_until(lambda: files(lab, "primary") == [], "the files to be gone")
    lab.same_content()
