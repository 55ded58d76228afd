"""The access log's disk is full under load, and has room again (THREATS F-13)."""

import json
import os
import time

from harness.chaos import Scene, seconds
from harness.processes import Skip, check, expect, tool, wait_until
from harness.scenario import main

DISK = 16 << 20
# What the log may take before it is full.
ROOM = 200 << 10


def run(mesh):
    if os.geteuid() != 0:
        raise Skip("not root: a small disk has to be mounted")
    scene = Scene(mesh, start=False)
    client = scene.client
    disk = client.directory / "disk"
    disk.mkdir()
    # In a mount namespace of its own: nothing of the machine's changes, and it is gone with the process.
    script = f'mount --make-rprivate / && mount -t tmpfs -o size={DISK} none "$0" && exec "$@"'
    client.prefix = [tool("unshare"), "--mount", "--", tool("sh"), "-c", script, disk]
    client.config["telemetry"]["access_log"] = {"file": str(disk / "access.json")}
    scene.server.start()
    client.start()

    def inside(name):
        return f"/proc/{client.process.pid}/root{disk}/{name}"

    client.records_path = inside("access.json")
    # Most of it is somebody else's, and can be taken away again.
    with open(inside("other"), "wb") as other:
        other.write(b"x" * (DISK - ROOM))
    # Many small ones: thousands of records have to wait before one is dropped.
    scene.load(think=0.004, http1=24, body=1000, answer=1000, slow=0)
    with scene.fault():
        wait_until(lambda: client.metric("postern_access_log_errors_total") > 0, "the disk to be full", 60)
        # Long enough that records are dropped, which is what the promise is about.
        wait_until(lambda: client.metric("postern_access_log_dropped_total") > 0, "records to be dropped", 90)
        time.sleep(seconds() / 2)
        dropped_full = client.metric("postern_access_log_dropped_total")
    errors = client.metric("postern_access_log_errors_total")
    os.truncate(inside("other"), 0)
    # As rotation does; the log goes on where it is.
    before = len(lines_of(inside("access.json")))
    wait_until(lambda: len(lines_of(inside("access.json"))) > before, "records to be written again", 10)
    scene.stop_load()
    wait_until(lambda: client.metric("postern_connections_active") == 0, "all connections to end", 10)
    time.sleep(1)
    dropped = client.metric("postern_access_log_dropped_total")
    written = lines_of(inside("access.json"))
    torn = [line for line in written if not parses(line)]
    expect("torn lines", torn[:3], [])
    # A request without an answer has a record as well; so has each connection.
    expected = len(scene.books().requests) + client.metric("postern_connections_opened_total")
    expect("records written and dropped", len(written) + dropped, expected)
    check(dropped >= dropped_full > 0, "nothing was dropped")
    scene.verdict(
        "disk_full",
        "the access log's disk is full",
        "records are dropped and counted, to the last one; traffic does not notice; writing goes on by itself",
        remarks=f"{len(written):,} records written + {dropped:,.0f} dropped = {expected:,.0f}; {errors:.0f} failed writes",
        records=False,
    )


def lines_of(path):
    with open(path, "rb") as file:
        return [line for line in file.read().split(b"\n") if line]


def parses(line):
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


if __name__ == "__main__":
    main(run)
