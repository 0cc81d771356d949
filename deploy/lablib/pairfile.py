# SPDX-License-Identifier: Apache-2.0
"""Pair files of a lab: the default one, made here and nowhere else, and what the lab has to know of any.

Of a pair file the lab reads which host runs which daemon, which files of a host have to exist (stores, key), and
whether there are domains, so that libvirtd is needed. It believes anything: checking is the daemons' work.
"""

import json
import os
import re

from .instance import ENDS, MOUNT_POINTS, TOP, VOLUMES, LabError

APPLICATION = os.path.join(TOP, "deploy", "lablib", "http-application")
VOLUME_SIZE = 1 << 30


def default(mode, public=("192.0.2.10/24", "fd00:2::10/64")):
    """The pair `lab`: one volume, one public address in both families, one script that answers HTTP on it."""
    return {
        "format": 1,
        "pair": "lab",
        "mode": mode,
        "ends": {
            "primary": {"host": "primary", "management": "192.0.2.11", "public_interface": "public"},
            "secondary": {"host": "secondary", "management": "192.0.2.12", "public_interface": "public"},
        },
        "channel": {
            "paths": [
                {"primary": "198.51.100.1", "secondary": "198.51.100.2", "port": 7700},
                {"primary": "203.0.113.1", "secondary": "203.0.113.2", "port": 7700},
            ],
            "key": "/etc/understudy/lab.key",
        },
        "volumes": [{
            "name": "disk",
            "size": VOLUME_SIZE,
            "primary": {"path": VOLUMES + "/disk.img"},
            "secondary": {"path": VOLUMES + "/disk.img"},
        }],
        "public_address": {"addresses": list(public)},
        "waypoints": ["192.0.2.1"],
        "applications": [{"name": "http", "kind": "script", "command": APPLICATION}],
    }


def _strip_comments(text):
    """JSON with // and /* */ comments made plain; strings are left alone."""
    token = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
    return token.sub(lambda m: m.group(0) if m.group(0).startswith('"') else " ", text)


def read(path):
    """Every pair in a file, or in the *.json of a directory: [(file name, text, parsed)]."""
    files = [path]
    if os.path.isdir(path):
        files = sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(".json"))
    pairs = []
    for file in files:
        try:
            with open(file) as opened:
                text = opened.read()
            pairs.append((os.path.basename(file), text, json.loads(_strip_comments(text))))
        except (OSError, ValueError) as error:
            raise LabError(f"{file}: {error}") from None
    if not pairs:
        raise LabError(f"{path}: no pair file (*.json) there")
    return pairs


def daemons(pair):
    """{host: the daemon that it runs for this pair}."""
    try:
        return {pair["ends"][end]["host"]: end + "d" for end in ENDS}
    except (KeyError, TypeError):
        raise LabError("a pair file without ends.primary.host and ends.secondary.host") from None


def size_bytes(size):
    """A size as pair files write it: a number, or one with a unit ("1GiB", "512 MiB")."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+)\s*(?:([KMGT])(?:iB)?|B?)\s*", str(size))
    if not match:
        raise LabError(f"volume size {size!r} is not a number with a unit")
    return int(match.group(1)) << {None: 0, "K": 10, "M": 20, "G": 30, "T": 40}[match.group(2)]


def store_files(pair):
    """[(host, path, bytes)]: the stores that are plain files."""
    files = []
    for volume in pair.get("volumes", []):
        for end in ENDS:
            path = volume.get(end, {}).get("path", "")
            if path.startswith(("iscsi:", "/dev/")):
                continue
            if not any(path.startswith(point + "/") for point in MOUNT_POINTS):
                raise LabError(f"the store {path} would be one file for both hosts; put it into {VOLUMES}, "
                               "of which each host has its own")
            files.append((pair["ends"][end]["host"], path, size_bytes(volume["size"])))
    return files


def key_file(pair):
    return pair.get("channel", {}).get("key")


def has_domain(pair):
    return any(app.get("kind") == "domain" for app in pair.get("applications", []))
