"""The identity provider is killed with -9 under load, and started again (THREATS F-02)."""

import time

from harness.chaos import Scene, seconds
from harness.processes import wait_until
from harness.scenario import main


def run(mesh):
    scene = Scene(mesh).load()
    ends = time.monotonic() + seconds()
    kills = 0
    while time.monotonic() < ends:
        with scene.fault():
            scene.identity.kill()
            kills += 1
            time.sleep(1)
            scene.identity.start()
        # Proof that it is heard again.
        generation = [sidecar.metric("postern_identity_generation") for sidecar in (scene.client, scene.server)]
        scene.identity.ctl("rotate-svids")
        wait_until(
            lambda: all(
                sidecar.metric("postern_identity_generation") > before
                for sidecar, before in zip((scene.client, scene.server), generation)
            ),
            "both sidecars to follow the provider again",
            12,
        )
    scene.verdict(
        "provider_killed",
        "kill -9 and restart of the identity provider",
        "nothing: what is open stays, and new handshakes use the SVIDs at hand",
        remarks=f"{kills} kills, each with a rotation after it",
    )


if __name__ == "__main__":
    main(run)
