"""Mixed HTTP/1, HTTP/2, gRPC and L4 for as long as is said, with a rotation every 10 s, a reload every 5 s and churn.

Held to: no failed request, no false cut, nothing doubled, lost or corrupted, resident memory that grew by less than 5 % since
the warm-up, and descriptors that do not grow. Prints a line a minute, and the verdict as JSON at the end.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from harness.chaos import Scene
from harness.ledger import reconcile, records_of
from harness.processes import check
from harness.scenario import main

ROTATE_EVERY, RELOAD_EVERY, SAMPLE_EVERY = 10, 5, 1
# Pools, buffers and the allocator find their size; less of a short run.
WARM_UP_MAX, WARM_UP_SHARE = 120, 0.25
GROWTH_MAX = 0.05
# One or two connections more are this second's traffic.
DESCRIPTORS_MORE_MAX = 0.1
WINDOW = 0.1


def parse():
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", help="a file for the samples, one JSON line each")
    return parser.parse_args()


class Samples:
    """RSS in bytes and open descriptors of each sidecar, over time."""

    def __init__(self, scene, out):
        self.sidecars = {"client": scene.client, "server": scene.server}
        self.lines = []
        self.out = open(out, "w") if out else None

    def take(self, elapsed):
        line = {"at": round(elapsed, 1)}
        for name, sidecar in self.sidecars.items():
            sidecar.alive()
            status = Path(f"/proc/{sidecar.process.pid}/status").read_text()
            line[f"{name}_rss"] = int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024
            line[f"{name}_fds"] = len(list(Path(f"/proc/{sidecar.process.pid}/fd").iterdir()))
        self.lines.append(line)
        if self.out:
            self.out.write(json.dumps(line) + "\n")
            self.out.flush()
        return line

    def growth(self, key, warm_up):
        """Of the medians at both ends of what came after the warm-up: single samples are traffic."""
        values = [line[key] for line in self.lines if line["at"] >= warm_up]
        width = max(int(len(values) * WINDOW), 3)
        median = lambda part: sorted(part)[len(part) // 2]  # noqa: E731
        first, last = median(values[:width]), median(values[-width:])
        return first, last, last / first - 1


def run(mesh, arguments):
    duration = arguments.minutes * 60
    warm_up = min(WARM_UP_MAX, duration * WARM_UP_SHARE)
    # The access log is kept for the verdict, and a record more a request is what is usual.
    scene = Scene(mesh, identity=mesh.identity(ttl="10m"))
    # One request at a time from many, and a few that share: some of each end and begin again all the time.
    scene.load(churn=0.05, think=0.03)
    samples = Samples(scene, arguments.out)
    began = time.monotonic()
    rotate_at, reload_at, minute = ROTATE_EVERY, RELOAD_EVERY, 60
    rotations = reloads = 0
    while (elapsed := time.monotonic() - began) < duration:
        line = samples.take(elapsed)
        if elapsed >= rotate_at:
            scene.identity.ctl("rotate-svids")
            rotations, rotate_at = rotations + 1, rotate_at + ROTATE_EVERY
        if elapsed >= reload_at:
            change(scene, reloads)
            reloads, reload_at = reloads + 1, reload_at + RELOAD_EVERY
        if elapsed >= minute:
            print(f"{elapsed / 60:.0f} min: " + ", ".join(f"{key} {value:,}" for key, value in line.items() if key != "at"))
            minute += 60
        time.sleep(SAMPLE_EVERY)
    scene.stop_load()
    verdict(scene, samples, warm_up, {"minutes": arguments.minutes, "rotations": rotations, "reloads": reloads})


def change(scene, number):
    """What a real edit would change, in turn: rules, limits, deadlines; and the same again, rewritten."""
    server, client = scene.server.config, scene.client.config
    server["inbound"][0]["allow"] = [{"spiffe": server["inbound"][0]["allow"][0]["spiffe"], "name": f"rule-{number % 7}"}]
    server["drain_timeout"] = f"{20 + number % 3}s"
    client["timeouts"] = {"http_idle": f"{10 + number % 2}m"}
    client["outbound"]["services"][0]["outliers"] = {"failures": 5 + number % 2}
    scene.server.reload()
    scene.client.reload(by_signal=number % 2 == 0)


def verdict(scene, samples, warm_up, figures):
    time.sleep(0.5)
    found, torn = records_of(scene.client)
    row = reconcile(scene.books(), [], found)
    taken = {name: it.metric("postern_config_loads_total", result="taken") for name, it in samples.sidecars.items()}
    faults = [key for key in row if row[key] and key not in ("requests", "ok", "streams")]
    growth = {}
    for name in samples.sidecars:
        for kind, most in (("rss", GROWTH_MAX), ("fds", DESCRIPTORS_MORE_MAX)):
            first, last, share = samples.growth(f"{name}_{kind}", warm_up)
            growth[f"{name}_{kind}"] = [first, last, round(share, 4)]
            if share > most:
                faults.append(f"{name}_{kind} grew by {share:.1%}")
    dropped = scene.client.metric("postern_access_log_dropped_total")
    print(json.dumps({**figures, **row, "growth": growth, "taken": taken, "dropped_records": dropped, "torn": torn}, indent=1))
    if faults:
        scene.explain()
    check(not faults, f"soak: {', '.join(faults)}")
    check(min(taken.values()) > figures["reloads"] * 0.8, f"only {taken} of {figures['reloads']} configurations were taken")
    print("soak: as promised")


if __name__ == "__main__":
    options = parse()
    sys.argv = sys.argv[:1]
    main(lambda mesh: run(mesh, options))
