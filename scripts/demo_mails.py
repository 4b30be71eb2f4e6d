"""What the demo's mail server has: scripts/demo_mails.py DIRECTORY. Each mail in a line, and how long after the movement it was there."""

import datetime
import email
import email.policy
import pathlib
import re
import sys


def after(path, subject):
    """The subject names the second in which the movement began."""
    found = re.search(r"at (\d\d):(\d\d):(\d\d)", subject)
    if not found:
        return ""
    arrived = datetime.datetime.fromtimestamp(path.stat().st_mtime)
    began = arrived.replace(hour=int(found[1]), minute=int(found[2]), second=int(found[3]), microsecond=0)
    return f", {(arrived - began).total_seconds():.1f} s after the movement began"


for path in sorted(pathlib.Path(sys.argv[1]).glob("*.eml"), key=lambda path: path.stat().st_mtime):
    mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    size = path.stat().st_size
    parts = [part.get_content_type() for part in mail.walk() if part.get_content_maintype() in ("image", "video")]
    print(f"{mail['Subject']}: {', '.join(parts) or 'no picture'}, {size // 1000} kB{after(path, mail['Subject'])}")
