"""The part `events` of scripts/bench: from a hook to the coordinator's store, how many a second, what a clip does to a push, and from a hook
to the mail server."""

import datetime
import email
import email.policy
import glob
import json
import os
import random
import sqlite3
import struct
import subprocess
import time
import zlib

import __main__ as bench

CLIP_MB = 200
MAIL_PORT = 2525


def picture(path, side):
    """A PNG of noise: about side * side * 3 bytes."""
    rows = b"".join(b"\0" + random.randbytes(side * 3) for _ in range(side))
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b""))


def lines_since(path, mark):
    with open(path, "rb") as file:
        file.seek(mark)
        return file.read().decode(errors="replace").split("\n")


def size(path):
    with open(path, "rb") as file:
        return file.seek(0, 2)


def stored(house, kind):
    """Contents of that kind (1 pictures, 2 clips) that are whole in the coordinator's store."""
    with sqlite3.connect(f"file:{house.work}/coordinator/state/events.db?mode=ro", uri=True, timeout=10) as store:
        return store.execute("SELECT count(*) FROM attachment WHERE kind = ? AND kept_at IS NOT NULL", [kind]).fetchone()[0]


def hooks(house, times, figures):
    bench.step(f"A hook with a small picture, {times} times, as a process of its own at the real camera")
    small = f"{house.work}/small.png"
    picture(small, 58)
    logs = {name: f"{house.work}/{name}.log" for name in ("camera", "coordinator")}
    marks = {name: size(path) for name, path in logs.items()}
    before = stored(house, 1)
    command = [house.figures, "hooks", house.node, f"{house.work}/camera/run", small, str(times)]
    told = [json.loads(line) for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n") if line]
    bench.until(30, "all pictures are stored", lambda: stored(house, 1) >= before + times)
    kept = [int(line.split("kept_us=")[1].split()[0].split("\x1b")[0]) / 1000 for line in lines_since(logs["camera"], marks["camera"]) if "kept_us=" in line]
    arrived = []
    for line in lines_since(logs["coordinator"], marks["coordinator"]):
        if "an attachment is kept" in line:
            at = line.replace("\x1b[2m", "").split()[0].split("\x1b")[0].replace("Z", "+00:00")
            arrived.append(datetime.datetime.fromisoformat(at).timestamp() * 1000)
    if len(arrived) != times or len(kept) != times:
        raise RuntimeError(f"{times} hooks, {len(kept)} kept at the camera, {len(arrived)} pictures in the store")
    whole = [at - one["began_us"] / 1000 for at, one in zip(arrived, told)]
    ours, bare = [one["hook_ms"] for one in told], [one["true_ms"] for one in told]
    figures["hook_p99_ms"] = bench.share(ours, 0.99)
    figures["hook_true_p99_ms"] = bench.share(bare, 0.99)
    figures["hook_fsync_p99_ms"] = bench.share(kept, 0.99)
    # One hook ends before the next begins: the lines stand in their order.
    beside = [hook - disk for hook, disk in zip(ours, kept)]
    figures["hook_beside_fsync_p99_ms"] = bench.share(beside, 0.99)
    figures["event_stored_p99_ms"] = bench.share(whole, 0.99)
    bench.say(f"the hook: p50 {bench.share(ours, 0.5):.1f} ms, p99 {bench.share(ours, 0.99):.1f} ms; `true` instead: p50 {bench.share(bare, 0.5):.1f}, p99 {bench.share(bare, 0.99):.1f} ms")
    bench.say(f"of that, the camera's disk (content, name, row): p50 {bench.share(kept, 0.5):.1f} ms, p99 {bench.share(kept, 0.99):.1f} ms")
    bench.say(f"beside it, hook by hook: p50 {bench.share(beside, 0.5):.1f} ms, p99 {bench.share(beside, 0.99):.1f} ms")
    bench.say(f"from the hook's start to event and picture in the store: p50 {bench.share(whole, 0.5):.1f} ms, p99 {bench.share(whole, 0.99):.1f} ms")


def rate(house, coordinator, cameras, seconds, figures):
    bench.step(f"Events with a picture of 100 kB from 10 cameras, {seconds} s (all of it on this one machine and disk)")
    large = f"{house.work}/large.png"
    picture(large, 183)
    with open(f"/proc/{coordinator}/clear_refs", "w") as file:
        file.write("5")
    began_cpu, started = bench.processor_seconds(coordinator), time.monotonic()
    cameras.say(f"feed 10 {seconds} {large}")
    time.sleep(3)
    before, began = stored(house, 1), time.monotonic()
    time.sleep(seconds - 4)
    count, window = stored(house, 1) - before, time.monotonic() - began
    cpu = (bench.processor_seconds(coordinator) - began_cpu) / (time.monotonic() - started)
    while not cameras.hear().startswith("fed"):
        pass
    figures["events_per_s"] = count / window
    with open(f"/proc/{coordinator}/status") as file:
        figures["events_rss_mb"] = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    bench.say(f"{count} events with their pictures in {window:.1f} s: {count / window:.0f}/s; the coordinator took {cpu * 100:.0f} % of a core for it")


def flips(house, cameras, count, times, moving=lambda: True):
    """Delays of commands: of all cameras, and of the first one."""
    delays, first, flip = [], [], 0
    while flip < times:
        moving()
        on, since = flip % 2 == 0, bench.now()
        (house.arm if on else house.disarm)()
        these = bench.orders(cameras, count, on, since, by_camera=True)
        delays += [at - decided for decided, at in these.values() if decided]
        first += [at - decided for camera, (decided, at) in these.items() if decided and camera == "0"]
        flip += 1
        time.sleep(0.1)
    return delays, first


def clip(house, cameras, count, times, figures):
    bench.step(f"From decision to command at {count} cameras, {times} times idle, and as often while a clip of {CLIP_MB} MB comes from one of them")
    house.arm()
    time.sleep(3)
    since = bench.now()
    house.disarm()
    bench.orders(cameras, count, False, since)
    idle, idle_first = flips(house, cameras, count, times)
    handed = [stored(house, 2)]

    def moves():
        # A clip that is whole and not yet noted neither moves nor is stored.
        if stored(house, 2) == handed[0]:
            cameras.say(f"clip 0 {CLIP_MB}")
            handed[0] += 1
        return glob.glob(f"{house.work}/coordinator/state/media/parts/*")

    def moving():
        bench.until(120, "the clip moves", moves)

    busy, busy_first = flips(house, cameras, count, times, moving)
    bench.until(120, "the last clip is stored", lambda: stored(house, 2) == handed[0])
    figures["push_p99_clip_ratio"] = bench.share(busy, 0.99) / max(bench.share(idle, 0.99), 1)
    for words, all_of_them, its_own in [("idle", idle, idle_first), ("with the clip", busy, busy_first)]:
        bench.say(f"{words}: p50 {bench.share(all_of_them, 0.5)} ms, p99 {bench.share(all_of_them, 0.99)} ms, worst {max(all_of_them)} ms; "
            f"the camera of the clip: p50 {bench.share(its_own, 0.5)} ms, worst {max(its_own)} ms")
    bench.say(f"{handed[0]} clips moved meanwhile")


def python():
    """Debian's own Python has Debian's aiosmtpd."""
    for one in ("/usr/bin/python3", "python3"):
        if subprocess.run([one, "-c", "import aiosmtpd"], stderr=subprocess.DEVNULL).returncode == 0:
            return one
    return None


def mail_server(house):
    """With TLS and a password, as everywhere; on the coordinator's machine, so that the network of a provider is not in the figure."""
    place = f"{house.work}/mail"
    os.mkdir(place, 0o700)
    with open(f"{place}/password", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(random.randbytes(16).hex())
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
                    "-keyout", f"{place}/key.pem", "-out", f"{place}/cert.pem"], check=True, capture_output=True, text=True)
    with open(f"{place}/password") as file:
        password = file.read()
    server = house.helper("coordinator", python(), f"{bench.ROOT}/tests/harness/smtp_server.py", "--port", str(MAIL_PORT), "--save", place,
                          "--cert", f"{place}/cert.pem", "--key", f"{place}/key.pem", "--user", "dms3", "--password", password)
    server.hear()
    with open(f"{house.work}/coordinator/dms3.toml", "a") as file:
        # Each movement is mailed at once.
        file.write(f"""[mail]
server = "127.0.0.1"
port = {MAIL_PORT}
user = "dms3"
password_file = "{place}/password"
ca_file = "{place}/cert.pem"
from = "dms3@example.org"
to = ["anna@example.org"]
hourly_cap = 1000
cooldown = "0s"
""")
    return server, place


def is_of_movement(path):
    """Whether the mail is of what the real camera saw (and no fault, and nothing of another camera)."""
    with open(path, "rb") as file:
        mail = email.message_from_binary_file(file, policy=email.policy.default)
    return "porch" in mail["Subject"] and any(part.get_content_type() == "image/jpeg" for part in mail.walk())


def mails(house, coordinator, times, figures):
    bench.step(f"A movement with a picture of 100 kB at the real camera, {times} times, until its mail is with a mail server (on this machine)")
    house.stop(coordinator)
    server, place = mail_server(house)
    house.start("coordinator")

    def linked():
        try:
            return house.cameras_online(1)
        except OSError:
            # It does not listen yet.
            return False

    bench.until(60, "the camera is linked to the coordinator that mails", linked)
    house.arm()
    porch = lambda: next(node for node in house.ask("status")["nodes"] if node["name"] == "porch")
    bench.until(60, "the camera is armed", lambda: porch()["liveness"] == "online" and porch()["current"])
    whole, now = f"{place}/whole.jpg", f"{place}/now.jpg"
    subprocess.run([house.figures, "jpeg", whole, "100000"], check=True)
    with open(whole, "rb") as file:
        whole = file.read()
    delays = []
    for nth in range(times):
        with open(now, "wb") as file:
            # What follows the end of a picture no program looks at; its hash is another.
            file.write(whole + random.randbytes(16))
        # Neither in step with anything of the nodes.
        time.sleep(0.5 + random.random())
        began = time.time()
        subprocess.run([house.node, "hook", "picture", "--kind", "1", "--pixels", "5000", "--event", f"mail-{nth}", "--file", now,
                        "--run-dir", f"{house.work}/camera/run", "--spool", "/nonexistent"], check=True, capture_output=True, text=True)
        while True:
            words = server.hear(30).split()
            if words[0] == "taken" and is_of_movement(f"{place}/{words[1]}.eml"):
                delays.append((float(words[2]) - began) * 1000)
                break
    figures["mail_accepted_p50_ms"] = bench.share(delays, 0.5)
    figures["mail_accepted_p99_ms"] = bench.share(delays, 0.99)
    bench.say(f"from the hook's start to the mail accepted: p50 {bench.share(delays, 0.5):.0f} ms, p99 {bench.share(delays, 0.99):.0f} ms, "
              f"quickest {min(delays):.0f} ms (picture of {len(whole) // 1000} kB; a mail of {os.path.getsize(f'{place}/{words[1]}.eml') // 1000} kB)")
