# SPDX-License-Identifier: Apache-2.0
"""What an operator types: switch, takeover, pause, resume, stop, wait, history; on either machine, with the exit status
and the reason; and what an application that ends by itself brings about.
"""

import json
import time

import pytest

from conftest import PEER, PUBLIC_ADDRESS, write_pair

MORTAL = """#!/bin/sh
# An application that ends by itself when it is told to, and cannot start where /run/broken is.
case "$1" in
start) [ ! -e /run/broken ] || exit 1; sleep 1000000 & echo $! >/run/mortal.pid ;;
stop) kill "$(cat /run/mortal.pid)" 2>/dev/null; exit 0 ;;
status) kill -0 "$(cat /run/mortal.pid)" ;;
esac
"""


@pytest.fixture(scope="module")
def shared(make_shared_lab, tmp_path_factory):
    return make_shared_lab(config=write_pair(tmp_path_factory.mktemp("pair") / "lab.json"))


@pytest.fixture
def lab(shared):
    return shared.normal()


def refused(lab, host, *command):
    done = lab.pairctl(host, *command, check=False)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.strip(), "a reason on stderr"
    return done.stderr


def write(lab, host, pattern, offset="0", size="1M"):
    lab.exec(host, "qemu-io", "-f", "raw", "-c", f"write -P {pattern} {offset} {size}", "-c", "flush", lab.uri(host))


def verify(lab, host, pattern, offset="0", size="1M"):
    said = lab.exec(host, "qemu-io", "-f", "raw", "-c", f"read -P {pattern} {offset} {size}", lab.uri(host)).stdout
    assert "verification failed" not in said, said


def test_switch_and_back_typed_on_either_machine(lab):
    story = lab.story()
    typed = [("primary", "secondary"), ("primary", "primary"), ("secondary", "secondary"), ("secondary", "primary")]
    for number, (where, to) in enumerate(typed):
        write(lab, PEER[to], 0x30 + number, f"{number}M")
        done = lab.pairctl(where, "switch")
        assert done.returncode == 0
        status = lab.status(to)
        assert (status["role"], status["state"]) == ("active", "active"), "done means done"
        lab.wait_for(PEER[to], "passive", role="passive")
        lab.wait_answered(to)
        for earlier in range(number + 1):
            verify(lab, to, 0x30 + earlier, f"{earlier}M")
        lab.wait_promotable(to)
    assert story.tells("handed over position", hosts=["primary"])
    assert story.tells("nothing is lost", hosts=["primary"])
    assert not story.tells("yields", "resync by map"), "a switchover needs no resync"
    steps = [event for event in story.events("primary") if event["step"] and event["text"].startswith("switchover")]
    assert steps and all(event["ms"] is not None for event in steps), "each step has its time"
    lab.same_content()


def test_switch_is_refused_when_not_synchronized(lab):
    lab.cut("channel")
    lab.wait_for("primary", "alone", alone=True)
    for host in PEER:
        assert refused(lab, host, "switch")
    assert lab.role("primary") == "active"
    lab.wait_answered("primary")
    lab.crash("secondary")
    lab.wait_for("primary", "without peer", peer=lambda peer: not peer["connected"])
    assert "not connected" in refused(lab, "primary", "switch")
    lab.start("secondary")
    lab.heal()
    lab.wait_promotable("primary")


def test_takeover_is_refused_while_the_active_is_connected(lab):
    assert "switch" in refused(lab, "secondary", "takeover")
    assert "switch" in refused(lab, "secondary", "takeover", "--force")
    assert refused(lab, "primary", "takeover")
    assert (lab.role("primary"), lab.role("secondary")) == ("active", "passive")


def test_takeover_by_force_leads_to_a_split_that_is_said(lab_of_its_own):
    """The primary has gone alone and then died: the passive end has no grant, and only an operator may decide. When the
    primary is back, both have acknowledged on their own.
    """
    lab = lab_of_its_own
    lab.cut("channel")
    lab.wait_for("primary", "alone", alone=True)
    write(lab, "primary", 0x41)
    lab.wait_for("secondary", "stale", stale_ms=lambda ms: ms is not None)
    lab.crash("primary")
    lab.wait_for("secondary", "without peer", peer=lambda peer: not peer["connected"])
    assert lab.role("secondary") == "passive", "no grant, no takeover by itself"
    said = refused(lab, "secondary", "takeover")
    assert "grant " in said and "heard last" in said and "not known" in said, said
    assert said.rstrip().endswith("pairctl -p lab takeover --force=grant"), said
    assert "--force=grant" in refused(lab, "secondary", "takeover", "--force=address,waypoint")
    assert "no such veto" in refused(lab, "secondary", "takeover", "--force=nonsense")
    said = refused(lab, "secondary", "takeover", "--force=grant,inconsistent")
    assert "--force=inconsistent" in said and "--accept-inconsistent" in said, said
    done = json.loads(lab.pairctl("secondary", "takeover", "--force=grant", "--json").stdout)
    assert [(veto["name"], veto["overridden"]) for veto in done["vetoes"]] == [("grant", True)]
    assert done["state"] == "done" and done["override"] == "" and done["loss"]["more"] is True
    assert [event for event in lab.events("secondary") if event["text"].endswith("who overrides: grant")]
    assert lab.status("secondary")["role"] == "active"
    lab.wait_active("secondary")
    lab.wait_answered("secondary")
    losses = [event for event in lab.events("secondary") if event["loss"] is not None]
    assert losses, "the history says what was lost, or that nothing was"
    write(lab, "secondary", 0x42)
    lab.heal()
    lab.start("primary")
    for host in PEER:
        lab.wait_for(host, "split, and to say so", split=True, why=lambda why: "split" in why)
    assert lab.pairctl("secondary", "wait", "split", "--timeout", "60").returncode == 0
    verify(lab, "secondary", 0x42)
    with open(lab.store("primary"), "rb") as store:
        assert store.read(1 << 20) == b"\x41" * (1 << 20), "nothing is overwritten"
    assert refused(lab, "secondary", "switch")


def test_takeover_by_hand_needs_no_force(make_lab, tmp_path):
    """With the policy `manual` nobody takes over by himself, and a synchronized passive end does at a word."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json", takeover="manual"))
    lab.wait_for("primary", "paired", synchronized=True, paired=True)
    lab.wait_for("secondary", "told so", why=lambda why: "at an operator's word" in why)
    write(lab, "primary", 0x43)
    lab.crash("primary")
    lab.wait_for("secondary", "waiting for the operator", why=lambda why: "waits for pairctl takeover" in why)
    assert lab.status("secondary")["role"] == "passive"
    assert "heard last" in lab.pairctl("secondary", "takeover").stdout
    assert lab.role("secondary") == "active"
    lab.wait_answered("secondary")
    verify(lab, "secondary", 0x43)


def test_pause_and_resume(lab):
    story = lab.story()
    for where in ("primary", "secondary"):
        lab.wait_settled("primary")
        lab.pairctl(where, "pause")
        lab.wait_for("primary", "paused and alone, and to say so", paused=True, alone=True,
                     why=lambda why: "paused" in why)
        assert lab.pairctl("primary", "wait", "paused", "--timeout", "60").returncode == 0
        lab.wait_for("secondary", "without a grant", granted=False)
        applied = lab.status("secondary")["positions"]["applied"]
        write(lab, "primary", 0x51)
        assert lab.status("primary")["unsafe_queue"]["records"] > 0, "updates queue"
        assert lab.status("secondary")["positions"]["applied"] == applied, "nothing is sent"
        lab.pairctl(where, "resume")
        lab.wait_promotable("primary")
        assert lab.status("primary")["paused"] is False
    assert not story.tells("resync by map")
    lab.same_content()


def test_pause_of_the_replay(lab):
    for where in ("secondary", "primary"):
        lab.wait_settled("primary")
        lab.pairctl(where, "pause", "--replay")
        stopped = lab.wait_for("secondary", "with its replay stopped", granted=False,
                               why=lambda why: "replay" in why)
        lab.wait_for("primary", "not calling it promotable", granted=False, why=lambda why: "replay" in why)
        applied = stopped["positions"]["applied"]
        write(lab, "primary", 0x61)
        queued = lab.wait_for("secondary", "keeping what it got", safe_queue=lambda queue: queue["records"] > 0)
        assert queued["safe_queue"]["bytes"] > 0 and queued["positions"]["applied"] <= applied + 1
        assert queued["positions"]["durable"] > applied
        lab.pairctl(where, "resume", "--replay")
        lab.wait_promotable("primary")
        lab.same_content()


def test_wait_says_when_and_when_not(lab):
    assert lab.pairctl("primary", "wait", "active", "--timeout", "60").returncode == 0
    assert lab.pairctl("secondary", "wait", "promotable", "--timeout", "60").returncode == 0
    began = time.monotonic()
    done = lab.pairctl("primary", "wait", "passive", "--timeout", "1", check=False)
    assert done.returncode == 1 and done.stderr.strip()
    assert time.monotonic() - began >= 1
    assert lab.pairctl("primary", "wait", "nonsense", check=False).returncode == 2
    assert lab.pairctl("primary", "nonsense", check=False).returncode == 2
    assert lab.pairctl("primary", "-p", "nobody", "status", check=False).returncode == 1


def restart(lab, host):
    run = lab.status(host)["run"]
    lab.exec(host, "pkill", "-TERM", "-x", host + "d")
    lab.wait_for(host, "another run", run=lambda now: now != run)


def test_stop_and_resume(lab):
    write(lab, "primary", 0x71)
    for where in ("primary", "secondary"):
        lab.pairctl(where, "stop")
        stopped = lab.wait_for("primary", "stopped", state="stopped")
        assert not stopped["public_address"]["enabled"]
        assert {app["state"] for app in stopped["applications"]} == {"stopped"}
        lab.wait_for("secondary", "passive", role="passive", granted=False)
        # It stays so for longer than any grant: nobody takes over what was ended in order.
        time.sleep(4.5)
        assert lab.status("secondary")["role"] == "passive"
        assert lab.exec("client", "curl", "-s", "-m", "1", f"http://{PUBLIC_ADDRESS}/", check=False).returncode != 0
        assert refused(lab, "primary", "switch")
        restart(lab, "primary")
        restart(lab, "secondary")
        lab.wait_for("primary", "stopped as before", state="stopped")
        told = lab.wait_for("secondary", "told that it is stopped", why=lambda why: "stopped" in why)
        assert told["role"] == "passive"
        lab.pairctl(where, "resume")
        lab.wait_promotable("primary")
        lab.wait_answered("primary")
        verify(lab, "primary", 0x71)
        since = [event["text"] for event in lab.events("primary")]
        since = since[max(number for number, text in enumerate(since) if "resumed by the operator" in text):]
        assert not [text for text in since if "resync" in text], since
    lab.same_content()


def test_shutdown_hands_over(lab):
    write(lab, "primary", 0x72)
    assert "not active" in lab.pairctl("secondary", "shutdown").stdout
    lab.pairctl("primary", "shutdown", "--timeout", "30")
    assert lab.role("secondary") == "active"
    lab.wait_for("primary", "passive", role="passive")
    lab.wait_answered("secondary")
    verify(lab, "secondary", 0x72)


def test_shutdown_stops_and_the_next_start_goes_on(make_lab, tmp_path):
    lab = make_lab(config=write_pair(tmp_path / "lab.json", shutdown="stop"))
    lab.wait_promotable("primary")
    write(lab, "primary", 0x73)
    lab.pairctl("primary", "shutdown", "--timeout", "30")
    stopped = lab.status("primary")
    assert (stopped["state"], stopped["public_address"]["enabled"]) == ("stopped", False)
    lab.crash("primary")
    lab.wait_for("secondary", "without peer", peer=lambda peer: not peer["connected"])
    lab.start("primary")
    lab.wait_promotable("primary")
    lab.wait_answered("primary")
    verify(lab, "primary", 0x73)
    said = [event["text"] for event in lab.events("primary")]
    said = said[max(number for number, text in enumerate(said) if text.startswith("started")):]
    assert not [text for text in said if "resync" in text], said
    lab.same_content()


def test_a_restart_by_signal_keeps_everything(lab):
    """SIGTERM is a restart: the application stays, the next daemon goes on, and no resync follows."""
    story = lab.story()
    for host in ("primary", "secondary"):
        pid = lab.exec("primary", "cat", "/run/http-application/pid").stdout
        run = lab.status(host)["run"]
        lab.exec(host, "pkill", "-TERM", "-x", host + "d")
        lab.wait_for(host, "another run", run=lambda now: now != run)
        lab.wait_promotable("primary")
        assert lab.exec("primary", "cat", "/run/http-application/pid").stdout == pid
        lab.exec("primary", "sh", "-c", f"kill -0 {pid}")
        lab.wait_answered("primary")
    assert not story.tells("resync by map", "yields")
    assert not story.takeovers()


@pytest.fixture
def lab_of_its_own(make_lab, tmp_path):
    lab = make_lab(config=write_pair(tmp_path / "lab.json"))
    lab.wait_promotable("primary")
    return lab


@pytest.fixture
def mortal_lab(make_lab, tmp_path):
    config = tmp_path / "config"
    config.mkdir()
    (config / "mortal").write_text(MORTAL)
    (config / "mortal").chmod(0o755)
    application = {"name": "mortal", "kind": "script", "command": "/etc/understudy/mortal", "restarts": 2,
                   "status_interval_ms": 200, "on_failure": "switchover"}
    write_pair(config / "lab.json", applications=[application])
    lab = make_lab(config=config)
    lab.wait_promotable("primary")
    return lab


def mortal(lab, host="primary"):
    return lab.status(host)["applications"][0]


def test_an_application_that_ends_is_restarted_and_then_moved(mortal_lab):
    lab = mortal_lab
    story = lab.story()
    lab.wait_until(lambda: mortal(lab)["state"] == "running", "the application to run")
    for number in (1, 2):
        lab.exec("primary", "sh", "-c", "kill -9 $(cat /run/mortal.pid)")
        lab.wait_until(lambda: mortal(lab)["restarts"] == number and mortal(lab)["state"] == "running",
                       f"restart {number}")
        assert lab.role("primary") == "active"
    lab.exec("primary", "sh", "-c", "kill -9 $(cat /run/mortal.pid)")
    lab.wait_active("secondary")
    lab.wait_until(lambda: mortal(lab, "secondary")["state"] == "running", "the application to run there")
    assert story.tells("failed for good", hosts=["primary"])
    assert len(story.tells("mortal restarted", hosts=["primary"])) == 2


def test_after_stop_nothing_runs_and_down_leaves_nothing(lab_of_its_own):
    lab = lab_of_its_own
    lab.pairctl("primary", "stop")
    lab.wait_for("primary", "stopped", state="stopped")
    for host in PEER:
        running = lab.exec(host, "ps", "-eo", "args").stdout
        assert "busybox httpd" not in running
        assert lab.exec(host, "cat", "/sys/fs/cgroup/understudy/lab/%s/http/cgroup.procs" % host,
                        check=False).stdout == ""
        assert PUBLIC_ADDRESS not in lab.exec(host, "ip", "address").stdout
        # The export is refused, readably.
        assert lab.exec(host, "nbdinfo", "nbd+unix:///disk?socket=/run/understudy/lab/disk.nbd",
                        check=False).returncode != 0
    lab.down()
    assert lab.left() == []
