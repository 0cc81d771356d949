# SPDX-License-Identifier: Apache-2.0
"""The ladder of an unsafe queue that its peer does not drain (DESIGN §4): memory, disk, policy; DESIGN §7: "disk full
anywhere"."""

import pytest

from conftest import write_pair

QUEUES = {"memory": "136M", "spill": "1G", "safe": "2G"}
STATE = "/var/lib/understudy/lab/{}/"
SPILL = STATE + "spill"


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

def small_disk(lab, host, what, size):
    """A file system of its own for one directory of the host's state; the daemon that is started next uses it."""
    lab.exec(host, "mount", "-t", "tmpfs", "-o", f"size={size}", "small", STATE.format(host) + what)
    lab.kill(host)

def more_room(lab, host, what, size):
    lab.exec(host, "mount", "-o", f"remount,size={size}", STATE.format(host) + what)

def test_disk_full_no_room_for_the_spill(lab):
    """The file system of the spill is full, at the start and later: said once, the memory alone is used, the application
    does not wait, and both sides are equal in the end; with room it spills again."""
    small_disk(lab, "primary", "spill", "8M")
    lab.wait_promotable("primary")
    story = lab.story()
    lab("slow", "20mbit")
    write(lab, "primary", 200, 0x43)
    lab.wait_until(lambda: story.tells("cannot go to disk"), "the full disk to be said")
    lab.wait_until(lambda: story.tells("the unsafe queue overflowed"), "the policy to be used")
    lab("heal")
    lab.wait_settled("primary", 300)
    lab.same_content()
    more_room(lab, "primary", "spill", "1G")
    lab("slow", "20mbit")

    def spills_again():  # the disk is tried anew some seconds after it refused: how much is written until then is open
        write(lab, "primary", 80, 0x44)
        return spilled(lab.status("primary")["unsafe_queue"])

    lab.wait_until(spills_again, "the spill to be used again")
    lab("heal")
    lab.wait_settled("primary", 300)
    lab.same_content()
    lab.exec("primary", "umount", "-l", SPILL.format("primary"))
    lab.kill("primary")
    lab.wait_promotable("primary")

def queues_or_cannot(status):
    return status and (status["unsafe_queue"]["records"] > 0 or "cannot write its replica or its queue" in status["why"])


def test_disk_full_safe_queue(lab):
    """The file system of the passive end's safe queue is full, at the start and in mid-flight: the active end queues and is
    told, nothing is applied past a gap, and with room it goes on by itself."""
    story = lab.story()
    small_disk(lab, "secondary", "safe", "8M")
    lab.wait_for("secondary", "running", role="passive", granted=False)
    write(lab, "primary", 8, 0x45)
    # The queue is not there any more: where it ended decides whether what follows is queued, or all is compared again.
    lab.wait_until(lambda: story.tells("safe queue is full", hosts=["secondary"]), "the full disk to be said")
    lab.wait_until(lambda: queues_or_cannot(lab.status("primary")), "the active end to be told")
    more_room(lab, "secondary", "safe", "200M")
    lab.wait_settled("primary", 300)
    lab.same_content()
    story = lab.story()
    lab.pairctl("secondary", "pause", "--replay")
    write(lab, "primary", 240, 0x46)
    lab.wait_until(lambda: story.tells("safe queue is full", hosts=["secondary"]), "the full queue to be said")
    lab.wait_for("secondary", "without a grant", granted=False)
    assert lab.status("primary")["unsafe_queue"]["records"] > 0
    lab.pairctl("secondary", "resume", "--replay")
    lab.wait_settled("primary", 300)
    lab.same_content()
    lab.exec("secondary", "umount", "-l", STATE.format("secondary") + "safe")
    lab.kill("secondary")
    lab.wait_promotable("primary")

def fill(lab, host):
    """Leaves no byte on the file system of the host's state."""
    lab.exec(host, "sh", "-c", f"cat /dev/zero > {STATE.format(host)}filler", check=False)


def test_disk_full_state(lab):
    """No byte is left where an end keeps its state. At the start it says so, and starts when there is room; in mid-flight
    it goes on, for what it needs to change its role is there already."""
    lab.exec("secondary", "mount", "-t", "tmpfs", "-o", "size=64k", "small", STATE.format("secondary"))
    fill(lab, "secondary")
    lab.kill("secondary")
    lab.wait_until(lambda: "No space left" in lab.report().rpartition("--- secondary: secondaryd.log")[2], "it to be said")
    lab.wait_for("primary", "alone", alone=True)
    write(lab, "primary", 4, 0x47)
    more_room(lab, "secondary", "", "400M")
    lab.exec("secondary", "rm", STATE.format("secondary") + "filler")
    lab.wait_settled("primary", 300)
    fill(lab, "secondary")
    write(lab, "primary", 4, 0x48)
    lab.wait_settled("primary")
    lab.pairctl("primary", "switch")
    lab.wait_promotable("secondary")
    write(lab, "secondary", 4, 0x49)
    lab.wait_settled("secondary")
    lab.same_content()
    lab.pairctl("secondary", "switch")
    lab.wait_promotable("primary")


def small(tmp_path, **queues):
    return write_pair(tmp_path / "lab.json", mode="async", size="256MiB", queues=dict(QUEUES, **queues))


def test_overflow_map_streams_what_is_queued(make_lab, tmp_path):
    """Memory and disk are full: the writer goes on, what is queued still reaches the peer, and a resync brings the rest."""
    lab = make_lab(config=small(tmp_path, spill="300M"))
    lab.wait_promotable("primary")
    story = lab.story()
    lab("slow", "20mbit")
    write(lab, "primary", 220, 0x51)
    write(lab, "primary", 220, 0x52, 30)
    lab.wait_until(lambda: story.tells("what it holds up to seq"), "the queue to be full")
    lab.wait_for("primary", "alone", alone=True)
    assert lab.status("primary")["unsafe_queue"]["records"] > 0
    lab("heal")
    lab.wait_settled("primary", 300)
    assert story.tells("the peer has all that the full unsafe queue held")
    lab.same_content()


def test_overflow_suspend_holds_writers(make_lab, tmp_path):
    """Without a disk, and with nobody who takes it, the writer waits; with its peer it goes on, and nothing was given up."""
    lab = make_lab(config=small(tmp_path, spill="0", overflow="suspend"))
    lab.wait_promotable("primary")
    story = lab.story()
    lab.cut("channel")
    lab.wait_for("primary", "alone", alone=True)
    child = lab.popen("primary", "qemu-io", "-f", "raw", "-c", "write -q -P 0x53 0 200M", lab.uri("primary"))
    lab.wait_for("primary", "full", unsafe_queue=lambda queue: queue["bytes"] > 90 << 20)
    assert child.poll() is None  # 200 MiB do not fit
    lab.heal()
    assert child.wait(300) == 0
    lab.wait_settled("primary", 300)
    assert not story.tells("overflowed")
    lab.same_content()
