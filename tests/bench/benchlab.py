# SPDX-License-Identifier: Apache-2.0
"""The lab that the benchmark measures in: up, down, entering it, its pairs' status and its daemons."""

import json
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "deploy"))
from lablib import host as hosts, pairfile  # noqa: E402
from lablib.instance import VOLUMES, Instance  # noqa: E402

import process  # noqa: E402

LAB = os.path.join(TOP, "deploy", "lab")


class LabFailed(Exception):
    """A command of the lab failed."""


class BenchLab:
    def __init__(self):
        self.instance = Instance(os.environ["LAB"])
        self.pairs = 0

    def run(self, *arguments):
        done = subprocess.run([LAB, *arguments], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise LabFailed(f"lab {' '.join(arguments)}: {done.stdout.strip()}")

    def up(self, directory, *arguments):
        self.run("up", "--config", directory, *arguments)
        self.instance.load()

    def down(self):
        self.run("down")

    def enter(self, host, argv):
        return hosts.enter_argv(self.instance, host, argv)

    def status(self, host, pair):
        done = subprocess.run(self.enter(host, ["pairctl", "-p", pair, "status", "--json"]), text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        try:
            return json.loads(done.stdout) if done.returncode == 0 else {}
        except ValueError:
            return {}

    def daemons(self, names=("primaryd", "secondaryd")):
        found = {}
        for host in ("primary", "secondary"):
            for name, pid in process.of_group(os.path.join(self.instance.cgroup, host)).items():
                if any(name.startswith(wanted) for wanted in names):
                    found[f"{name}" if name in ("primaryd", "secondaryd") else f"{name}@{host}"] = pid
        return found


def write_pair(directory, name, mode, size, port, whole=False):
    """One pair file. `whole`: with address and application; else only the volume, as several share the lab."""
    pair = pairfile.default(mode)
    pair["pair"] = name
    pair["channel"]["key"] = f"/etc/understudy/{name}.key"
    pair["channel"]["public_port"] = port + 100
    pair["channel"]["management_port"] = port + 105
    for path in pair["channel"]["paths"]:
        path["port"] = port
    pair["volumes"][0]["size"] = size
    for end in ("primary", "secondary"):
        pair["volumes"][0][end]["path"] = f"{VOLUMES}/{name}.img"
    if not whole:
        pair["applications"] = []
        pair["public_address"]["addresses"] = [f"192.0.2.{port % 100 + 50}/24"]
    with open(os.path.join(directory, name + ".json"), "w") as file:
        json.dump(pair, file, indent=4)
