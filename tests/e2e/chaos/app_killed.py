"""The application is killed with -9 under load, and comes back a second later, again and again (THREATS F-26)."""

import time

from harness.chaos import Scene, seconds
from harness.scenario import main


def run(mesh):
    scene = Scene(mesh).load()
    ends = time.monotonic() + seconds()
    kills = 0
    while time.monotonic() < ends:
        time.sleep(1)
        with scene.fault():
            scene.app.kill()
            kills += 1
            time.sleep(1)
            scene.start_app()
    time.sleep(3)
    scene.verdict(
        "app_killed",
        "kill -9 and restart of the application",
        "requests under way break off, others are refused with 503 until it listens again; its streams end with it",
        may=("refused", "broken"),
        entitled_cuts=True,
        remarks=f"{kills} kills",
    )


if __name__ == "__main__":
    main(run)
