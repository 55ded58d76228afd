"""The ledger: what the client was told, what the application did and what the access logs say, held against each other.

Always 0, whatever happened: *dup* (a POST reached the application twice), *ghost* (a 200 for what it never saw), *corrupt* (a
body or a line that is not what was sent), *hang* (no outcome within the deadline). What a fault may cost is told by its time:
a request that failed outside every window of a fault is *stray*.
"""

import json
from collections import Counter, defaultdict
from pathlib import Path


class Window:
    """A fault's time, and how long after it its consequences may be seen."""

    def __init__(self, began, ended, recovery):
        self.began, self.ended, self.recovery = began, ended, recovery

    def excuses(self, began, ended):
        return began <= self.ended + self.recovery and ended >= self.began


class Books:
    """All that was written down."""

    def __init__(self, client_paths, app_log):
        lines = [json.loads(line) for path in client_paths for line in Path(path).read_text().splitlines()]
        self.requests = [line for line in lines if line["kind"] in ("http1", "http2", "grpc")]
        self.streams = [line for line in lines if line["kind"] == "stream"]
        self.closed = [line for line in lines if line["kind"] == "connection"]
        self.seen, self.hashes = Counter(), defaultdict(set)
        for line in Path(app_log).read_text().splitlines():
            event, number, *more = line.split()
            if event == "S":
                self.seen[int(number)] += 1
            elif event == "B":
                self.hashes[int(number)].add(more[0])


def records_of(*sidecars):
    """The records of each request by its number, and how many lines are torn."""
    found, torn = defaultdict(list), 0
    for path in (sidecar.records_path for sidecar in sidecars):
        for line in Path(path).read_bytes().split(b"\n"):
            try:
                record = json.loads(line) if line else {}
            except ValueError:
                torn += 1
                continue
            path = record.get("url.path") or ""
            if path.startswith("/l/"):
                found[int(path[3:])].append(record)
    return found, torn


def reconcile(books, windows, records=None, entitled_cuts=False):
    """The row of a case: figures by name. `records`: of the client's sidecar. `entitled_cuts`: the fault ends connections."""
    row = Counter(
        requests=len(books.requests), ok=0, refused=0, broken=0, cut=0, stray=0, repeated=0, dup=0, ghost=0, corrupt=0, hang=0,
        streams=len(books.streams), streams_ended=0, false_cuts=0, unrecorded=0, recorded_twice=0,
    )  # fmt: skip

    def excused(line):
        return any(window.excuses(line["at"], line["at"] + line["took"]) for window in windows)

    for line in books.requests:
        number, seen = line["id"], books.seen[line["id"]]
        outcome = outcome_of(line)
        row[outcome] += 1
        row["dup"] += line["method"] == "POST" and seen > 1
        row["repeated"] += max(seen - 1, 0) if line["method"] != "POST" else 0
        row["ghost"] += outcome == "ok" and seen == 0
        row["corrupt"] += line["right"] is False or bool(books.hashes[number] - {line["hash"]})
        row["stray"] += outcome in ("refused", "broken", "cut") and not excused(line)
        row["false_cuts"] += outcome == "cut" and not (entitled_cuts and excused(line))
        if records is not None and line["status"] is not None:
            row["unrecorded"] += not records[number]
            row["recorded_twice"] += len(records[number]) > 1
    for line in books.streams:
        ended = line["why"] != "done"
        row["streams_ended"] += ended
        row["hang"] += line["why"] == "hang"
        row["corrupt"] += line["corrupt"]
        row["false_cuts"] += ended and not (entitled_cuts and excused(line))
    for line in books.closed:
        window = any(window.excuses(line["at"], line["at"]) for window in windows)
        row["false_cuts"] += not (entitled_cuts and window)
    return row


def outcome_of(line):
    if line["error"] == "hang":
        return "hang"
    # A stream's reset overtakes what was queued before it.
    if (line["error"] or "").startswith("reset"):
        return "broken"
    if line["status"] is None:
        return "cut"
    if line["error"]:
        return "broken"
    return "ok" if line["status"] == 200 else "refused"
