"""The ledger: what the client was told, what the application did and what the access logs say, held against each other.

Always 0, whatever happened: *dup* (a POST reached the application twice), *ghost* (a 200 for what it never saw), *corrupt* (a
body or a line that is not what was sent), *hang* (no outcome within the deadline). What a fault may cost is told by its time:
a request that failed outside every window of a fault is *stray*.
"""

import json
import sys
from collections import Counter, defaultdict
from typing import NamedTuple


class Window:
    """A fault's time, and how long after it its consequences may be seen."""

    def __init__(self, began, ended, recovery):
        self.began, self.ended, self.recovery = began, ended, recovery

    def excuses(self, began, ended):
        return began <= self.ended + self.recovery and ended >= self.began


class Request(NamedTuple):
    """What the client wrote of one request. An hour of soak has a million of them."""

    kind: str
    id: int
    method: str
    hash: int
    at: float
    took: float
    status: int | None
    right: bool | None
    error: str | None
    refused: str | None


class Books:
    """All that was written down."""

    def __init__(self, client_paths, app_log):
        self.requests, self.streams, self.closed = [], [], []
        for path in client_paths:
            with open(path) as file:
                for line in map(json.loads, file):
                    self._client_line(line)
        self.seen, self.hashes, self.mixed = Counter(), {}, set()
        with open(app_log) as file:
            for line in file:
                event, number, *more = line.split()
                if event == "S":
                    self.seen[int(number)] += 1
                elif event == "B":
                    self._hash(int(number), short(more[0]))

    def _client_line(self, line):
        kind = line["kind"]
        if kind == "stream":
            self.streams.append(line)
        elif kind == "connection":
            self.closed.append(line)
        else:
            words = {key: line[key] and sys.intern(line[key]) for key in ("kind", "method", "error")}
            self.requests.append(Request(**{**line, **words, "hash": short(line["hash"])}))

    def _hash(self, number, digest):
        if self.hashes.setdefault(number, digest) != digest:
            self.mixed.add(number)

    def is_corrupt(self, request):
        known = self.hashes.get(request.id, request.hash)
        return request.right is False or known != request.hash or request.id in self.mixed


def short(digest):
    """Enough of a SHA-256 to tell bodies apart, and small."""
    return int(digest[:16], 16)


def records_of(sidecar, numbers=None):
    """How many records of each request there are, and how many lines are torn. `numbers`: their records themselves."""
    found, torn = (Counter() if numbers is None else defaultdict(list)), 0
    with open(sidecar.records_path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                torn += 1
                continue
            path = record.get("url.path") or ""
            if not path.startswith("/l/"):
                continue
            number = int(path[3:])
            if numbers is None:
                found[number] += 1
            elif number in numbers:
                found[number].append(record)
    return found, torn


def reconcile(books, windows, records=None, entitled_cuts=False):
    """The row of a case: figures by name. `records`: of the client's sidecar. `entitled_cuts`: the fault ends connections."""
    row = Counter(
        requests=len(books.requests), ok=0, refused=0, broken=0, cut=0, stray=0, repeated=0, dup=0, ghost=0, corrupt=0, hang=0,
        streams=len(books.streams), streams_refused=0, streams_ended=0, false_cuts=0, unrecorded=0, recorded_twice=0,
    )  # fmt: skip

    def excused(at, took=0):
        return any(window.excuses(at, at + took) for window in windows)

    for line in books.requests:
        seen, outcome = books.seen[line.id], outcome_of(line)
        row[outcome] += 1
        row["dup"] += line.method == "POST" and seen > 1
        row["repeated"] += max(seen - 1, 0) if line.method != "POST" else 0
        row["ghost"] += outcome == "ok" and seen == 0
        row["corrupt"] += books.is_corrupt(line)
        if outcome != "ok":
            is_excused = excused(line.at, line.took)
            row["stray"] += outcome != "hang" and not is_excused
            row["false_cuts"] += outcome == "cut" and not (entitled_cuts and is_excused)
        if records is not None and line.status is not None:
            row["unrecorded"] += records[line.id] == 0
            row["recorded_twice"] += records[line.id] > 1
    for line in books.streams:
        # What never carried a line back was not cut off, it was refused.
        refused = line["why"] != "done" and line["back"] == 0
        ended = line["why"] != "done" and not refused
        is_excused = line["why"] == "done" or excused(line["at"], line["took"])
        row["streams_refused"] += refused
        row["streams_ended"] += ended
        row["hang"] += line["why"] == "hang"
        row["corrupt"] += line["corrupt"]
        row["stray"] += refused and not is_excused
        row["false_cuts"] += ended and not (entitled_cuts and is_excused)
    for line in books.closed:
        row["false_cuts"] += not (entitled_cuts and excused(line["at"]))
    return row


def outcome_of(line):
    if line.error == "hang":
        return "hang"
    # A stream's reset overtakes what was queued before it.
    if (line.error or "").startswith("reset"):
        return "broken"
    if line.status is None:
        return "cut"
    if line.error:
        return "broken"
    return "ok" if line.status == 200 else "refused"
