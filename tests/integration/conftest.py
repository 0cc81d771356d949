# SPDX-License-Identifier: Apache-2.0
"""What pytest gives to the tests: `make_lab` makes whole pairs (labs.py), and takes them down whatever happened.

When a test fails, its report carries the daemons' logs and both ends' histories; set LAB_KEEP=1 to look at its lab.
"""

import os
import subprocess

import pytest

from labs import (BUILD, HERE, LAB, PEER, PUBLIC_ADDRESS, TOP, WAIT_SECONDS, Lab, LabFailed, Story,  # noqa: F401
                  write_pair)

def pytest_configure(config):
    config.addinivalue_line("markers", "row(failure): shows a row of the table of failures in docs/ARCHITECTURE.md")


_labs = pytest.StashKey()


def _labs_of(request):
    """What makes the labs of a test, or of all tests of a module, and takes them down behind it."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    for name in ("primaryd", "secondaryd", "pairctl"):
        if not os.path.exists(os.path.join(BUILD, name, name)):
            pytest.skip(f"{BUILD} has no {name}; deploy/build builds it")
    labs = request.node.stash.setdefault(_labs, [])

    def make(**options):
        lab = Lab()
        labs.append(lab)
        return lab.up(**options)

    yield make
    if os.environ.get("LAB_KEEP") and request.node.stash.get(_failed, False):
        print("kept:", *(f"LAB={lab.name}" for lab in labs))
        return
    fatal = [line for lab in labs for line in lab.fatal()]
    for lab in labs:
        lab.down()
    assert not fatal, "\n".join(fatal)


@pytest.fixture
def make_lab(request):
    """make_lab(mode="sync", powerfs=False, config=None): a lab that is up; taken down after the test."""
    yield from _labs_of(request)


@pytest.fixture(scope="module")
def make_shared_lab(request):
    """The same for a lab that all tests of a module use, one after the other."""
    yield from _labs_of(request)


@pytest.fixture
def lab(make_lab, tmp_path):
    """The lab's own pair, with a small volume, in `sync`, mirrored once and promotable."""
    lab = make_lab(config=write_pair(tmp_path / "lab.json"))
    lab.wait_promotable("primary")
    return lab


@pytest.fixture(scope="session")
def guest_files():
    """Where the kernel and the initramfs of a guest are; made in the build tree if they are not there."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    directory = os.path.join(BUILD, "guest")
    done = subprocess.run([os.path.join(TOP, "deploy", "guest"), directory], text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        pytest.skip("deploy/guest: " + (done.stdout.strip().splitlines() or ["it failed"])[-1])
    return directory


_failed = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and report.when in ("setup", "call"):
        for node in item.listchain():
            node.stash[_failed] = True
            for lab in node.stash.get(_labs, []):
                report.sections.append((f"lab {lab.name}", lab.report()))
