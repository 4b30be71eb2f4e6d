#!/usr/bin/env python3
"""A long cable between two interfaces of this network namespace: each frame is on its way for a while, some are overtaken by those that
were sent after them, some come twice. Ends when it is killed. The cards at both ends must fill in checksums themselves (ethtool -K)."""

import argparse
import heapq
import random
import select
import socket
import time

ALL = 3  # ETH_P_ALL
SOL_PACKET, IGNORE_OUTGOING = 263, 23
MOST = 20_000  # frames on their way; what comes beyond that is lost, as in any buffer
OVERTAKEN = 0.03  # seconds


def end(interface):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
    sock.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((interface, ALL))
    sock.setblocking(False)
    return sock


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ends", nargs=2)
    parser.add_argument("--delay", type=float, required=True, help="milliseconds, one way")
    parser.add_argument("--late", type=float, default=0, help="of a hundred frames")
    parser.add_argument("--twice", type=float, default=0, help="of a hundred frames")
    said = parser.parse_args()
    one, other = (end(name) for name in said.ends)
    beyond = {one: other, other: one}
    under_way, number = [], 0
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, to, frame = heapq.heappop(under_way)
            try:
                to.send(frame)
            except OSError:
                pass  # the cable is out, or the buffer full: lost
        wait = max(0.0, under_way[0][0] - now) if under_way else None
        for sock in select.select([one, other], [], [], wait)[0]:
            for _ in range(64):
                try:
                    frame = sock.recv(65536)
                except OSError:
                    break
                due = time.monotonic() + said.delay / 1000
                if random.uniform(0, 100) < said.late:
                    due += random.uniform(0, OVERTAKEN)
                times = 2 if random.uniform(0, 100) < said.twice else 1
                for _ in range(times):
                    if len(under_way) < MOST:
                        number += 1
                        heapq.heappush(under_way, (due, number, beyond[sock], frame))


main()
