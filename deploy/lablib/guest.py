# SPDX-License-Identifier: Apache-2.0
"""The guest of the demo and of tests as an application of a pair: what deploy/guest has made, as a libvirt domain."""

import os

from .instance import TOP

NAME = "guest"
DOMAIN = "understudy-guest"
XML = "/etc/understudy/guest.xml"  # in the hosts
CLIENTS = os.path.join(TOP, "deploy", "lablib", "ledger.py")


def application():
    return {"name": NAME, "kind": "domain", "xml": XML}


def write_xml(config, guest, public):
    """Puts the domain's XML into the directory `config`, of which the hosts get a copy. `guest` is where deploy/guest has
    put kernel and initramfs, `public` the address whose port 80 is the guest's."""
    with open(os.path.join(TOP, "deploy", "lablib", "guest.xml")) as file:
        xml = file.read()
    with open(os.path.join(config, os.path.basename(XML)), "w") as file:
        file.write(xml.replace("@DIRECTORY@", str(guest)).replace("@PUBLIC@", public))
