"""The dashboard's part of scripts/bench: a coordinator of its own on loopback, with a house that has seen much."""

import json
import os
import socket
import subprocess
import time

import __main__ as bench
from bench_events import flips


def beside(house, cameras, count, times, figures):
    bench.step(f"From decision to command at {count} cameras, {times} times with nobody at the page, and as often with 100 open pages")
    code = next(line.strip() for line in house.dms3("coordinator", "web", "setup-code").split("\n") if len(line.strip()) == 14)
    alone, _ = flips(house, cameras, count, times)
    pages = house.helper("coordinator", house.figures, "open", "https://localhost:8443", f"{house.work}/coordinator/state/web/ca.crt", code, "100")
    if pages.hear() != "open":
        raise RuntimeError("the pages do not open")
    watched, _ = flips(house, cameras, count, times)
    pages.child.stdin.close()
    pages.child.wait(30)
    figures["push_p99_pages_ratio"] = bench.share(watched, 0.99) / max(bench.share(alone, 0.99), 1)
    bench.say(f"decision to command: p99 {bench.share(alone, 0.99)} ms, with 100 open pages {bench.share(watched, 0.99)} ms")


def page(house, node, helper, quick, figures):
    print("\nThe dashboard: 50 nodes, 10,000 events, 100 open pages", flush=True)
    work = f"{house.work}/page"
    os.mkdir(work, 0o700)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(f"{work}/dms3.toml", "w") as file:
        file.write(f"""role = "coordinator"
state_dir = "{work}/state"
run_dir = "{work}/run"
[mesh]
listen = "127.0.0.1:0"
mdns = "off"
[web]
listen = "127.0.0.1:{port}"
connections_per_address = 256
[coordinator]
enroll_listen = "127.0.0.1:0"
[coordinator.presence]
enabled = false
""")
    command = [node, "--config", f"{work}/dms3.toml"]
    said = subprocess.run([*command, "init"], check=True, capture_output=True, text=True).stdout.split("\n")
    code = next(line.strip() for line in said if len(line.strip()) == 14 and line.strip().count("-") == 2)
    subprocess.run([helper, "house", f"{work}/state", "50", "10000"], check=True)
    child = subprocess.Popen([*command, "run"], stdin=subprocess.DEVNULL, stdout=house.log("page"), stderr=subprocess.STDOUT,
                             env={**os.environ, "MALLOC_ARENA_MAX": "1"})
    house.children.append(child)
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            if time.monotonic() > end:
                raise TimeoutError("the dashboard is not served") from None
            time.sleep(0.05)
    times, flips = ("200", "10") if quick else ("1000", "40")
    answer = subprocess.run([helper, "page", f"https://127.0.0.1:{port}", f"{work}/state/web/ca.crt", code, str(child.pid), times, "100", flips],
                            check=True, capture_output=True, text=True).stdout
    measured = json.loads(answer)
    for key in ("page_p99_ms", "page_cold_kb", "page_warm_kb", "page_rps", "visible_p99_ms", "kb_per_open_page"):
        figures[key] = measured[key]
    print(f"  first screen p50 {measured['page_p50_ms']:.1f} ms, seen on an open page p50 {measured['visible_p50_ms']:.0f} ms", flush=True)
    house.stop(child.pid)
