"""The peer's sidecar is killed with -9 under load, and started again (THREATS F-17)."""

import time

from harness.chaos import Scene, seconds
from harness.scenario import main


def run(mesh):
    scene = Scene(mesh).load()
    ends = time.monotonic() + seconds()
    kills, slowest = 0, 0
    while time.monotonic() < ends:
        time.sleep(1)
        with scene.fault():
            scene.server.process.kill()
            kills += 1
            time.sleep(0.5)
            started = time.monotonic()
            scene.server.start()
            slowest = max(slowest, time.monotonic() - started)
    time.sleep(3)
    scene.verdict(
        "peer_killed",
        "kill -9 and restart of the peer's sidecar",
        "requests under way break off, others are refused with 502 or 503 until it is back; streams end with it",
        may=("refused", "broken"),
        entitled_cuts=True,
        remarks=f"{kills} kills; ready again within {slowest:.1f} s",
    )


if __name__ == "__main__":
    main(run)
