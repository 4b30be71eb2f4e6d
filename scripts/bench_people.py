"""The part `people` of scripts/bench: what it takes to know of four people whether they are home. Their phones answer by ARP as long as they
are home; each says something of its own only when it comes. Beside it the same coordinator that looks for nobody."""

import json
import os
import subprocess
import time

import __main__ as bench

MACS = [f"24:da:9b:00:00:0{n}" for n in range(1, 5)]
# Answers whoever asks for one of its addresses, while it is home.
PHONES = r"""
import select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.bind(("eth0", 0x0806))
phones = {socket.inet_aton(f"10.47.0.{60 + n}"): bytes.fromhex(mac.replace(":", "")) for n, mac in enumerate(sys.argv[1:])}
home = False
def arp(kind, to, own, address, target, their):
    return to + own + b"\x08\x06\0\x01\x08\0\x06\x04\0" + bytes([kind]) + own + address + target + their
while True:
    for ready in select.select([wire, sys.stdin], [], [])[0]:
        if ready is wire:
            frame = wire.recv(2048)
            own = phones.get(frame[38:42])
            if home and own and frame[20:22] == b"\0\1":
                wire.send(arp(2, frame[6:12], own, frame[38:42], frame[22:28], frame[28:32]))
            continue
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        home = line.strip() == "home"
        for address, own in phones.items() if home else ():
            wire.send(arp(1, b"\xff" * 6, own, address, b"\0" * 6, address))
        print("done", flush=True)
"""
# Counts what this machine sends that asks for somebody: ARP, NDP (neighbour solicitation), mDNS to one address.
ASKED = r"""
import socket, sys, threading
counts = {"arp": 0, "ndp": 0, "mdns": 0}
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
def count():
    while True:
        frame, source = wire.recvfrom(256)
        if source[2] != socket.PACKET_OUTGOING:
            continue
        kind = frame[12:14]
        if kind == b"\x08\x06" and frame[20:22] == b"\0\1":
            counts["arp"] += 1
        elif kind == b"\x86\xdd" and frame[20] == 58 and frame[54] == 135:
            counts["ndp"] += 1
        elif kind == b"\x08\x00" and frame[23] == 17 and frame[36:38] == b"\x14\xe9" and frame[30] < 224:
            counts["mdns"] += 1
threading.Thread(target=count, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(" ".join(str(n) for n in counts.values()), flush=True)
"""


def config(house, name, presence):
    house.config(name, f"""role = "coordinator"
[mesh]
listen = "0.0.0.0:47100"
[web]
enabled = false
[coordinator]
enroll_listen = "0.0.0.0:47101"
[coordinator.presence]
{presence}
""")
    dms3(house, name, "init")


def dms3(house, name, *words):
    command = house.at("coordinator", house.node, "--config", f"{house.work}/{name}/dms3.toml", *words)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def window(child, meter, seconds):
    """Processor seconds and questions, for an hour."""
    before, cpu, began = [int(n) for n in meter.ask("now").split()], bench.processor_seconds(child.pid), time.monotonic()
    time.sleep(seconds)
    hours = (time.monotonic() - began) / 3600
    after = [int(n) for n in meter.ask("now").split()]
    asked = [(now - then) / hours for now, then in zip(after, before)]
    return (bench.processor_seconds(child.pid) - cpu) / hours, asked


def people(house, quick, figures):
    seconds, settle = (40, 10) if quick else (300, 60)
    bench.step(f"Four people at home, and away, {seconds} s each; before that nobody is looked for")
    house.build_network()
    phones = house.helper("phone", "python3", "-c", PHONES, *MACS)
    meter = house.helper("coordinator", "python3", "-c", ASKED)
    meter.hear()
    config(house, "nobody", "enabled = false")
    child, _ = bench.bench_scale.run(house, "nobody")
    time.sleep(settle)
    without, _ = window(child, meter, seconds)
    house.stop(child.pid)
    persons = "".join(f'[[coordinator.presence.person]]\nname = "Person {n}"\ndevices = ["{mac}"]\naway_after = "30s"\n'
                      for n, mac in enumerate(MACS))
    config(house, "four", f'interfaces = ["eth0"]\n{persons}')
    child, _ = bench.bench_scale.run(house, "four")
    status = lambda: json.loads(dms3(house, "four", "status", "--json"))
    rows = []
    for where in ("home", "away"):
        phones.ask(where)
        bench.until(120, f"all four are {where}", lambda: all(one["presence"] == where for one in status()["people"]))
        time.sleep(settle)
        cpu, asked = window(child, meter, seconds)
        rows.append((cpu - without, sum(asked)))
        bench.say(f"all {where}: {cpu - without:.2f} s/h of processor more than without ({without:.2f}), questions in an hour: "
                  f"{asked[0]:.0f} ARP, {asked[1]:.0f} NDP, {asked[2]:.0f} mDNS")
    figures["presence_cpu_s_per_h"] = max(cpu for cpu, _ in rows)
    figures["presence_frames_per_h"] = max(frames for _, frames in rows)
    house.stop(child.pid)
    house.remove_network()
    os.mkdir(f"{house.work}/week")
    told = subprocess.run([house.figures, "week", f"{house.work}/week"], check=True, capture_output=True, text=True).stdout
    size, memory, rows = map(int, told.split())
    figures["sightings_7d_mb"] = (size + memory * 1024) / 1e6
    bench.say(f"a week of signs of four phones: {rows} rows, {size / 1e3:.0f} kB of disk, {memory} KiB of memory")
