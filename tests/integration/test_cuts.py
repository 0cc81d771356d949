# SPDX-License-Identifier: Apache-2.0
"""Networks that fail: cut, cut in one direction, blinking. Who goes alone, who steps down, who takes over, and that
never two ends answer on the public address.
"""

import os
import time

import pytest

from conftest import HERE, PEER, PUBLIC_ADDRESS, write_pair
from lablib import network

APP_GROUP = "/sys/fs/cgroup/understudy/lab/{host}/http"
TIMEOUT_S, MARGIN_S = 2.0, 0.3  # of the lab's pair


def mac(host):
    return network._mac("public", host)


@pytest.fixture(scope="module")
def shared(make_shared_lab, tmp_path_factory):
    return make_shared_lab(config=write_pair(tmp_path_factory.mktemp("pair") / "lab.json"))


@pytest.fixture
def lab(shared):
    return shared.normal()


class Watch:
    """What is to be seen of the public address: at the client, and inside both hosts."""

    def __init__(self, lab, directory):
        self.files = {host: str(directory / host) for host in ("client", "primary", "secondary")}
        lab.popen("client", os.path.join(HERE, "watch_public.py"), "public", PUBLIC_ADDRESS, self.files["client"])
        for host in PEER:
            lab.popen(host, os.path.join(HERE, "watch_end.py"), PUBLIC_ADDRESS, APP_GROUP.format(host=host),
                      self.files[host])
        lab.wait_until(lambda: self.answers() and self.lines("primary") and self.lines("secondary"),
                       "the watchers to see something")

    def lines(self, name):
        try:
            with open(self.files[name]) as file:
                return [(float(line.split()[0]), line.split()[1:]) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def answers(self, host=None):
        """The times at which the public address answered the client (with that host's MAC)."""
        return [at for at, words in self.lines("client") if words[0] == "answer" and host in (None, self.owner(words))]

    @staticmethod
    def owner(words):
        return {mac(host): host for host in PEER}[words[-1]]

    def changes(self, host, what, to):
        return [at for at, words in self.lines(host) if words == [what, to]]

    def announced(self, host, since):
        return {words[1] for at, words in self.lines("client")
                if words[0] == "announce" and at > since and self.owner(words) == host}

    def never_both(self, crashed=None):
        """At no time did both hosts have the address. Returns who answered the client, one after the other.

        `crashed` is when a host that had it died (with its watcher)."""
        spans = {}
        for host in PEER:
            on = self.changes(host, "address", "on")
            off = self.changes(host, "address", "off") + [crashed or float("inf"), float("inf")]
            spans[host] = [(begin, min(end for end in off if end > begin)) for begin in on]
        for begin, end in spans["primary"]:
            for other_begin, other_end in spans["secondary"]:
                assert end <= other_begin or other_end <= begin, spans
        order = [self.owner(words) for _, words in self.lines("client") if words[0] == "answer"]
        turns = [host for i, host in enumerate(order) if i == 0 or order[i - 1] != host]
        return turns


@pytest.mark.row("channel cut, public network whole")
def test_cut_channel_primary_goes_alone_passive_is_stale(lab, tmp_path):
    watch, story = Watch(lab, tmp_path), lab.story()
    lab.cut("channel")
    lab.wait_for("primary", "alone", role="active", alone=True)
    stale = lab.wait_for("secondary", "stale, and to say so", role="passive", granted=False,
                         stale_ms=lambda ms: ms is not None, why=lambda why: "stale" in why)
    # The public network stands: the peer is heard over it all the time.
    assert lab.status("primary")["peer"]["connected"]
    lab.exec("primary", "qemu-io", "-f", "raw", "-c", "write -P 0x11 0 1M", "-c", "flush", lab.uri("primary"))
    later = lab.wait_for("secondary", "stale for longer",
                         stale_ms=lambda ms: ms is not None and ms > stale["stale_ms"])
    assert later["role"] == "passive"
    lab.heal()
    lab.wait_promotable("primary")
    lab.wait_for("secondary", "no longer stale", stale_ms=None)
    assert not story.tells("resync by map")
    assert [text for text in story.texts("primary") if text.startswith("alone: ")]
    assert not story.tells("taking over", "probing", hosts=["secondary"])
    assert watch.never_both() == ["primary"]
    lab.same_content()


@pytest.mark.row("channel cut, public network whole")
@pytest.mark.parametrize("sender", ["primary", "secondary"])
def test_channel_cut_one_way(lab, sender):
    story = lab.story()
    lab.cut("channel", "--one-way", sender)
    lab.wait_for("primary", "alone", role="active", alone=True)
    lab.wait_for("secondary", "stale", role="passive", stale_ms=lambda ms: ms is not None)
    lab.heal()
    lab.wait_promotable("primary")
    assert not story.tells("resync by map")
    assert not story.takeovers()


def test_nothing_that_the_secondary_sends_arrives(lab):
    """It still hears the primary, and hears its no, or finds that no waypoint answers: whichever is first, it does not
    take over.
    """
    story = lab.story()
    lab.cut("channel", "--one-way", "secondary")
    lab.cut("public", "--one-way", "secondary")
    lab.wait_for("primary", "without its peer", role="active", peer=lambda peer: not peer["connected"])
    lab.wait_for("secondary", "stale", role="passive", stale_ms=lambda ms: ms is not None)
    lab.heal()
    lab.wait_promotable("primary")
    assert not story.takeovers()


def test_an_isolated_secondary_does_not_take_over(lab):
    """It hears nothing and holds a grant: it asks, no waypoint answers, and so it is the isolated one."""
    story = lab.story()
    lab.cut("channel")
    lab.cut("public", "secondary")
    lab.wait_until(lambda: story.tells("no waypoint answers", hosts=["secondary"]),
                   "the secondary to find itself isolated")
    lab.wait_for("secondary", "stale", role="passive", stale_ms=lambda ms: ms is not None)
    lab.heal()
    lab.wait_promotable("primary")
    assert not story.takeovers()


@pytest.mark.row("channel and public network of the active cut")
def test_nothing_that_the_primary_sends_arrives(lab, tmp_path):
    """It is cut off from peer and waypoint alike: it steps down before the secondary takes over."""
    watch = Watch(lab, tmp_path)
    began = time.monotonic()
    lab.cut("channel", "--one-way", "primary")
    lab.cut("public", "--one-way", "primary")
    lab.wait_active("secondary")
    lab.wait_until(lambda: watch.answers("secondary"), "the secondary to answer at the public address")
    off = min(at for at in watch.changes("primary", "address", "off") if at > began)
    on = min(at for at in watch.changes("secondary", "address", "on") if at > began)
    assert off < on
    lab.heal()
    lab.wait_promotable("secondary")
    assert watch.never_both() == ["primary", "secondary"]
    lab.same_content()


@pytest.mark.row("channel and public network of the active cut")
def test_isolated_primary_is_suspended_before_the_secondary_takes_over(lab, tmp_path):
    watch, story = Watch(lab, tmp_path), lab.story()
    began = time.monotonic()
    lab.cut("channel")
    lab.cut("public", "primary")
    lab.wait_active("secondary")
    lab.wait_for("primary", "suspended", state="suspended", public_address=lambda address: not address["enabled"])
    lab.wait_until(lambda: watch.answers("secondary"), "the secondary to answer at the public address")
    off = min(at for at in watch.changes("primary", "address", "off") if at > began)
    frozen = min(at for at in watch.changes("primary", "frozen", "on") if at > began)
    on = min(at for at in watch.changes("secondary", "address", "on") if at > began)
    assert off < on and frozen < on, (off, frozen, on)
    assert frozen - began > TIMEOUT_S / 2, "it need not step down at once"
    assert not story.tells("alone: ", hosts=["primary"])
    # Its applications are suspended, not destroyed.
    lab.exec("primary", "sh", "-c", "kill -0 $(cat /run/http-application/pid)")
    # Whatever the new active end writes is what counts.
    lab.exec("secondary", "qemu-io", "-f", "raw", "-c", "write -P 0x22 0 1M", "-c", "flush", lab.uri("secondary"))
    healed = time.monotonic()
    lab.heal()
    lab.wait_promotable("secondary")
    lab.wait_for("primary", "passive", state="passive")
    lab.wait_until(lambda: lab.exec("primary", "sh", "-c", "kill -0 $(cat /run/http-application/pid)",
                                    check=False).returncode != 0, "what was frozen to be gone")
    assert not [at for at in watch.changes("primary", "address", "on") if at > began]
    assert watch.never_both() == ["primary", "secondary"]
    assert not [at for at in watch.answers("primary") if at > healed]
    lab.same_content()
    lab.wait_answered("secondary")


def test_addresses_of_both_families_answer_after_a_takeover(lab, tmp_path):
    """The client has the old owner in its neighbour cache, and learns from the announcements."""
    watch = Watch(lab, tmp_path)
    for url in (f"http://{PUBLIC_ADDRESS}/", "http://[fd00:2::10]/"):
        lab.wait_answered("primary", url)
    began = lab.crash("primary")
    dead = time.monotonic()
    lab.wait_active("secondary")
    for url in (f"http://{PUBLIC_ADDRESS}/", "http://[fd00:2::10]/"):
        lab.wait_answered("secondary", url)
    # Both forms of ARP, and the neighbour advertisement, all the time in the first seconds.
    lab.wait_until(lambda: watch.announced("secondary", began) == {"request", "reply", "neighbour"}, "announcements")
    first = [at for at, words in watch.lines("client") if words[0] == "announce" and at > began]
    lab.wait_until(lambda: [at for at, words in watch.lines("client")
                            if words[0] == "announce" and at > first[0] + 3], "announcements to be repeated")
    assert watch.never_both(crashed=dead) == ["primary", "secondary"]
    lab.start("primary")
    lab.wait_promotable("secondary")


def as_before(lab, story, watch):
    lab.wait_promotable("primary")
    lab.wait_answered("primary")
    assert not story.takeovers()
    assert not story.tells("resync by map", "yields")
    assert watch.never_both() == ["primary"]


@pytest.mark.row("the public network of both blinks (switch reboot)")
@pytest.mark.parametrize("cut", [("public", "primary"), ("public", "secondary"), ("public",)],
                         ids=["of-primary", "of-secondary", "of-both"])
def test_public_network_blinks(lab, tmp_path, cut):
    """For longer than the timeout, shorter than for ever: nobody takes over, and everything is as before."""
    watch, story = Watch(lab, tmp_path), lab.story()
    pid = lab.exec("primary", "cat", "/run/http-application/pid").stdout
    lab.cut(*cut)
    time.sleep(3)
    lab.heal()
    as_before(lab, story, watch)
    assert lab.exec("primary", "cat", "/run/http-application/pid").stdout == pid, "suspended at most"
    lab.exec("primary", "sh", "-c", "kill -0 $(cat /run/http-application/pid)")


@pytest.mark.row("the public network of both blinks (switch reboot)")
def test_everything_blinks(lab, tmp_path):
    """All networks are silent for longer than the timeout. The primary steps down; whoever sees the waypoint first may
    go on, but only one of them.
    """
    watch = Watch(lab, tmp_path)
    began = time.monotonic()
    lab.cut("channel")
    lab.cut("public")
    lab.wait_until(lambda: [at for at in watch.changes("primary", "address", "off") if at > began],
                   "the primary to step down")
    lab.heal()
    lab.wait_answered(lab.wait_one_promotable())
    assert watch.never_both() in (["primary"], ["primary", "secondary"])
    lab.same_content()


def test_who_has_lost_the_address_while_it_was_stopped_announces_nothing(lab, tmp_path):
    """Behind a switch the new active end tells the neighbours for ten seconds. Stopped in the midst of that, it loses the
    address to its guard, and goes on much later: with nothing to say."""
    lab.pairctl("primary", "switch")
    lab.wait_promotable("secondary")
    watch = Watch(lab, tmp_path)
    lab.exec("secondary", "sh", "-c", "kill -STOP $(pidof secondaryd)")
    lab.wait_active("primary")
    lost = time.monotonic()
    lab.exec("secondary", "sh", "-c", "kill -CONT $(pidof secondaryd)")
    lab.wait_promotable("primary")
    lab.wait_until(lambda: watch.announced("primary", 0), "the new owner to be announced")
    assert not watch.announced("secondary", lost)
    assert watch.never_both() == ["secondary", "primary"]
