"""The frame of a chaos case: a pair of sidecars under the ledger's load, a fault, and a verdict.

A case is a file in `chaos/` with `run(mesh)`. It makes a `Scene`, brings faults within `scene.fault(…)`, and ends with
`scene.verdict(…)`, which says what was promised, fails when more was lost, and notes the row for the table in docs/chaos.md.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from harness.ledger import Books, Window, outcome_of, reconcile, records_of
from harness.mesh import ROOT, inbound_port, outbound_service
from harness.processes import Failed, check, free_port, wait_until

HARNESS = Path(__file__).resolve().parent
TABLE = ROOT / "docs/chaos.md"
ALWAYS_ZERO = ("dup", "ghost", "corrupt", "hang")


def seconds():
    """How long a case goes on: short in every run of CI, long by flag."""
    return float(os.environ.get("CHAOS_SECONDS", "6"))


class Scene:
    """Client → sidecar → mTLS → sidecar → app: HTTP of all kinds and numbered lines."""

    def __init__(self, mesh, identity=None, start=True, client=None, server=None, service=None, port=None):
        """`client`, `server`: options of the sidecars; `service`, `port`: more keys of the HTTP service and port."""
        self.mesh, self.windows, self.loads = mesh, [], []
        self.identity = identity or mesh.identity()
        self.app_port, self.mesh_http, self.mesh_tcp, self.http, self.tcp = (free_port() for _ in range(5))
        self.app_log = mesh.directory / "app.ledger"
        self.start_app()
        app = f"127.0.0.1:{self.app_port}"
        ports = [
            inbound_port(self.app_port, self.mesh_http, name="ledger", **(port or {})),
            inbound_port(self.app_port + 1, self.mesh_tcp, "tcp", name="lines", app=app),
        ]
        services = [
            outbound_service(self.http, self.mesh_http, name="ledger", hosts=["ledger.shop.svc"], **(service or {})),
            outbound_service(self.tcp, self.mesh_tcp, "tcp", name="lines", hosts=["lines.shop.svc"]),
        ]
        self.server = mesh.workload(self.identity, "orders", inbound=ports, **(server or {}))
        self.client = mesh.workload(self.identity, "web", outbound={"services": services}, **(client or {}))
        if start:
            self.server.start()
            self.client.start()

    def start_app(self, prefix=()):
        command = [*prefix, sys.executable, HARNESS / "ledger_app.py", self.app_port, self.app_log]
        self.app = self.mesh.workspace.spawn(f"app-{len(self.mesh.workspace.processes)}", command)
        wait_until(lambda: "ready" in self.app.text(), "the application")

    def load(self, prefix=(), **settings):
        """Starts the client; it goes on until the verdict."""
        number = len(self.loads)
        out = self.mesh.directory / f"client-{number}.ledger"
        settings = {
            "http": ("127.0.0.1", self.http), "tcp": ("127.0.0.1", self.tcp), "out": str(out), "first": number * 10_000_000,
            **settings,
        }  # fmt: skip
        command = [*prefix, sys.executable, "-m", "harness.ledger_client", json.dumps(settings)]
        process = self.mesh.workspace.spawn(f"client-{number}", command)
        self.loads.append((process, out))
        wait_until(lambda: "ready" in process.text(), "the ledger's client")
        # Until pools are warm: what a fault does to the first connection of all is another question.
        time.sleep(1)
        return self

    @contextlib.contextmanager
    def fault(self, recovery=0.5):
        """The fault lasts as long as the block; what it costs may be seen `recovery` seconds longer."""
        began = time.time()
        yield
        self.windows.append(Window(began, time.time(), recovery))

    def stop_load(self):
        for process, _ in self.loads:
            process.signal(signal.SIGTERM)
        for process, _ in self.loads:
            process.child.wait(40)
            check(process.child.returncode == 0, f"the ledger's client exited {process.child.returncode}: {process.text()}")
        self.ended = time.time()

    def books(self):
        return Books([out for _, out in self.loads], self.app_log)

    def verdict(self, name, fault, promise, may=(), remarks="", entitled_cuts=False, records=True, dropped=0):
        """`may`: which outcomes the fault may have, besides `ok`: refused, broken, cut."""
        self.stop_load()
        for sidecar in (self.client, self.server):
            sidecar.alive()
            check("panicked" not in sidecar.log_text(), f"{sidecar.name} panicked")
        time.sleep(0.3)  # the access log's writer gathers
        found, torn = records_of(self.client) if records else (None, 0)
        row = reconcile(self.books(), self.windows, found, entitled_cuts)
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()))
        faults = [key for key in ALWAYS_ZERO if row[key]]
        faults += [key for key in ("refused", "broken", "cut") if row[key] and key not in may]
        if row["streams_refused"] and "refused" not in may:
            faults.append("streams_refused")
        faults += [key for key in ("stray", "false_cuts", "recorded_twice") if row[key]]
        if row["unrecorded"] != dropped:
            faults.append(f"unrecorded (dropped: {dropped})")
        if torn:
            faults.append(f"{torn} torn records")
        if row["ok"] == 0:
            faults.append("no request was answered")
        self.note(name, fault, promise, row, remarks)
        if faults:
            self.explain()
            raise Failed(f"{name}: not as promised: {', '.join(faults)}")

    def note(self, name, fault, promise, row, remarks):
        results = os.environ.get("CHAOS_RESULTS")
        if results:
            row = {"name": name, "fault": fault, "promise": promise, "remarks": remarks, **row}
            (Path(results) / f"{name}.json").write_text(json.dumps(row))

    def explain(self):
        """The first lines of what went wrong, and what the sidecars' records say of them."""
        books = self.books()
        counts, _ = records_of(self.client)

        def is_wrong(line):
            twice = books.seen[line.id] > 1 and line.method == "POST"
            unrecorded = line.status is not None and counts[line.id] != 1
            return outcome_of(line) != "ok" or books.is_corrupt(line) or twice or unrecorded

        shown = list(itertools.islice(filter(is_wrong, books.requests), 12))
        found = {it: records_of(it, {line.id for line in shown})[0] for it in (self.client, self.server)}
        for line in shown:
            print("  client:", line._asdict(), "seen", books.seen[line.id])
            for sidecar, records in found.items():
                for record in records[line.id]:
                    print(f"    {sidecar.name}:", {key: record[key] for key in EXPLAINING if key in record})
        for line in [line for line in books.streams if line["why"] != "done"][:6] + books.closed[:6]:
            print("  client:", line)
        for window in self.windows:
            print("  fault:", window.began, window.ended, "+", window.recovery)


# Of a record.
EXPLAINING = ("time", "http.response.status_code", "refusal", "refusal.detail", "refusal.remote", "end")
COLUMNS = ("requests", "ok", "refused", "broken", "cut", "repeated", "dup", "ghost", "corrupt", "hang", "streams",
           "streams_refused", "streams_ended", "false_cuts", "unrecorded")  # fmt: skip


def table(results):
    """docs/chaos.md of the rows in a folder."""
    rows = [json.loads(path.read_text()) for path in sorted(Path(results).glob("*.json"))]
    text = (HARNESS / "chaos.md").read_text()
    heads = ["case", *(column.replace("_", " ") for column in COLUMNS)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        lines.append(f"| `{row['name']}` | " + " | ".join(f"{row[column]:,}" for column in COLUMNS) + " |")
    said = [f"| `{row['name']}` | {row['fault']} | {row['promise']} | {row['remarks']} |" for row in rows]
    text = text.replace("{figures}", "\n".join(lines))
    return text.replace("{promises}", "\n".join(["| case | fault | promised | seen |", "|---|---|---|---|", *said]))


if __name__ == "__main__":
    TABLE.write_text(table(sys.argv[1]))
    shutil.rmtree(sys.argv[1])
