# SPDX-License-Identifier: Apache-2.0
"""Each field of `pairctl status --json` that other programs rely on, with what it reports made to happen.

FIELDS names for each field the test that changes it, here or in another file; test_no_field_is_forgotten holds the table
against what a daemon says.
"""

import os

import pytest

from conftest import HERE, PEER, PUBLIC_ADDRESS, write_pair

FIELDS = {
    "pair": "test_who_it_is", "identity": "test_who_it_is", "mode": "test_who_it_is",
    "role": "test_roles_and_epochs", "state": "test_roles_and_epochs", "epoch": "test_roles_and_epochs",
    "why": "test_alone_and_stale", "alone": "test_alone_and_stale", "granted": "test_alone_and_stale",
    "stale_ms": "test_alone_and_stale", "paired": "test_alone_and_stale",
    "peer.connected": "test_a_silent_peer", "peer.silent_ms": "test_a_silent_peer",
    "peer.timeout_ms": "test_who_it_is",
    "unsafe_queue.records": "test_queues_and_positions", "unsafe_queue.bytes": "test_queues_and_positions",
    "unsafe_queue.oldest_ms": "test_queues_and_positions", "unsafe_queue.limit_bytes": "test_who_it_is",
    "safe_queue.records": "test_queues_and_positions", "safe_queue.bytes": "test_queues_and_positions",
    "safe_queue.oldest_ms": "test_queues_and_positions", "safe_queue.limit_bytes": "test_who_it_is",
    "positions": "test_queues_and_positions",
    "volumes.name": "test_who_it_is", "volumes.size": "test_who_it_is", "volumes.export": "test_who_it_is",
    "volumes.synchronized": "test_a_mirror", "volumes.out_of_sync_bytes": "test_a_mirror",
    "public_address.enabled": "test_roles_and_epochs", "public_address.addresses": "test_who_it_is",
    "applications.name": "test_who_it_is", "applications.kind": "test_who_it_is",
    "applications.state": "test_roles_and_epochs",
    "forecast.loss_bytes": "test_queues_and_positions", "forecast.loss_ms": "test_queues_and_positions",
    "forecast.takeover_ms": "test_forecast_of_the_duration",
}


@pytest.fixture(scope="module")
def shared(make_shared_lab, tmp_path_factory):
    return make_shared_lab(config=write_pair(tmp_path_factory.mktemp("pair") / "lab.json", mode="async",
                                             queues={"memory": "160M", "spill": "512M", "safe": "640M"}))


@pytest.fixture
def lab(shared):
    return shared.normal()


def write(lab, host, size="1M"):
    lab.exec(host, "qemu-io", "-f", "raw", "-c", f"write -P 0x21 0 {size}", "-c", "flush", lab.uri(host))


def test_no_field_is_forgotten(lab):
    status = lab.status("primary")
    names = set(globals())
    for field, test in FIELDS.items():
        assert test in names, test
        for part in field.split("."):
            inner = status[part] if part == field.split(".")[0] else inner
            if isinstance(inner, list):
                inner = inner[0]
            elif part != field.split(".")[0]:
                assert part in inner, field
    assert os.path.exists(os.path.join(HERE, "test_operator.py"))


def test_who_it_is(lab):
    for host in PEER:
        status = lab.status(host)
        assert (status["pair"], status["identity"], status["mode"]) == ("lab", host, "async")
        assert status["peer"]["timeout_ms"] == 2000
        assert status["unsafe_queue"]["limit_bytes"] == (160 + 512) << 20
        assert status["safe_queue"]["limit_bytes"] == 640 << 20
        volume, = status["volumes"]
        assert (volume["name"], volume["size"]) == ("disk", 64 << 20)
        assert lab.exec(host, "test", "-S", volume["export"], check=False).returncode == 0
        assert PUBLIC_ADDRESS + "/24" in status["public_address"]["addresses"]
        assert [(app["name"], app["kind"]) for app in status["applications"]] == [("http", "script")]


def test_roles_and_epochs(lab):
    before = lab.status("primary")
    assert (before["role"], before["state"], before["public_address"]["enabled"]) == ("active", "active", True)
    lab.wait_for("primary", "running its application", applications=lambda apps: apps[0]["state"] == "running")
    lab.pairctl("primary", "switch")
    after = lab.wait_for("primary", "passive", role="passive", state="passive",
                         public_address=lambda address: not address["enabled"],
                         applications=lambda apps: apps[0]["state"] == "stopped")
    there = lab.wait_active("secondary")
    assert there["public_address"]["enabled"] and there["epoch"] > before["epoch"]
    lab.wait_for("primary", "in the new epoch", epoch=lambda epoch: epoch > before["epoch"])
    assert after["identity"] == "primary"
    lab.wait_promotable("secondary")
    lab.pairctl("secondary", "switch")
    lab.wait_promotable("primary")


def test_alone_and_stale(lab):
    status = lab.status("secondary")
    assert status["granted"] and status["stale_ms"] is None and not status["alone"]
    for host in PEER:
        lab.wait_for(host, "paired", paired=True)
    why = lab.status("primary")["why"]
    lab.cut("channel")
    lab.wait_for("primary", "alone, and to say why", alone=True, paired=False, why=lambda now: now != why)
    stale = lab.wait_for("secondary", "stale", granted=False, stale_ms=lambda ms: ms is not None)
    lab.wait_for("secondary", "stale for longer", stale_ms=lambda ms: ms is not None and ms > stale["stale_ms"])
    lab.heal()
    lab.wait_promotable("primary")
    lab.wait_for("secondary", "no longer stale", stale_ms=None)


def test_a_silent_peer(lab):
    assert lab.status("primary")["peer"]["connected"]
    lab.crash("secondary")
    silent = lab.wait_for("primary", "without peer for the timeout", peer=lambda peer: not peer["connected"] and
                          peer["silent_ms"] >= 2000)["peer"]["silent_ms"]
    lab.wait_for("primary", "without peer for longer", peer=lambda peer: peer["silent_ms"] > silent)
    lab.start("secondary")
    lab.wait_promotable("primary")


def test_queues_and_positions(lab):
    before = lab.wait_for("primary", "quiet", forecast=lambda forecast: forecast["loss_bytes"] == 0)
    lab.pairctl("primary", "pause")
    lab.wait_for("primary", "alone", alone=True)
    write(lab, "primary", "4M")
    queued = lab.wait_for("primary", "queueing", unsafe_queue=lambda queue: queue["bytes"] >= 4 << 20,
                          forecast=lambda forecast: forecast["loss_bytes"] >= 4 << 20)
    assert queued["unsafe_queue"]["records"] > 0
    assert queued["positions"]["numbered"] > before["positions"]["numbered"]
    lab.wait_for("primary", "older", unsafe_queue=lambda queue: queue["oldest_ms"] > 200,
                 forecast=lambda forecast: forecast["loss_ms"] > 200)
    lab.pairctl("primary", "resume")
    lab.wait_promotable("primary")
    lab.wait_for("primary", "empty", unsafe_queue=lambda queue: queue["records"] == 0 and queue["bytes"] == 0,
                 forecast=lambda forecast: forecast["loss_bytes"] == 0)
    lab.pairctl("secondary", "pause", "--replay")
    write(lab, "primary", "4M")
    held = lab.wait_for("secondary", "holding", safe_queue=lambda queue: queue["bytes"] >= 4 << 20 and
                        queue["records"] > 0 and queue["oldest_ms"] > 0,
                        positions=lambda at: at["durable"] > at["applied"])
    assert held["role"] == "passive"
    lab.pairctl("secondary", "resume", "--replay")
    lab.wait_for("secondary", "empty", safe_queue=lambda queue: queue["records"] == 0)
    settled = lab.wait_for("primary", "settled", positions=lambda at: at["applied"] == at["numbered"])
    assert settled["positions"]["received"] >= settled["positions"]["durable"] >= settled["positions"]["applied"]


def test_forecast_of_the_duration(lab):
    """The timeout, what the replay would need, and the start of the applications."""
    assert lab.status("secondary")["forecast"]["takeover_ms"] >= 2000
    assert lab.status("primary")["forecast"]["takeover_ms"] >= 2000


def test_a_mirror(make_lab, tmp_path):
    """Slow enough to be seen."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json", resync={"rate": "8M"}))
    lab.exec("primary", "pairctl", "wait", "active", "--timeout", "90")
    write(lab, "primary", "4M")
    first = lab.wait_for("primary", "mirroring", volumes=lambda volumes: not volumes[0]["synchronized"] and
                         0 < volumes[0]["out_of_sync_bytes"])
    left = first["volumes"][0]["out_of_sync_bytes"]
    lab.wait_for("primary", "further", volumes=lambda volumes: volumes[0]["out_of_sync_bytes"] < left)
    assert not lab.status("secondary")["volumes"][0]["synchronized"]
    lab.wait_promotable("primary")
    assert lab.status("primary")["volumes"][0]["out_of_sync_bytes"] == 0
