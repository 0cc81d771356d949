# SPDX-License-Identifier: Apache-2.0
"""Two pairs in opposite directions: each host is the Primary of one, and both work at once."""

import json

import pytest

from lablib import instance, pairfile

HTTP = """#!/bin/sh
# An application that answers HTTP at the public address of its pair alone.
run=/run/http-$UNDERSTUDY_PAIR
case "$1" in
start)
    mkdir -p "$run"
    echo "$UNDERSTUDY_PAIR on $(hostname)" >"$run/index.html"
    busybox httpd -f -p "${UNDERSTUDY_ADDRESSES%%/*}:80" -h "$run" </dev/null >/dev/null 2>&1 &
    echo $! >"$run/pid" ;;
stop) kill "$(cat "$run/pid")" ;;
status) kill -0 "$(cat "$run/pid")" ;;
esac
"""
ADDRESS = {"east": "192.0.2.21", "west": "192.0.2.22"}
HOME = {"east": "primary", "west": "secondary"}  # the host of the pair's Primary


def swapped(pair):
    """The same pair with its Primary on the other host."""
    ends = pair["ends"]
    pair["ends"] = {"primary": ends["secondary"], "secondary": ends["primary"]}
    for path in pair["channel"]["paths"]:
        path["primary"], path["secondary"] = path["secondary"], path["primary"]
    return pair


def write_pairs(directory):
    (directory / "http").write_text(HTTP)
    (directory / "http").chmod(0o755)
    for number, name in enumerate(ADDRESS):
        pair = pairfile.default("sync", [ADDRESS[name] + "/24"])
        pair = swapped(pair) if HOME[name] == "secondary" else pair
        store = {"path": f"{instance.VOLUMES}/{name}.img"}
        pair.update(pair=name, applications=[{"name": "http", "kind": "script", "command": "/etc/understudy/http"}],
                    volumes=[{"name": "disk", "size": "64M", "primary": store, "secondary": store}])
        pair["channel"].update(key=f"/etc/understudy/{name}.key", public_port=7502 + 10 * number,
                               management_port=7504 + 10 * number)
        for path in pair["channel"]["paths"]:
            path["port"] = 7700 + 10 * number
        (directory / f"{name}.json").write_text(json.dumps(pair, indent=1))


@pytest.fixture
def lab(make_lab, tmp_path):
    config = tmp_path / "config"
    config.mkdir()
    write_pairs(config)
    return make_lab(config=config)


def status(lab, host, pair):
    done = lab.pairctl(host, "-p", pair, "status", "--json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def wait_promotable(lab, pair, active):
    passive = {"primary": "secondary", "secondary": "primary"}[active]

    def good():
        here, there = status(lab, active, pair), status(lab, passive, pair)
        return here.get("role") == "active" and there.get("granted") and there.get("synchronized") and not here["alone"]
    lab.wait_until(good, f"{pair} to be promotable, active on {active}")


def wait_answer(lab, pair, host):
    def good():
        return lab.exec("client", "curl", "-sf", "-m", "2", f"http://{ADDRESS[pair]}/",
                        check=False).stdout == f"{pair} on {host}\n"
    lab.wait_until(good, f"{pair} to be answered by {host}")


def be_alone(lab):
    """Until both pairs are alone on the primary host, whose peer is dead. One whose waypoint's answers have a gap meanwhile,
    for which it is enough that this machine is very busy, has to step down: then the peer comes back, and dies again."""
    def outcome():
        ends = [status(lab, "primary", pair) for pair in ADDRESS]
        states = {end.get("state") for end in ends}
        if "suspended" in states:
            return "suspended"
        return states == {"active"} and all(end["alone"] for end in ends) and "alone"
    for _ in range(5):
        if lab.wait_until(outcome, "both pairs to be alone") == "alone":
            return
        lab.start("secondary")
        for pair in ADDRESS:
            wait_promotable(lab, pair, "primary")
        lab.crash("secondary")
    raise AssertionError("an end has stepped down each time: the waypoint's answers had gaps")


def test_each_host_carries_one_and_can_carry_both(lab):
    for pair, host in HOME.items():
        wait_promotable(lab, pair, host)
        wait_answer(lab, pair, host)
    for host in HOME.values():
        found = json.loads(lab.pairctl(host, "status", "--json").stdout)
        assert sorted(one["pair"] for one in found) == ["east", "west"]
        assert lab.pairctl(host, "switch", check=False).returncode != 0, "which one?"
    lab.crash("secondary")
    # The pair that was active there is taken over, the other one goes on alone.
    wait_answer(lab, "west", "primary")
    be_alone(lab)
    for pair in ADDRESS:
        wait_answer(lab, pair, "primary")
    lab.start("secondary")
    for pair in ADDRESS:
        wait_promotable(lab, pair, "primary")
    assert lab.pairctl("secondary", "-p", "west", "switch").returncode == 0
    wait_answer(lab, "west", "secondary")
    wait_promotable(lab, "west", "secondary")
    wait_promotable(lab, "east", "primary")
    wait_answer(lab, "east", "primary")
