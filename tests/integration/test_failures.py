# SPDX-License-Identifier: Apache-2.0
"""What must happen when things break, beyond what the crash tests and the cuts show: daemons that stay dead, records
that are damaged, stores that fail, configurations that are wrong. The rows are those of docs/ARCHITECTURE.md.
"""

import json
import os

import pytest

from conftest import HERE, PEER, write_pair
from crashloop import Writing, assert_equal_stores, read_volume
from blockledger import judge

class Faults:
    """What fails on one host's disk from now on (tests/powerfs/faults.h)."""

    def __init__(self, lab, host):
        self.path = os.path.join(lab.base, host, "platter.faults")

    def set(self, *lines):
        with open(self.path + ".new", "w") as file:
            file.write("".join(line + "\n" for line in lines))
        os.rename(self.path + ".new", self.path)


@pytest.fixture
def faulty(make_lab, tmp_path):
    """A pair whose disks fail on command: (lab, {host: Faults})."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json"), powerfs=True)
    lab.wait_promotable("primary")
    return lab, {host: Faults(lab, host) for host in PEER}


def qemu_io(lab, host, *commands):
    """What qemu-io says to these commands; its status tells nothing."""
    words = [word for command in commands for word in ("-c", command)]
    done = lab.exec(host, "qemu-io", "-f", "raw", *words, lab.uri(host), check=False)
    return done.stdout + done.stderr


def content(lab, host, offset, length):
    with open(lab.store(host), "rb") as store:
        store.seek(offset)
        return store.read(length)


# ---- daemons that stay dead ----

@pytest.mark.row("the active's daemon is killed, its host lives")
def test_the_guard_acts_for_a_dead_active_daemon_and_the_passive_takes_over(lab):
    lab("kill", "primary", "--hold")
    lab.wait_active("secondary")
    # The guard was first: a takeover asks whether the address is in use, so it is gone here.
    assert "192.0.2.10" not in lab.exec("primary", "ip", "address", "show", "public").stdout
    lab.wait_answered("secondary")
    qemu_io(lab, "secondary", "write -P 0x31 0 1M", "flush")
    lab.start("primary")
    lab.wait_promotable("secondary")
    lab.wait_until(lambda: lab.exec("primary", "sh", "-c", "kill -0 $(cat /run/http-application/pid)",
                                    check=False).returncode != 0, "what was frozen to be gone")
    lab.same_content()


@pytest.mark.row("the passive's daemon is stopped or restarted")
def test_a_passive_daemon_that_is_stopped_says_goodbye(lab):
    """No waiting for a silence: the goodbye ends the grant. What was queued meanwhile follows from where it was."""
    story = lab.story()
    with open(os.path.join(lab.base, "secondary", "hold"), "w"):
        pass  # its supervisor is not to start it again
    lab.exec("secondary", "sh", "-c", "kill -TERM $(pidof secondaryd)")
    lab.wait_for("primary", "alone", alone=True)
    assert "done" not in qemu_io(lab, "primary", "write -P 0x32 1M 1M", "flush").lower()
    assert story.tells("goodbye", hosts=["primary"])
    assert not story.tells("silent", hosts=["primary"])
    lab.start("secondary")
    lab.wait_promotable("primary")
    assert story.tells("the stream goes on where it was") and not story.tells("full resync")
    assert not story.takeovers()
    lab.same_content()


def is_alone(lab):
    return lab.status("primary")["alone"]


@pytest.mark.row("the passive's daemon is stopped or restarted")
def test_the_guard_says_goodbye_for_a_passive_daemon_that_was_killed(make_lab, tmp_path):
    """The active end goes alone at the guard's word, with a grant out that would last for minutes; and not at the silence
    of a daemon that is only stopped, and may still use its grant."""
    timing = {"heartbeat_ms": 250, "timeout_ms": 60000, "decision_ms": 60000, "margin_ms": 1000}
    lab = make_lab(config=write_pair(tmp_path / "lab.json", timing=timing))
    lab.wait_promotable("primary")
    story = lab.story()
    lab.exec("secondary", "sh", "-c", "kill -STOP $(pidof secondaryd)")
    lab.wait_until(lambda: lab.status("primary")["peer"]["silent_ms"] > 2000, "the stopped daemon to be silent")
    assert not is_alone(lab) and not story.tells("goodbye", hosts=["primary"])
    lab("kill", "secondary", "--hold")
    lab.wait_for("primary", "alone", alone=True)
    assert story.tells("the peer's guard says goodbye", hosts=["primary"])
    assert "done" not in qemu_io(lab, "primary", "write -P 0x33 2M 1M", "flush").lower()
    lab.start("secondary")
    lab.wait_promotable("primary")
    assert story.tells("the stream goes on where it was") and not story.takeovers()
    lab.same_content()


@pytest.mark.row("the passive's host dies")
def test_async_answers_while_the_grant_of_a_dead_passive_host_runs_out(make_lab, tmp_path):
    """No answer waits until the active end is alone."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json", mode="async"))
    lab.wait_promotable("primary")
    writing = Writing(lab, "primary", tmp_path / "writer", 7, rate=4 << 20)
    writing.wait_answers()
    dead, alone = lab.crash_passive("secondary")
    ledger = writing.stop()
    between = [write for write in ledger.answered() if write.sent_ns > dead and write.answered_ns < alone]
    assert between, f"nothing was answered within {(alone - dead) / 1e9:.1f} s"
    assert (ledger.failed, ledger.reconnects) == (0, 0)


def kill_with_its_guard(lab, hold):
    """The primary's daemon and its guard, at once. `hold`: its supervisor does not start it again."""
    if hold:
        with open(os.path.join(lab.base, "primary", "hold"), "w"):
            pass
    lab.exec("primary", "sh", "-c", "kill -KILL $(pidof primaryd) $(pidof understudy-guard)")


def guard_of(lab):
    return lab.exec("primary", "pidof", "understudy-guard", check=False).stdout.split()


def address_is_on(lab, host):
    return "192.0.2.10" in lab.exec(host, "ip", "address", "show", "public").stdout


@pytest.mark.row("the active's daemon is killed, its host lives")
def test_daemon_and_guard_killed_together_and_started_in_time(make_lab, tmp_path):
    """It goes on, with a guard of its own, in the same epoch. But not where the flag says that it has stepped down: the dead
    guard may have done that as it was asked to, long before its deadline."""
    timing = {"heartbeat_ms": 250, "timeout_ms": 60000, "decision_ms": 60000, "margin_ms": 1000}
    lab = make_lab(config=write_pair(tmp_path / "lab.json", timing=timing))
    lab.wait_promotable("primary")
    story, before, guard = lab.story(), lab.status("primary"), guard_of(lab)
    assert len(guard) == 1
    kill_with_its_guard(lab, hold=False)
    lab.wait_for("primary", "another run, active", role="active", run=lambda run: run != before["run"])
    lab.wait_promotable("primary")
    lab.wait_answered("primary")
    assert len(guard_of(lab)) == 1 and guard_of(lab) != guard
    assert lab.status("primary")["epoch_id"] == before["epoch_id"]
    assert not story.tells("started passive")
    before = lab.status("primary")
    kill_with_its_guard(lab, hold=True)
    lab.exec("primary", "sh", "-c", "echo 'stepped down: by a test' > /run/understudy/lab/primary/stepped-down")
    lab.start("primary")
    lab.wait_for("primary", "another run, active by agreement", role="active", run=lambda run: run != before["run"])
    lab.wait_promotable("primary")
    lab.wait_answered("primary")
    assert story.tells("started passive", hosts=["primary"])
    assert not story.takeovers()
    lab.same_content()


@pytest.mark.row("the active's daemon is killed, its host lives")
def test_daemon_and_guard_killed_together_and_started_late(lab):
    """Nobody takes the address off then, which is why nobody else takes over. The next run begins passive, without it, and
    serves again when its peer has agreed."""
    story = lab.story()
    kill_with_its_guard(lab, hold=True)
    lab.wait_for("secondary", "stale", stale_ms=lambda ms: ms is not None and ms > 0)
    assert not guard_of(lab)
    assert address_is_on(lab, "primary")
    lab.start("primary")
    lab.wait_promotable("primary")
    lab.wait_answered("primary")
    assert story.tells("started passive", hosts=["primary"])
    assert not story.takeovers()
    assert not address_is_on(lab, "secondary")
    lab.same_content()


@pytest.mark.row("the active's daemon is killed, its host lives")
def test_a_guard_that_dies_after_it_has_acted(lab):
    """Its flag is what is left of it: the next run is passive, and destroys what is frozen, though its own guard knows
    nothing of that."""
    lab("kill", "primary", "--hold")
    lab.wait_active("secondary")
    application = lab.exec("primary", "cat", "/run/http-application/pid").stdout.strip()
    assert lab.exec("primary", "kill", "-0", application, check=False).returncode == 0
    lab.exec("primary", "sh", "-c", "kill -KILL $(pidof understudy-guard)")
    lab.wait_until(lambda: not guard_of(lab), "the guard to be gone")
    lab.start("primary")
    lab.wait_promotable("secondary")
    lab.wait_until(lambda: lab.exec("primary", "kill", "-0", application, check=False).returncode != 0,
                   "what was frozen to be gone")
    assert not address_is_on(lab, "primary")
    lab.wait_answered("secondary")
    lab.same_content()


# ---- damage ----

@pytest.mark.row("a record is damaged on the wire or in a queue")
def test_damage_on_the_wire_is_found_and_sent_again(lab, tmp_path):
    """Behind TCP's checksums: something in the secondary's way changes a bit now and then, on both data ports."""
    before, damaged = read_volume(lab, "primary"), tmp_path / "damaged"
    rules = ["add table ip damage", "add chain ip damage in { type nat hook prerouting priority -100 ; }"]
    for number, address in enumerate(("198.51.100.2", "203.0.113.2")):
        lab.popen("secondary", os.path.join(HERE, "wire_damage.py"), 17701 + number, address, 7701, 3000000, damaged)
        rules.append(f"add rule ip damage in ip daddr {address} tcp dport 7701 redirect to :{17701 + number}")
    lab.wait_until(lambda: all(f":{port}" in lab.exec("secondary", "ss", "-tln").stdout for port in (17701, 17702)),
                   "the damagers to listen")
    lab.exec("secondary", "nft", "; ".join(rules))
    lab.kill("secondary")  # so that its connections are new
    writing = Writing(lab, "primary", tmp_path / "writer", 8)
    lab.wait_until(lambda: damaged.exists() and len(damaged.read_text().splitlines()) >= 5, "some damage to be done")
    lab.exec("secondary", "nft", "delete table ip damage")
    ledger = writing.stop()
    lab.wait_settled("primary")
    verdict = judge(ledger, before, read_volume(lab, "secondary"), ledger.answered())
    assert verdict, "\n".join(verdict.errors)
    assert ledger.failed == 0
    assert_equal_stores(lab, "primary")


@pytest.mark.row("a record is damaged on the wire or in a queue")
def test_damage_in_the_safe_queue_is_found_and_not_applied(lab):
    """What was confirmed durable is damaged while the passive daemon is away: it is never applied; the replica becomes
    equal again by a resync."""
    pattern = b"\x5d" * 4096
    lab.pairctl("secondary", "pause", "--replay")
    lab.wait_for("secondary", "with its replay stopped", granted=False, why=lambda why: "replay" in why)
    qemu_io(lab, "primary", "write -P 0x5d 2M 1M", "flush")
    lab.wait_for("secondary", "keeping it", safe_queue=lambda queue: queue["bytes"] >= 1 << 20)
    lab("kill", "secondary", "--hold")
    directory = os.path.join(lab.base, "secondary", "lib", "lab", "secondary")
    found = 0
    for at, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(at, name), "r+b") as file:
                data = file.read()
                place = data.find(pattern)
                if place >= 0:
                    file.seek(place + 1000)
                    file.write(b"\x5c")
                    found += 1
    assert found, "the record was in the queue"
    story = lab.story()
    lab.start("secondary")
    lab.wait_for("secondary", "back", role="passive")
    lab.pairctl("secondary", "resume", "--replay", check=False)
    lab.wait_promotable("primary")
    assert story.tells("damage", "resync"), "it is said"
    lab.same_content()
    assert content(lab, "secondary", 2 << 20, 1 << 20) == b"\x5d" * (1 << 20)


# ---- stores that fail ----

@pytest.mark.row("write error on the active's store")
def test_a_write_error_on_the_active_is_the_guests_and_the_pair_stays_promotable(faulty):
    lab, faults = faulty
    qemu_io(lab, "primary", "write -P 0x41 0 4M", "flush")
    lab.wait_settled("primary")
    faults["primary"].set("write EIO /volumes/disk.img 1048576 65536")
    assert "Input/output error" in qemu_io(lab, "primary", "write -P 0x42 1M 64k")
    assert "failed" not in qemu_io(lab, "primary", "write -P 0x43 2M 64k", "flush")
    lab.wait_promotable("primary")
    assert lab.status("primary")["alone"] is False
    # The peer has what was there before, and may take over with it.
    lab.wait_settled("primary")
    assert content(lab, "secondary", 1 << 20, 65536) == b"\x41" * 65536
    lab.crash("primary")
    lab.wait_active("secondary")
    said = qemu_io(lab, "secondary", "read -P 0x41 1M 64k", "read -P 0x43 2M 64k")
    assert "verification failed" not in said and "error" not in said.lower(), said
    faults["primary"].set()
    lab.start("primary")
    lab.wait_promotable("secondary")
    lab.same_content()


@pytest.mark.row("write error on the active's store")
def test_a_failed_flush_on_the_active_leads_to_a_switchover(faulty):
    lab, faults = faulty
    qemu_io(lab, "primary", "write -P 0x44 0 1M", "flush")
    faults["primary"].set("sync EIO /volumes/disk.img")
    assert "Input/output error" in qemu_io(lab, "primary", "write -P 0x45 1M 64k", "flush")
    lab.wait_active("secondary")
    lab.wait_answered("secondary")
    said = qemu_io(lab, "secondary", "read -P 0x44 0 1M")
    assert "verification failed" not in said and "error" not in said.lower(), said


@pytest.mark.parametrize("what", ["write", "sync"])
@pytest.mark.row("write error on the replica, or its flush fails")
def test_a_replica_that_cannot_be_written_ends_the_grant(faulty, what):
    lab, faults = faulty
    faults["secondary"].set(what + " EIO /volumes/disk.img")
    assert "failed" not in qemu_io(lab, "primary", "write -P 0x46 0 1M", "flush")
    lab.wait_for("secondary", "without a grant, and to say why", granted=False, why=lambda why: "replica" in why)
    lab.wait_for("primary", "alone, and to say why", alone=True, why=lambda why: "replica" in why)
    assert "failed" not in qemu_io(lab, "primary", "write -P 0x47 1M 1M", "flush")
    assert not lab.status("secondary")["granted"]
    faults["secondary"].set()
    run = lab.status("secondary")["run"]
    lab.kill("secondary")  # a store that failed counts as such until it is opened again
    lab.wait_for("secondary", "another run", run=lambda now: now != run)
    lab.wait_promotable("primary")
    lab.same_content()


@pytest.mark.row("disk full anywhere")
def test_a_full_disk_below_the_replica_is_no_crash(faulty):
    lab, faults = faulty
    runs = {host: lab.status(host)["run"] for host in PEER}
    faults["secondary"].set("write ENOSPC /volumes/disk.img")
    assert "failed" not in qemu_io(lab, "primary", "write -P 0x48 0 1M", "flush")
    lab.wait_for("primary", "alone", alone=True)
    lab.wait_for("secondary", "without a grant", granted=False)
    assert "failed" not in qemu_io(lab, "primary", "write -P 0x49 1M 1M", "flush"), "the application goes on"
    assert {host: lab.status(host)["run"] for host in PEER} == runs
    faults["secondary"].set()
    lab.kill("secondary")
    lab.wait_promotable("primary")
    lab.same_content()


# ---- what an operator gets wrong ----

@pytest.mark.row("bad config, bad command, bad peer, bad bytes on any socket")
def test_a_bad_pair_file_is_refused_by_name_of_the_field(lab):
    """The daemon that is started with it says where and what is allowed; its peer goes on, and so does the pair once the
    file is right again."""
    path = os.path.join(lab.base, "secondary", "etc", "lab.json")
    log = os.path.join(lab.base, "secondary", "log", "secondaryd.log")
    with open(path) as file:
        good = file.read()
    bad = json.loads(good)
    bad["volumes"][0]["size"] = "a lot"
    with open(path, "w") as file:
        json.dump(bad, file)
    done = lab.pairctl("secondary", "check", "/etc/understudy/lab.json", check=False)
    assert done.returncode == 1 and "lab.json" in done.stderr and "volumes[0].size" in done.stderr, done.stderr
    lab.kill("secondary")

    def refused():
        with open(log, errors="replace") as file:
            return [line for line in file if "volumes[0].size" in line]
    lab.wait_until(refused, "the daemon to name the field")
    lab.wait_for("primary", "alone", role="active", alone=True)
    assert "failed" not in qemu_io(lab, "primary", "write -P 0x4a 0 1M", "flush")
    with open(path, "w") as file:
        file.write(good)
    lab("start", "secondary", check=False)
    lab.wait_promotable("primary")
    lab.same_content()
