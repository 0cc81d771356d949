# SPDX-License-Identifier: Apache-2.0
"""The pair file's public addresses are changed while the pair runs: what is not configured any more is taken off by whoever
has put it on, and nothing else is."""

import json
import os

import pytest

from labs import PEER, write_pair

OLD, NEW, LAST = "192.0.2.10/24", "192.0.2.20/24", "192.0.2.30/24"
ADMINS = "192.0.2.99/24"
TIMING = {"timeout_ms": 4000}  # a killed daemon is back before that also where the machine is busy


@pytest.fixture(scope="module")
def pair_lab(make_shared_lab, tmp_path_factory):
    lab = make_shared_lab(config=write_pair(tmp_path_factory.mktemp("pair") / "lab.json", timing=TIMING))
    lab.wait_promotable("primary")
    return lab


def pair_file(lab, host):
    path = os.path.join(lab.base, host, "etc", "lab.json")
    with open(path) as file:
        return path, json.load(file)


def edit(lab, host, addresses, interface="public"):
    path, pair = pair_file(lab, host)
    pair["public_address"] = {"addresses": addresses}
    for end in PEER:
        pair["ends"][end]["public_interface"] = interface
    with open(path, "w") as file:
        json.dump(pair, file)


def restart(lab, host, signal="TERM"):
    run = lab.status(host)["run"]
    lab.exec(host, "pkill", f"-{signal}", "-x", host + "d")
    lab.wait_for(host, "another run", run=lambda now: now not in (None, run))


def on(lab, host, interface="public"):
    """The addresses of the interface, but for those of the host itself and of the link."""
    shown = json.loads(lab.exec(host, "ip", "-j", "address", "show", "dev", interface).stdout)
    found = {f"{entry['local']}/{entry['prefixlen']}" for link in shown for entry in link["addr_info"]
             if entry["scope"] == "global"}
    return found - {entry for entry in found if entry.split("/")[0] in ("192.0.2.11", "192.0.2.12", "fd00:2::11", "fd00:2::12")}


def wait_on(lab, host, wanted, interface="public"):
    lab.wait_until(lambda: on(lab, host, interface) == set(wanted),
                   f"{interface} of {host} to have {wanted}, not {on(lab, host, interface)}")


def settle(lab, wanted, interface="public"):
    lab.wait_promotable("primary")
    wait_on(lab, "primary", wanted, interface)
    wait_on(lab, "secondary", [], interface)


def given(lab, addresses):
    """What a test begins with, whatever an earlier one has left, or not."""
    for host in ("secondary", "primary"):
        if pair_file(lab, host)[1]["public_address"]["addresses"] != addresses:
            edit(lab, host, addresses)
            restart(lab, host)
    settle(lab, addresses)


def test_a_changed_address_leaves_nothing_behind(pair_lab):
    """As the manual says: the passive end's file first. What the administrator has put there stays."""
    given(pair_lab, [OLD, "fd00:2::10/64"])
    pair_lab.exec("primary", "ip", "address", "add", ADMINS, "dev", "public")
    for host in ("secondary", "primary"):
        edit(pair_lab, host, [NEW, "fd00:2::20/64", ADMINS])
        restart(pair_lab, host)
    settle(pair_lab, [NEW, "fd00:2::20/64", ADMINS])
    pair_lab.wait_answered("primary", "http://192.0.2.20/")
    for host in ("secondary", "primary"):
        edit(pair_lab, host, [NEW])
        restart(pair_lab, host)
    settle(pair_lab, [NEW, ADMINS])
    pair_lab.exec("primary", "ip", "address", "del", ADMINS, "dev", "public")


def number_of(lab, host, words):
    """Where the last event with these words is, once there is one."""
    def found():
        texts = [event["text"] for event in lab.events(host)]
        return [number for number, text in enumerate(texts) if words in text]
    return lab.wait_until(found, f"{host} to tell of {words!r}")[-1]


def test_killed_with_a_changed_file_the_old_address_stays_as_long_as_a_grant(pair_lab):
    """The passive end knows the old file, holds a grant, and asks the network for the old address before it takes over."""
    given(pair_lab, [NEW])
    story = pair_lab.story()
    edit(pair_lab, "primary", [LAST, "fd00:2::30/64"])
    restart(pair_lab, "primary", "KILL")
    pair_lab.wait_for("primary", "alone", alone=True)
    wait_on(pair_lab, "primary", [LAST, "fd00:2::30/64"])
    assert "public_address" in pair_lab.status("primary")["peer"]["refused"]
    assert number_of(pair_lab, "primary", "192.0.2.20/24 is off") > number_of(pair_lab, "primary", "-> active")
    assert not story.takeovers()
    edit(pair_lab, "secondary", [LAST, "fd00:2::30/64"])
    restart(pair_lab, "secondary")
    settle(pair_lab, [LAST, "fd00:2::30/64"])
    assert not story.tells("resync by map")


def test_another_interface_and_none_at_all(pair_lab):
    given(pair_lab, [LAST, "fd00:2::30/64"])
    for host in ("secondary", "primary"):
        pair_lab.exec(host, "ip", "link", "add", "extra", "link", "public", "type", "macvlan", "mode", "bridge")
        pair_lab.exec(host, "ip", "link", "set", "extra", "up")
        edit(pair_lab, host, [LAST], interface="extra")
        restart(pair_lab, host)
    settle(pair_lab, [LAST], interface="extra")
    settle(pair_lab, [])
    for host in ("secondary", "primary"):
        edit(pair_lab, host, [], interface="extra")
        restart(pair_lab, host)
    settle(pair_lab, [], interface="extra")


def test_of_a_pair_whose_file_is_gone_no_address_stays(pair_lab):
    for host in ("secondary", "primary"):
        edit(pair_lab, host, [OLD])
        restart(pair_lab, host)
    settle(pair_lab, [OLD])
    path = os.path.join(pair_lab.base, "primary", "etc", "lab.json")
    os.rename(path, path + ".off")
    pair_lab.exec("primary", "pkill", "-TERM", "-x", "primaryd")
    wait_on(pair_lab, "primary", [])
    os.rename(path + ".off", path)
    pair_lab.exec("primary", "pkill", "-TERM", "-x", "primaryd")
    settle(pair_lab, [OLD])
