#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""Runs inside the client of the lab: asks for a public address every 5 ms by ARP, as arping does, and writes down who
answers, and what is announced.

    watch_public.py INTERFACE ADDRESS FILE

Lines: "SECONDS answer MAC", "SECONDS announce request|reply MAC" (ARP) and "SECONDS announce neighbour MAC" (unsolicited
neighbour advertisements, for any address).
"""

import os
import socket
import struct
import sys
import time

ETH_P_ALL, ETH_P_ARP, ETH_P_IPV6 = 3, 0x0806, 0x86DD
ICMPV6, NEIGHBOUR_ADVERTISEMENT = 58, 136


def mac_text(mac):
    return ":".join(f"{byte:02x}" for byte in mac)


def request(own_mac, own_ip, address):
    return (b"\xff" * 6 + own_mac + struct.pack("!HHHBBH", ETH_P_ARP, 1, 0x0800, 6, 4, 1) + own_mac +
            socket.inet_aton(own_ip) + bytes(6) + socket.inet_aton(address))


def own_address(interface):
    with open(f"/sys/class/net/{interface}/address") as file:
        return bytes.fromhex(file.read().strip().replace(":", ""))


def judge(frame, own_mac, address):
    """What a frame says; None when it says nothing that is looked for."""
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == ETH_P_ARP and len(frame) >= 42 and frame[6:12] != own_mac:
        op, sender, sender_ip, target_ip = (struct.unpack("!H", frame[20:22])[0], frame[22:28], frame[28:32], frame[38:42])
        if sender_ip != socket.inet_aton(address):
            return None
        if sender_ip == target_ip:
            return f"announce {'request' if op == 1 else 'reply'} {mac_text(sender)}"
        if op == 2:
            return f"answer {mac_text(sender)}"
    if kind == ETH_P_IPV6 and len(frame) >= 78 and frame[20] == ICMPV6 and frame[54] == NEIGHBOUR_ADVERTISEMENT:
        solicited = frame[58] & 0x40
        return None if solicited else f"announce neighbour {mac_text(frame[6:12])}"
    return None


def main():
    interface, address, path = sys.argv[1:4]
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))  # what is seen is seen at once, on a busy machine too
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((interface, 0))
    mac = own_address(interface)
    ask = request(mac, "192.0.2.1", address)
    at = 0.0
    while True:
        now = time.monotonic()
        if now >= at:
            sock.send(ask)
            at = now + 0.005
        sock.settimeout(max(at - now, 0.0005))
        try:
            frame, where = sock.recvfrom(2048)
        except (TimeoutError, BlockingIOError):
            continue
        if where[2] == socket.PACKET_OUTGOING:
            continue
        said = judge(frame, mac, address)
        if said:
            os.write(out, f"{time.monotonic():.6f} {said}\n".encode())


if __name__ == "__main__":
    main()
