"""The provider says `PermissionDenied` for a moment, again and again: shorter than the grace, so nothing live ends (F-05)."""

import time

from harness.chaos import Scene, seconds
from harness.processes import wait_until
from harness.scenario import main


def run(mesh):
    scene = Scene(mesh).load(churn=0)
    ends = time.monotonic() + seconds()
    flaps = 0
    while time.monotonic() < ends:
        with scene.fault(recovery=2):
            for name in ("web", "orders"):
                scene.identity.ctl("withdraw", name)
            time.sleep(1)
            for name in ("web", "orders"):
                scene.identity.ctl("restore", name)
            wait_until(lambda: all(it.readiness()[0] == 200 for it in (scene.client, scene.server)), "readiness", 15)
            flaps += 1
    scene.verdict(
        "provider_denies",
        "`PermissionDenied` for a second at a time",
        "no new connection is made meanwhile, and requests that need one are refused with 503; what is open stays",
        may=("refused",),
        remarks=f"{flaps} denials",
    )


if __name__ == "__main__":
    main(run)
