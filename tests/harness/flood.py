#!/usr/bin/env python3
"""Floods a UDP port from addresses that the sender does not have, until its standard input ends, or for so many seconds at most.

flood.py INTERFACE MAC ADDRESS PORT SOURCES PACKETS [RATE] [SECONDS]

  MAC, ADDRESS  of whom it is meant for; whole Ethernet frames are sent, so no address of ours is asked for
  SOURCES       with commas: an address, a range of one network (192.168.77.2-250), or an IPv6 network of 64 bits (fd77::/64)
  PACKETS       "garbage", or a file: u16 length (big endian) and the bytes, again and again

Says at the end what it reached: {"sent": N, "seconds": S}.
"""

import ipaddress
import json
import os
import random
import select
import socket
import struct
import sys
import time

# Made before the flood: so many whole frames, sent in turn.
FRAMES = 8192


def sources(text):
    for part in text.split(","):
        if "/" in part:
            network = ipaddress.ip_network(part)
            yield from (network[random.randrange(1 << 16, 1 << 64)] for _ in range(FRAMES))
        elif "-" in part:
            first, last = part.split("-")
            first = ipaddress.ip_address(first)
            yield from (first + nth for nth in range(int(last) - int(str(first).rsplit(".", 1)[1]) + 1))
        else:
            yield ipaddress.ip_address(part)


def garbage():
    """Of any length; every other one looks like the first packet of a QUIC handshake."""
    for _ in range(512):
        bytes_ = bytearray(os.urandom(random.choice([1, 7, 20, 21, 40, 100, 600, 1200, 1400])))
        if random.random() < 0.5 and len(bytes_) > 6:
            bytes_[:6] = b"\xc3\0\0\0\1\x08"
        yield bytes(bytes_)


def recorded(path):
    with open(path, "rb") as file:
        while head := file.read(2):
            yield file.read(int.from_bytes(head, "big"))


def total(data):
    data += b"\0" * (len(data) % 2)
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def checksum(number):
    while number >> 16:
        number = (number & 0xFFFF) + (number >> 16)
    return ~number & 0xFFFF


def frame(ours, theirs, source, to, port, payload):
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", random.randrange(1024, 65536), port, length, 0)
    if source.version == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, random.randrange(1 << 16), 0, 64, 17, 0, source.packed, to.packed)
        head = head[:10] + struct.pack("!H", checksum(total(head))) + head[12:]
        return theirs + ours + b"\x08\x00" + head + udp + payload
    head = struct.pack("!IHBB16s16s", 6 << 28, length, 17, 64, source.packed, to.packed)
    whole = checksum(total(source.packed + to.packed) + length + 17 + total(udp) + total(payload)) or 0xFFFF
    return theirs + ours + b"\x86\xdd" + head + udp[:6] + struct.pack("!H", whole) + payload


def main():
    interface, mac, to, port, froms, packets = sys.argv[1:7]
    rate, seconds = (int(number) for number in (sys.argv[7:] + ["10000", "600"][len(sys.argv) - 7:]))
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind((interface, 0))
    ours, theirs, to = wire.getsockname()[4], bytes.fromhex(mac.replace(":", "")), ipaddress.ip_address(to)
    froms = list(sources(froms))
    payloads = list(garbage() if packets == "garbage" else recorded(packets))
    random.shuffle(froms)
    frames = [frame(ours, theirs, froms[nth % len(froms)], to, int(port), payloads[nth % len(payloads)]) for nth in range(FRAMES)]
    print("ready", flush=True)
    sent, began = 0, time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0] and (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate) - sent
        # What a busy machine did not get out is not made up for at once: that would be another flood.
        for _ in range(min(due, 500)):
            try:
                wire.send(frames[sent % FRAMES])
            except OSError:
                break
            sent += 1
        if due < 20:
            time.sleep(0.001)
    print(json.dumps({"sent": sent, "seconds": round(time.monotonic() - began, 1)}), flush=True)


main()
