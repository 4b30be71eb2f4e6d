"""The part `scale` of scripts/bench: a hundred, a thousand and three thousand cameras, and beside them in the same run as many subscribers of
mosquitto, over mutual TLS with QoS 1 and the same bytes.

Every house has its own coordinator (the real binary) in the namespace of the coordinator; its cameras are one process in that of the cameras,
each with the real mesh client on a socket of its own (bench_scale.rs). They come from one address, so the limits by address are raised in
[mesh.limits]; nothing else is. Their rows are written into the roster, as pairing thousands one by one says nothing about links."""

import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import time

import __main__ as bench

MESH, BROKER = "10.47.0.1:47100", "10.47.0.1:8883"
# Each client has a socket.
FILES = 16384
TICKS = os.sysconf("SC_CLK_TCK")
# A day: a keep-alive each 5 s, a health report each 30 s (node/src/mesh/endpoint.rs, node/src/health.rs), and what a phone at home says.
DAY_KEEP_ALIVES, DAY_REPORTS, DAY_SIGHTINGS = 17280, 2880, 8640

# Says by ARP that it is there, as often as it is told.
PHONE_TALKS = r"""
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0x0806))
own, address = wire.getsockname()[4], socket.inet_aton("10.47.0.21")
frame = b"\xff" * 6 + own + b"\x08\x06\0\x01\x08\0\x06\x04\0\x02" + own + address + b"\xff" * 6 + address
for _ in range(int(sys.argv[1])):
    wire.send(frame)
    time.sleep(0.002)
"""


def processor(pid):
    """Seconds, of all threads that are and were, user and system."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def settled_mb(pid):
    """Resident memory once it changes no more."""
    last = bench.resident_mb(pid)
    for _ in range(20):
        time.sleep(1)
        now = bench.resident_mb(pid)
        if abs(now - last) < 0.02:
            break
        last = now
    return now


class Crowd:
    """A process of many clients; see bench_crowd.rs."""

    def __init__(self, house, name, *words):
        self.process = house.helper("cameras", house.figures, *words)
        self.name, self.count = name, 0

    def hear(self, first, within=180):
        while True:
            words = self.process.hear(within).split()
            if words[0] == first:
                return words[1:]

    def start(self, count):
        self.count = count
        self.process.say(f"start {count}")
        self.hear("linked")

    def applied(self, fits):
        """(decided, bytes, p50, p99, last) of what reached all of them and fits: `what`, whether it arms, when it was decided."""
        while True:
            what, on, decided, size, *when = self.hear("applied", 60)
            if fits(what, on == "1", int(decided)):
                return [int(decided), int(size), *map(float, when)]

    def end(self, house):
        child = self.process.child
        child.stdin.close()
        child.wait(60)
        house.children.remove(child)


def found(house, name, count):
    """A house with so many cameras in its roster; their process. The coordinator does not run."""
    house.config(name, f"""role = "coordinator"
[mesh]
listen = "0.0.0.0:47100"
[mesh.limits]
handshakes = {2 * FILES}
handshakes_per_address = {FILES}
failures_per_address = {FILES}
[web]
enabled = false
[coordinator]
enroll_listen = "0.0.0.0:47101"
[coordinator.presence]
interfaces = ["eth0"]
[[coordinator.presence.person]]
name = "Anna"
devices = ["{bench.PHONE_MAC}"]
""")
    subprocess.run(house.at("coordinator", house.node, "--config", f"{house.work}/{name}/dms3.toml", "init"), check=True, capture_output=True)
    state = f"{house.work}/{name}/state"
    crowd = Crowd(house, name, "scale", state, "10.47.0.12", MESH, str(count))
    ids = [crowd.process.hear() for _ in range(count)]
    rows = [(bytes.fromhex(one), "camera", f"camera {nth}", "active", bench.now(), None, None) for nth, one in enumerate(ids)]
    with sqlite3.connect(f"{state}/store.db") as store:
        store.executemany("INSERT INTO roster VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    store.close()
    return crowd


def run(house, name):
    """Starts the coordinator of that house. The process, and when it listened (ms)."""
    mark = os.path.getsize(f"{house.work}/{name}.log") if os.path.exists(f"{house.work}/{name}.log") else 0
    command = house.at("coordinator", house.node, "--config", f"{house.work}/{name}/dms3.toml", "run")
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=house.log(name), stderr=subprocess.STDOUT,
                             env={**os.environ, "RUST_LOG": "warn,dms3_node::coordinator=info,mdns_sd=off", "MALLOC_ARENA_MAX": "1"})
    house.children.append(child)

    def listened():
        for line in bench.bench_events.lines_since(f"{house.work}/{name}.log", mark):
            if "listens on UDP port" in line:
                return when(line)
    at = bench.until(60, "the coordinator listens", listened)
    return child, at


def when(line):
    import datetime
    at = re.sub(r"\x1b\[[0-9;]*m", "", line).split()[0].replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(at).timestamp() * 1000


def ask(house, name, request):
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(f"{house.work}/{name}/run/control.sock")
        control.sendall(json.dumps(request).encode() + b"\n")
        answer = b""
        while more := control.recv(1 << 16):
            answer += more
    if "refused" in json.loads(answer):
        raise RuntimeError(answer)


def flips(house, name, crowd, pid, times):
    """Arms and disarms. Milliseconds of each time from the decision to p50, p99 and the last of all cameras, and from the command to the
    last; processor seconds of the coordinator for each push; bytes of one."""
    rows, size = [], 0
    for flip in range(-2, times):
        # A camera's messages are read 20 times a second.
        time.sleep(0.3)
        if flip == 0:
            before = processor(pid)
        on, since = flip % 2 == 0, bench.now()
        began = time.time() * 1000
        ask(house, name, {"command": {"arm": {"state": "away", "until": None, "now": True}} if on else {"disarm": {"until": None}}})
        decided, size, *at = crowd.applied(lambda _, armed, decided: armed == on and decided >= since)
        if flip >= 0:
            rows.append([*(one - decided for one in at), at[2] - began])
    time.sleep(0.3)
    return [list(column) for column in zip(*rows)], (processor(pid) - before) / times / crowd.count, size


def publishes(publisher, crowd, pid, times, size):
    """The same of mosquitto, from the publisher's first byte."""
    rows = []
    for number in range(-2, times):
        time.sleep(0.3)
        if number == 0:
            before = processor(pid)
        publisher.say(f"{number + 100} {size}")
        _, _, *at = crowd.applied(lambda what, _armed, _decided: what == str(number + 100))
        began = float(publisher.hear().split()[1])
        if number >= 0:
            rows.append([one - began for one in at])
    time.sleep(0.3)
    return [list(column) for column in zip(*rows)], (processor(pid) - before) / times / crowd.count


def again(crowd, child, start):
    """Kills it, starts it anew: the new one; seconds from the kill and from when it listened to the last client that is linked again."""
    crowd.process.say("again")
    killed = time.time() * 1000
    child.send_signal(signal.SIGKILL)
    child.wait()
    child, listened = start()
    linked = float(crowd.hear("linked")[1])
    return child, (linked - killed) / 1000, (linked - listened) / 1000


def coordinator(house, count, times, day):
    name = f"scale-{count}"
    crowd = found(house, name, count)
    child, _ = run(house, name)
    # The first one touches what of the program all need.
    crowd.start(1)
    before = settled_mb(child.pid)
    began = processor(child.pid)
    crowd.start(count)
    linking = (processor(child.pid) - began) / count
    fresh = settled_mb(child.pid)
    (p50, p99, last, from_command), push, size = flips(house, name, crowd, child.pid, times)
    rss = settled_mb(child.pid)
    told = {"p50": p50, "p99": p99, "last": last, "command": from_command, "push_us": push * 1e6, "bytes": size, "link_ms": linking * 1000,
            "kb_fresh": (fresh - before) * 1024 / (count - 1), "kb": (rss - before) * 1024 / (count - 1), "rss": rss}
    began, since = processor(child.pid), time.monotonic()
    time.sleep(20)
    told["idle_s_per_h"] = (processor(child.pid) - began) / (time.monotonic() - since) * 3600
    if day:
        bench.say(f"a day of {count} cameras, as fast as it goes: of each {int(DAY_KEEP_ALIVES * day)} keep-alives and {int(DAY_REPORTS * day)} health reports")
        phone = subprocess.Popen(house.at("phone", "python3", "-c", PHONE_TALKS, str(int(DAY_SIGHTINGS * day))))
        crowd.process.say(f"day {int(DAY_KEEP_ALIVES * day)} {int(DAY_REPORTS * day)}")
        crowd.hear("day", 900)
        phone.wait(120)
        flips(house, name, crowd, child.pid, 2)
        told["rss_day"] = settled_mb(child.pid)
    child, told["relink"], told["relink_listening"] = again(crowd, house_child(house, child), lambda: run(house, name))
    told["kb_again"] = (settled_mb(child.pid) - before) * 1024 / (count - 1)
    crowd.end(house)
    house.stop(child.pid)
    return told


def house_child(house, child):
    """It is going to be killed by us."""
    house.children.remove(child)
    return child


def certificates(house):
    """Of one authority: the broker's and that of all its clients. Ed25519, as the nodes'."""
    where = f"{house.work}/mqtt"
    os.mkdir(where)
    openssl = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"]
    def make(name, *more):
        subprocess.run([*openssl, "-keyout", f"{where}/{name}.key", "-out", f"{where}/{name}.crt", "-subj", f"/CN={name}", *more],
                       check=True, capture_output=True)
    make("ca")
    signed = ["-CA", f"{where}/ca.crt", "-CAkey", f"{where}/ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    make("broker", *signed, "-addext", "subjectAltName=IP:10.47.0.1")
    make("client", *signed)
    return where


def broker(house, where):
    """Mosquitto as it is best for this: nothing kept on a disk, nothing logged, small packets sent at once."""
    with open(f"{where}/mosquitto.conf", "w") as file:
        file.write(f"""listener 8883 10.47.0.1
cafile {where}/ca.crt
certfile {where}/broker.crt
keyfile {where}/broker.key
tls_version tlsv1.3
require_certificate true
allow_anonymous true
persistence false
log_dest none
set_tcp_nodelay true
user root
""")
    child = subprocess.Popen(house.at("coordinator", "mosquitto", "-c", f"{where}/mosquitto.conf"), stdin=subprocess.DEVNULL,
                             stdout=house.log("mosquitto"), stderr=subprocess.STDOUT)
    house.children.append(child)
    listens = house.at("coordinator", "ss", "-Hltn", "sport = :8883")
    bench.until(20, "mosquitto listens", lambda: subprocess.run(listens, capture_output=True, text=True).stdout.strip())
    return child, time.time() * 1000


def mosquitto(house, where, count, times, size):
    child, _ = broker(house, where)
    crowd = Crowd(house, "subscribers", "subscribers", where, BROKER)
    crowd.start(1)
    before = settled_mb(child.pid)
    crowd.start(count)
    publisher = house.helper("coordinator", house.figures, "publisher", where, BROKER)
    (p50, p99, last), push = publishes(publisher, crowd, child.pid, times, size)
    rss = settled_mb(child.pid)
    told = {"p50": p50, "p99": p99, "last": last, "push_us": push * 1e6, "kb": (rss - before) * 1024 / (count - 1), "rss": rss}
    publisher.child.stdin.close()
    publisher.child.wait(10)
    house.children.remove(publisher.child)
    child, told["relink"], told["relink_listening"] = again(crowd, house_child(house, child), lambda: broker(house, where))
    crowd.end(house)
    house.stop(child.pid)
    return told


def row(name, count, told):
    mean = lambda values: bench.share(values, 0.5)
    print(f"  | {name} | {count} | {mean(told['p50']):.1f} | {mean(told['p99']):.1f} | {mean(told['last']):.1f} | {max(told['last']):.1f} "
          f"| {told['push_us']:.1f} | {told['kb']:.1f} | {told['rss']:.1f} | {told['relink']:.2f} | {told['relink_listening']:.2f} |", flush=True)


def scale(house, quick, figures):
    sizes, times = ((100, 1000), 10) if quick else ((100, 1000, 3000), 30)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    house.build_network()
    where = certificates(house)
    ours, theirs = {}, {}
    for count in sizes:
        bench.step(f"{count} cameras, {times} states; then {count} subscribers of mosquitto, as many messages")
        ours[count] = coordinator(house, count, times, (0.02 if quick else 1) if count == 100 else 0)
        theirs[count] = mosquitto(house, where, count, times, ours[count]["bytes"])
        one = ours[count]
        bench.say(f"{one['bytes']} bytes; from the command to the last camera: p50 {bench.share(one['command'], 0.5):.1f} ms; a link takes {one['link_ms']:.2f} ms of "
                  f"the coordinator's processor; memory for each camera just linked {one['kb_fresh']:.1f} kB, linked again {one['kb_again']:.1f} kB; "
                  f"{one['idle_s_per_h']:.0f} s/h of its processor when nothing happens")
    print("\n  | | cameras | p50 ms | p99 ms | last ms | worst last | server µs/push | kB each | RSS MB | all linked s | after listening |")
    print("  | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in sizes:
        row("DMS3", count, ours[count])
        row("mosquitto", count, theirs[count])
    middle = lambda told, key: bench.share(told[key], 0.5)
    thousand, beside = ours[1000], theirs[1000]
    figures["last_1000_ms"] = middle(thousand, "last")
    figures["last_1000_vs_mosquitto"] = middle(thousand, "last") / middle(beside, "last")
    figures["kb_per_camera_1000"] = thousand["kb"]
    figures["push_cpu_us"] = thousand["push_us"]
    figures["relink_1000_s"] = thousand["relink_listening"]
    if 3000 in ours:
        figures["last_3000_ms"] = middle(ours[3000], "last")
    figures["day_growth_mb"] = ours[100]["rss_day"] - ours[100]["rss"]
    figures["rss_day_mb"] = ours[100]["rss_day"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
