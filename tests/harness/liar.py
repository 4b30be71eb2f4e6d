#!/usr/bin/env python3
"""Somebody on the network who lies by mDNS for a while: he answers every question for our service as if he were the coordinator, advertises
fifty more that are nowhere, and says what is no DNS at all every millisecond."""

import argparse
import os
import random
import select
import socket
import struct
import time

GROUP, PORT = "224.0.0.251", 5353
SERVICE = "_dms3._udp.local"
PTR, TXT, SRV, A = 12, 16, 33, 1
FLUSH = 0x8000


def name(dotted):
    return b"".join(bytes([len(label)]) + label.encode() for label in dotted.split(".")) + b"\0"


def record(of, kind, data, unique=True):
    return name(of) + struct.pack(">HHIH", kind, 1 | (FLUSH if unique else 0), 120, len(data)) + data


def answer(said, instance, host, ip):
    """All that our coordinator says, of whoever is at `ip`."""
    full = f"{instance}.{SERVICE}"
    texts = ["v=1", f"m={said.mesh}", f"i={said.node}", f"b={os.urandom(4).hex()}", "e=47101"]
    records = [
        record(SERVICE, PTR, name(full), unique=False),
        record(full, SRV, struct.pack(">HHH", 0, 0, 47100) + name(host)),
        record(full, TXT, b"".join(bytes([len(text)]) + text.encode() for text in texts)),
        record(host, A, socket.inet_aton(ip)),
    ]
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def nonsense(good):
    kind = random.randrange(5)
    if kind == 0:
        return good[: random.randrange(len(good))]
    if kind == 1:
        return os.urandom(random.randrange(1, 1400))
    bad = bytearray(good)
    if kind == 2:
        for _ in range(8):
            bad[random.randrange(len(bad))] = random.randrange(256)
    elif kind == 3:
        # Names that point at themselves.
        at = random.randrange(12, len(bad) - 1)
        bad[at : at + 2] = struct.pack(">H", 0xC000 | at)
    else:
        # More records than there are.
        bad[4:12] = struct.pack(">4H", *(random.choice([0, 1, 0xFFFF]) for _ in range(4)))
    return bytes(bad)


def main():
    parser = argparse.ArgumentParser()
    for key in ["mesh", "node", "at"]:
        parser.add_argument(f"--{key}", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    said = parser.parse_args()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("", PORT))
    here = socket.inet_aton(said.at)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + here)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    sock.setblocking(False)
    end, number = time.monotonic() + said.seconds, 0
    host = f"dms3-{said.node}.local"
    while time.monotonic() < end:
        number += 1
        out = [nonsense(answer(said, said.node, host, said.at))]
        if number % 20 == 0:
            nth = (number // 20) % 50
            out.append(answer(said, f"rogue{nth:03}", f"rogue{nth:03}.local", f"192.168.77.{150 + nth}"))
        if select.select([sock], [], [], 0.001)[0]:
            try:
                packet, source = sock.recvfrom(9000)
            except OSError:
                continue
            if source[0] != said.at and len(packet) > 12 and not packet[2] & 0x80 and b"\x05_dms3" in packet:
                out.append(answer(said, said.node, host, said.at))
        for packet in out:
            try:
                sock.sendto(packet, (GROUP, PORT))
            except OSError:
                pass


main()
