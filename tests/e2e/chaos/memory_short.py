"""The server's sidecar gets so little memory that the kernel kills it, and is started again (THREATS F-15)."""

import os
import time
from pathlib import Path

from harness.chaos import Scene, seconds
from harness.processes import Skip, check, wait_until
from harness.scenario import main

ROOTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


class Group:
    """A cgroup of ours with a limit of memory, of either version."""

    def __init__(self, mesh):
        self.root = next((root for root in ROOTS if (root / "cgroup.procs").exists()), None)
        if os.geteuid() != 0 or self.root is None:
            raise Skip("no memory cgroup can be made here")
        self.path = self.root / f"pe2e-{os.getpid()}"
        try:
            self.path.mkdir()
        except OSError as error:
            raise Skip(f"no memory cgroup can be made here: {error}") from None
        mesh.workspace.at_end(self.remove)
        names = ("memory.limit_in_bytes", "memory.max")
        self.limit = next((self.path / name for name in names if (self.path / name).exists()), None)
        if self.limit is None:
            raise Skip("the memory controller is not enabled")

    def take(self, pid, megabytes):
        self.limit.write_text(str(int(megabytes * 1024 * 1024)))
        (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self):
        for pid in (self.path / "cgroup.procs").read_text().split():
            (self.root / "cgroup.procs").write_text(pid)
        self.path.rmdir()


def run(mesh):
    group = Group(mesh)
    scene = Scene(mesh).load(body=400_000, http1=24)
    time.sleep(1)
    kills = 0
    ends = time.monotonic() + seconds()
    slowest = 0
    while time.monotonic() < ends:
        with scene.fault(recovery=1):
            # Below what it needs: the kernel takes it away in the middle of its work.
            group.take(scene.server.process.pid, 1)
            wait_until(lambda: not scene.server.process.running(), "the kernel to kill it", 20)
            kills += 1
            started = time.monotonic()
            scene.server.start()
            slowest = max(slowest, time.monotonic() - started)
        time.sleep(1)
    check(kills > 0, "it was never killed")
    time.sleep(2)
    scene.verdict(
        "memory_short",
        "too little memory: the kernel kills the peer's sidecar",
        "as for kill -9: requests under way break off, others are refused until it is back, which needs no state",
        may=("refused", "broken"),
        entitled_cuts=True,
        remarks=f"{kills} kills; ready again within {slowest:.1f} s",
    )


if __name__ == "__main__":
    main(run)
