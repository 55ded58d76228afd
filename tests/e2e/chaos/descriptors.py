"""The client's sidecar has no descriptor left under load, and gets some again (THREATS F-14, DS-08)."""

import resource
import time
from pathlib import Path

from harness.chaos import Scene, seconds
from harness.clients import connect
from harness.processes import check, wait_until
from harness.scenario import main


def run(mesh):
    # Without churn: what is open is to go on, and needs nothing new. Pools keep their connections.
    scene = Scene(mesh, client={"limits": {"connections": 100_000}, "timeouts": {"pool_idle": "10m"}}).load(churn=0, slow=0)
    pid = scene.client.process.pid
    time.sleep(2)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    cpu = cpu_seconds(pid)
    started = time.monotonic()
    with scene.fault(recovery=1):
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        crowd = []
        while time.monotonic() - started < seconds() / 2:
            try:
                crowd.append(connect(scene.http, 1))
            except OSError:
                pass
            time.sleep(0.02)
        exhausted = scene.client.process.running()
        spent = (cpu_seconds(pid) - cpu) / (time.monotonic() - started)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        for connection in crowd:
            connection.close()
        wait_until(lambda: scene.client.readiness()[0] == 200, "the sidecar to answer again", 5)
    check(exhausted, "the sidecar did not survive")
    counted = scene.client.metric("postern_descriptor_exhaustion_total")
    check(counted > 0, "it never ran out of descriptors")
    check(spent < 0.9, f"it was busy for {spent:.0%} of the time")
    time.sleep(1)
    scene.verdict(
        "descriptors",
        f"no descriptor left, and {len(crowd)} callers who want one",
        "what is open goes on; requests that need a new connection are refused with 503; no busy loop",
        may=("refused", "cut"),
        entitled_cuts=False,
        remarks=f"ran out {counted:.0f} times, {spent:.0%} of a core",
    )


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main(run)
