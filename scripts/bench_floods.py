"""The floods of scripts/bench: what somebody on the network who sends 10,000 packets a second, in others' names, does to a push."""

import json
import subprocess
import threading
import time

import __main__ as bench
from bench_events import flips

FLOOD = f"{bench.ROOT}/tests/harness/flood.py"
RATE = 10000
# Of nobody, of the camera, and of one of the hundred.
NAMES = "10.47.0.32-98,10.47.0.11,10.47.0.100"


def floods(house, coordinator, cameras, count, times, figures):
    bench.step(f"From decision to command at {count} cameras, {times} times, and as often under floods of {RATE} packets a second")
    house.join_network("attacker", 31)
    mac = json.loads(subprocess.run(["ip", "-j", "-n", f"{bench.PREFIX}-coordinator", "link", "show", "eth0"], check=True,
                                    capture_output=True, text=True).stdout)[0]["address"]
    initials = f"{house.work}/initials"
    subprocess.run([house.figures, "initials", initials, "2000"], check=True)
    house.arm()
    time.sleep(3)
    since = bench.now()
    house.disarm()
    bench.orders(cameras, count, False, since)
    flips(house, cameras, count, times)
    with open(f"{house.work}/coordinator.log", "rb") as log:
        log.seek(0, 2)
        alone = bench.share(flips(house, cameras, count, times)[0], 0.99)
        usual = told(log)
    bench.say(f"without: p99 {alone} ms, {usual} lines")
    memory = Memory(coordinator)
    lines = []
    for kind, packets in ("garbage", "garbage"), ("initials", initials):
        flood = house.helper("attacker", "python3", FLOOD, "eth0", mac, "10.47.0.1", "47100", NAMES, packets, str(RATE))
        flood.hear()
        with open(f"{house.work}/coordinator.log", "rb") as log:
            log.seek(0, 2)
            cpu, began = bench.processor_seconds(coordinator), time.monotonic()
            flooded = bench.share(flips(house, cameras, count, times)[0], 0.99)
            cpu, took = bench.processor_seconds(coordinator) - cpu, time.monotonic() - began
            lines_now = told(log)
        reached = json.loads(flood.ask("end"))
        figures[f"push_p99_flood_{kind}_ratio"] = flooded / max(alone, 1)
        # What each order logs by itself is not the flood's.
        lines.append(max(lines_now - usual, 0) / max(took / 60, 1))
        bench.say(f"{kind}: p99 {flooded} ms; {reached['sent'] / reached['seconds']:.0f} packets a second for {reached['seconds']:.0f} s, "
                  f"{cpu / took * 100:.0f} % of a core, {lines_now} lines")
    figures["flood_memory_mb"] = memory.grown()
    figures["flood_log_lines_per_min"] = max(lines)
    if not house.cameras_online(count + 1):
        raise RuntimeError("a camera lost its link in a flood")


def told(log):
    """Lines for people since the log was read last."""
    return sum(bool(line) and "DEBUG" not in line for line in log.read().decode(errors="replace").split("\n"))


class Memory:
    """The most that a process held since then."""

    def __init__(self, pid):
        self.pid, self.before, self.most, self.over = pid, bench.resident_mb(pid), 0, threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while not self.over.wait(0.1):
            self.most = max(self.most, bench.resident_mb(self.pid))

    def grown(self):
        self.over.set()
        return max(self.most - self.before, 0)
