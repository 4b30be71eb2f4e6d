"""The part `events` of scripts/bench: from a hook to the coordinator's store, how many a second, and what a clip does to a push."""

import datetime
import glob
import json
import random
import sqlite3
import struct
import subprocess
import time
import zlib

import __main__ as bench

CLIP_MB = 200


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
    figures["event_stored_p99_ms"] = bench.share(whole, 0.99)
    bench.say(f"the hook: p50 {bench.share(ours, 0.5):.1f} ms, p99 {bench.share(ours, 0.99):.1f} ms; `true` instead: p50 {bench.share(bare, 0.5):.1f}, p99 {bench.share(bare, 0.99):.1f} ms")
    bench.say(f"of that, the camera's disk (content, name, row): p50 {bench.share(kept, 0.5):.1f} ms, p99 {bench.share(kept, 0.99):.1f} ms")
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
