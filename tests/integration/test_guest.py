# SPDX-License-Identifier: Apache-2.0
"""A libvirt guest with a real kernel on the protected volume: it outlives its daemon, its libvirtd and its host.

Clients append records to the guest's service at the public address all along; whatever the guest has acknowledged has
to be on its disk, on whichever host it runs. Each test takes the pair as the one before has left it: whole.
"""

import os
import re

import pytest

from conftest import PEER, PUBLIC_ADDRESS, TOP, WAIT_SECONDS, write_pair
from lablib import guest
from lablib.ledger import Ledger

BOOT_SECONDS = 4 * WAIT_SECONDS  # emulated: two on a quiet machine, but every neighbour makes it slower
STRANGER = f"""<domain type='qemu'>
  <name>{guest.DOMAIN}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><memballoon model='none'/></devices>
</domain>
"""


class Clients:
    def __init__(self, lab, directory):
        self.lab, self.path = lab, str(directory / "ledger")
        open(self.path, "w").close()
        lab.popen("client", "/usr/bin/python3", "-IS", guest.CLIENTS, PUBLIC_ADDRESS, self.path, "2")

    def get(self, path):
        return self.lab.exec("client", "curl", "-sSf", "-m", "20", f"http://{PUBLIC_ADDRESS}{path}").stdout

    def wait_acknowledged(self, count=20):
        """Until so many more records, sent from now on, were acknowledged."""
        sent = max(Ledger(self.path).tried, default=0)
        self.lab.wait_until(lambda: len([number for number in Ledger(self.path).acked if number > sent]) >= count,
                            f"{count} acknowledged records", BOOT_SECONDS)

    def assert_all_there(self):
        """The clients go on: what was acknowledged is read before the records are, what was sent after them."""
        acknowledged = Ledger(self.path)
        records = [int(line) for line in self.get("/list").split()]
        assert acknowledged.missing(records) == []
        assert Ledger(self.path).invented(records) == []

    def assert_checked(self):
        """This boot of the guest found its file system whole, once its journal was replayed."""
        said = self.get("/check")
        assert "e2fsck: status 0" in said, said


@pytest.fixture(scope="module")
def lab(make_shared_lab, tmp_path_factory, guest_files):
    config = tmp_path_factory.mktemp("config")
    write_pair(config / "lab.json", applications=[guest.application()],
               public_address={"addresses": [PUBLIC_ADDRESS + "/24"]})
    guest.write_xml(config, guest_files, PUBLIC_ADDRESS)
    return make_shared_lab(config=config)


@pytest.fixture(scope="module")
def clients(lab, tmp_path_factory):
    return Clients(lab, tmp_path_factory.mktemp("clients"))


@pytest.fixture
def active(lab, clients):
    """The host where the guest runs and answers, its peer being promotable."""
    host = lab.wait_one_promotable()
    lab.wait_for(host, "running the guest", applications=lambda apps: apps[0]["state"] == "running")
    clients.wait_acknowledged()
    return host


def qemu(lab, host):
    """The number, inside the host, of the process in which the guest runs; "" for none."""
    return lab.exec(host, "pidof", "qemu-system-x86_64", check=False).stdout.strip()


def libvirt_directory(lab, host):
    return os.path.join(lab.base, host, "libvirt")


def kill_libvirtd(lab, host):
    with open(os.path.join(libvirt_directory(lab, host), "libvirtd.pid")) as file:
        lab.exec(host, "kill", "-9", file.read().strip())


def start_libvirtd(lab, host):
    lab.exec(host, os.path.join(TOP, "deploy", "lab-libvirtd"), libvirt_directory(lab, host))


def guest_said(lab, host):
    with open(os.path.join(lab.base, host, "log", "guest.log"), errors="replace") as file:
        return re.findall(r"guest: [\d.]+ s: (.*)", file.read())


def restart(lab, host):
    run = lab.status(host)["run"]
    lab.kill(host)
    lab.wait_for(host, "another run", run=lambda now: now != run)


@pytest.mark.row("the active's daemon is killed, its host lives")
def test_its_io_waits_while_the_daemon_is_restarted(lab, clients, active):
    """The same guest goes on; it is not started again, nobody takes over, nothing is mirrored again."""
    story, process = lab.story(), qemu(lab, active)
    for _ in range(2):
        restart(lab, active)
        clients.wait_acknowledged()
    lab.wait_promotable(active)
    assert qemu(lab, active) == process
    assert not story.takeovers(PEER[active])
    assert not story.tells("resync by map", "application guest restarted", "died")
    lab.wait_for(active, "running the guest", applications=lambda apps: apps[0]["state"] == "running")
    clients.assert_all_there()


def test_libvirtd_dies_and_comes_back(lab, clients, active):
    """The guest does not notice; the daemon finds the domain again, and can stop it in order."""
    story, process = lab.story(), qemu(lab, active)
    kill_libvirtd(lab, active)
    clients.wait_acknowledged()
    lab.wait_until(lambda: story.tells("libvirt", hosts=[active]), "the history to say that libvirt is gone")
    start_libvirtd(lab, active)
    lab.wait_for(active, "running the guest", applications=lambda apps: apps[0]["state"] == "running")
    assert qemu(lab, active) == process
    clients.wait_acknowledged()
    lab.pairctl(active, "switch")
    assert guest_said(lab, active)[-1] == "stopping", "in order"
    assert qemu(lab, active) == ""
    clients.wait_acknowledged()
    clients.assert_all_there()
    clients.assert_checked()


@pytest.mark.row("the active's daemon is killed, its host lives")
def test_the_guard_steps_down_beside_a_dead_libvirtd(lab, clients, active):
    """It needs neither the daemon nor libvirtd: the address is off and the guest held before the other host serves."""
    passive = PEER[active]
    kill_libvirtd(lab, active)
    lab("kill", active, "--hold")
    lab.wait_active(passive)
    assert PUBLIC_ADDRESS not in lab.exec(active, "ip", "address", "show", "public").stdout
    held = lab.exec(active, "ps", "-o", "stat=", "-p", qemu(lab, active)).stdout
    assert held.startswith("T"), held
    clients.wait_acknowledged()
    lab.start(active)
    lab.wait_until(lambda: qemu(lab, active) == "", "what was held to be gone")
    start_libvirtd(lab, active)
    lab.wait_promotable(passive)
    assert qemu(lab, active) == "", "it runs once"
    clients.assert_all_there()
    clients.assert_checked()


@pytest.mark.row("the active's host dies")
def test_it_runs_on_the_other_host_after_a_crash(lab, clients, active):
    passive = PEER[active]
    assert qemu(lab, passive) == ""
    lab.crash(active)
    lab.wait_active(passive)
    clients.wait_acknowledged()
    assert qemu(lab, passive)
    clients.assert_all_there()
    clients.assert_checked()
    lab.start(active)
    lab.wait_promotable(passive)
    assert qemu(lab, active) == "", "it runs once"


@pytest.mark.parametrize("how", ["define", "create"])
def test_a_domain_of_that_name_on_the_passive_end_is_an_error_that_names_it(lab, active, tmp_path, how):
    passive, story = PEER[active], lab.story()
    (tmp_path / "stranger.xml").write_text(STRANGER)
    virsh = ["virsh", "--quiet", "--connect", "qemu:///system"]
    lab.exec(passive, *virsh, how, tmp_path / "stranger.xml")
    state = {"define": "defined", "create": "running"}[how]
    lab.wait_until(lambda: [text for text in story.texts(passive) if guest.DOMAIN in text and state in text],
                   "the history to name the domain")
    lab.wait_for(passive, "showing it", applications=lambda apps: apps[0]["state"] == "foreign")
    restart(lab, passive)
    lab.wait_for(passive, "showing it", applications=lambda apps: apps[0]["state"] == "foreign")
    lab.wait_promotable(active)
    assert guest.DOMAIN in lab.exec(passive, *virsh, "list", "--all", "--name").stdout, "it is left alone"
    lab.exec(passive, *virsh, {"define": "undefine", "create": "destroy"}[how], guest.DOMAIN)
    lab.wait_for(passive, "rid of it", applications=lambda apps: apps[0]["state"] == "stopped")
