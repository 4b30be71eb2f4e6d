"""Tells what changes in the demo's house, as it happens: state, people, detectors, events, mails, milliseconds."""

import argparse
import email
import email.policy
import json
import pathlib
import re
import subprocess
import sys
import time

LOOK_EVERY = 0.2


def tell(words):
    print(f"  {time.strftime('%H:%M:%S')}  {words}", flush=True)


class House:
    """Asks the coordinator and tells what is different from the last answer."""

    def __init__(self, ask):
        self.ask = ask
        self.known = {}

    def look(self):
        answer = subprocess.run(self.ask, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            self.changed("coordinator", "the coordinator does not answer")
            return
        self.known.pop("coordinator", None)
        house = json.loads(answer.stdout)
        for person in house["people"]:
            presence = {"unknown": "not known yet"}.get(person["presence"], person["presence"])
            self.changed(f"person {person['name']}", f"{person['name']}: {presence}")
        words = {"away": "ARMED (away)", "night": "ARMED (night)", "disarmed": "DISARMED"}[house["state"]]
        self.changed("state", f"{words}: {house['reason']}")
        for node in house["nodes"]:
            if node["role"] != "camera":
                continue
            for detector in node["detectors"]:
                detail = f" ({detector['detail']})" if detector["detail"] else ""
                self.changed(f"detector {node['name']}", f"{node['name']}: {detector['phase']}{detail}")

    def changed(self, what, words):
        if self.known.get(what) != words:
            self.known[what] = words
            tell(words)


class Events:
    """Asks the coordinator what was seen and tells what is new of it."""

    def __init__(self, ask):
        self.ask = ask
        self.known = {}

    def look(self):
        answer = subprocess.run(self.ask, capture_output=True, text=True, check=False)
        for event in reversed(json.loads(answer.stdout) if answer.returncode == 0 else []):
            here = [known["attachment"]["kind"] for known in event["attachments"] if known["kept_at"] is not None]
            files = ", ".join(f"{here.count(kind)} {kind}(s)" for kind in ("picture", "clip") if kind in here)
            percent = f", {event['changed']} % of the picture" if event["changed"] is not None else ""
            words = f"{event['camera']}: {event['kind']}{percent}; in the store: {files or 'no file yet'}"
            if self.known.get(event["id"]) != words:
                self.known[event["id"]] = words
                tell(words)


class Mails:
    """Tells what arrives at the mail server."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.seen = set()

    def look(self):
        for path in self.directory.glob("*.eml"):
            if path not in self.seen:
                self.seen.add(path)
                mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                parts = [part.get_content_type() for part in mail.walk() if part.get_content_maintype() in ("image", "video")]
                tell(f"mail to {mail['To']}: {mail['Subject']} ({', '.join(parts) or 'no picture'})")


class Camera:
    """Follows a camera's log."""

    COMMAND = re.compile(r"detector command issued.*?after_ms=(\d+)")
    WATCHING = re.compile(r"the detector is watching, ([0-9.]+ s) after its start")
    COLOURS = re.compile(r"\x1b\[[0-9;]*m")

    def __init__(self, name, directory):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.log = None

    def look(self):
        try:
            self.log = self.log or (self.directory / "log").open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in self.log:
            line = self.COLOURS.sub("", line)
            if found := self.COMMAND.search(line):
                tell(f"{self.name}: Motion's command {found[1]} ms after the decision")
            if found := self.WATCHING.search(line):
                tell(f"{self.name}: Motion is able to detect {found[1]} after its start")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--node", required=True, help="the program dms3-node")
    options.add_argument("--config", required=True, help="the coordinator's config")
    options.add_argument("--enter", default="", help="its network namespace")
    options.add_argument("--mails", required=True, help="where the mail server puts what it takes")
    options.add_argument("camera", nargs="+", help="NAME=DIRECTORY")
    options = options.parse_args()
    enter = ["ip", "netns", "exec", options.enter] if options.enter else []
    ask = [*enter, options.node, "--config", options.config]
    house, events = House([*ask, "status", "--json"]), Events([*ask, "events", "--json"])
    watched = [house, events, Mails(options.mails), *(Camera(*camera.split("=", 1)) for camera in options.camera)]
    while True:
        for one in watched:
            one.look()
        time.sleep(LOOK_EVERY)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
