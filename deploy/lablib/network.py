# SPDX-License-Identifier: Apache-2.0
"""The networks of a lab: two channel networks and a public one, each a bridge in a namespace that is the switch.

Every host has the interfaces channel0 and channel1 (not the client) and `public`, a bridge of its own with the port
`uplink`, to which a guest's interface can be added. Cables end at the switch, in ports named NETWORK-HOST; a cut is a
rule on what the switch forwards between ports, so that hosts see a silent network, not a pulled cable. All cuts are kept
as a list and written as one set of rules, so nothing has to be undone piece by piece.
"""

import subprocess

from .instance import ENDS, LabError, quietly, run

NETWORKS = {"channel": ("channel0", "channel1"), "public": ("public",)}
PORTS = {"channel0": "ch0", "channel1": "ch1", "public": "pub"}
CLIENT = ("192.0.2.1/24", "fd00:2::1/64")
ADDRESSES = {
    "primary": {"channel0": ("198.51.100.1/24", "fd00:100::1/64"), "channel1": ("203.0.113.1/24", "fd00:113::1/64"),
                "public": ("192.0.2.11/24", "fd00:2::11/64")},
    "secondary": {"channel0": ("198.51.100.2/24", "fd00:100::2/64"), "channel1": ("203.0.113.2/24", "fd00:113::2/64"),
                  "public": ("192.0.2.12/24", "fd00:2::12/64")},
    "client": {"public": CLIENT},
}


def _batch(netns, lines):
    argv = ["ip"] + (["-n", netns] if netns else []) + ["-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", text=True, stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise LabError(f"network: {done.stderr.strip()}")


def _port(network, host):
    return f"{PORTS[network]}-{host}"


def _mac(network, host):
    """The same at every boot, as with real network cards: neighbours keep it in their caches."""
    return f"02:00:00:00:{list(PORTS).index(network):02x}:{list(ADDRESSES).index(host) + 1:02x}"


def create(lab):
    """The switch: a namespace with a bridge for each network."""
    switch = lab.netns("switch")
    run(["ip", "netns", "add", switch])
    _batch(switch, [line for bridge in PORTS for line in (
        f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {bridge} up")] + ["link set lo up"])


def connect(lab, host):
    """Gives the host its namespace, interfaces and addresses, and switches the ports on."""
    netns, switch = lab.netns(host), lab.netns("switch")
    run(["ip", "netns", "add", netns])
    cables = [(network, "uplink" if network == "public" else network) for network in ADDRESSES[host]]
    _batch(switch, [f"link add {_port(network, host)} type veth peer name {nic} "
                    f"address {_mac(network, host)} netns {netns}"
                    for network, nic in cables])
    lines = ["link set lo up",
             f"link add public address {_mac('public', host)} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
             "link set uplink master public", "link set uplink up"]
    for network, (ipv4, ipv6) in ADDRESSES[host].items():
        lines += [f"addr add {ipv4} dev {network}", f"addr add {ipv6} dev {network} nodad",
                  f"link set {network} up"]
    _batch(netns, lines)
    _batch(switch, [f"link set {_port(network, host)} master {network} up" for network, _ in cables])
    apply_slow(lab)


def links_down(lab, host):
    """All cables of the host are dead from here on."""
    _batch(lab.netns("switch"), [f"link set {_port(network, host)} down" for network in ADDRESSES[host]])


def disconnect(lab, host):
    """The host's namespace goes, with all addresses in it and the ports of its cables."""
    quietly(["ip", "netns", "del", lab.netns(host)])
    # A process that has not gone yet keeps a namespace alive: its cables go now all the same.
    quietly(["ip", "-n", lab.netns("switch"), "-force", "-batch", "-"],
            input=b"".join(f"link del {_port(network, host)}\n".encode() for network in ADDRESSES[host]))


def destroy(lab):
    for host in (*ADDRESSES, "switch"):
        quietly(["ip", "netns", "del", lab.netns(host)])


def cut_rules(cut):
    """The conditions of nft under which the switch drops a frame, for one cut {network, host, from, peer_only}."""
    rules = []
    for network in NETWORKS[cut["network"]]:
        hosts = [h for h in ADDRESSES if network in ADDRESSES[h]]
        sender, host = cut.get("from"), cut.get("host")
        if cut.get("peer_only"):
            pairs = [(a, b) for a in ENDS for b in ENDS if a != b]
        else:
            pairs = [(a, b) for a in hosts for b in hosts if a != b]
        for a, b in pairs:
            if sender and a != sender:
                continue
            if host and host not in (a, b):
                continue
            rules.append(f'iifname "{_port(network, a)}" oifname "{_port(network, b)}"')
    return rules


def apply_cuts(lab):
    rules = sorted({rule for cut in lab.state["cuts"] for rule in cut_rules(cut)})
    text = "flush ruleset\n"
    if rules:
        text += "table bridge cuts {\n chain forward {\n  type filter hook forward priority 0; policy accept;\n"
        text += "".join(f"  {rule} drop\n" for rule in rules) + " }\n}\n"
    run(["ip", "netns", "exec", lab.netns("switch"), "nft", "-f", "-"], input=text)


def apply_slow(lab):
    """The rate of lab.state["slow"] (bytes or bits a second, as tc writes them), in each direction of each channel."""
    rate = lab.state.get("slow")
    for network in NETWORKS["channel"]:
        for host in ENDS:
            argv = ["tc", "-n", lab.netns("switch"), "qdisc"]
            if rate:
                try:
                    run(argv + ["replace", "dev", _port(network, host), "root", "tbf", "rate", rate,
                                "burst", "32kb", "latency", "100ms"])
                except LabError:
                    if host_is_connected(lab, host):
                        raise
            else:
                quietly(argv + ["del", "dev", _port(network, host), "root"])


def host_is_connected(lab, host):
    names = run(["ip", "-n", lab.netns("switch"), "-o", "link"])
    return any(_port(network, host) in names for network in ADDRESSES[host])
