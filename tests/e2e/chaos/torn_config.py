"""Torn, invalid and empty configurations are written under load, five times a second (THREATS F-12, CF-01, CF-02)."""

import json
import signal
import time

from harness.chaos import Scene, seconds
from harness.processes import check, wait_until
from harness.scenario import main


def run(mesh):
    scene = Scene(mesh).load()
    taken = [sidecar.metric("postern_config_generation") for sidecar in (scene.client, scene.server)]
    ends = time.monotonic() + seconds()
    writes = 0
    while time.monotonic() < ends:
        for sidecar in (scene.client, scene.server):
            good = json.dumps(sidecar.config, indent=2)
            for content in broken(good):
                writes += 1
                sidecar.config_path.write_text(content)
                if writes % 3 == 0:
                    sidecar.process.signal(signal.SIGHUP)
                time.sleep(0.1)
            # Torn: the rest comes later.
            with open(sidecar.config_path, "w") as file:
                file.write(good[: len(good) // 2])
                file.flush()
                time.sleep(0.3)
                file.write(good[len(good) // 2:])
    for sidecar, before in zip((scene.client, scene.server), taken):
        sidecar.config["drain_timeout"] = "7s"
        sidecar.reload()
        wait_until(lambda: sidecar.metric("postern_config_generation") > before, "the good file to be taken", 10)
    refused = sum(sidecar.metric("postern_config_loads_total", result="refused") for sidecar in (scene.client, scene.server))
    check(refused > 0, "no broken file was ever looked at")
    scene.verdict(
        "torn_config",
        "torn, invalid and empty configuration files",
        "nothing: the last good configuration stays, and the next good one is taken",
        remarks=f"{writes} broken files, {refused:.0f} loads refused",
    )


def broken(good):
    yield ""
    yield good[: len(good) // 3]
    yield good.replace('"allow"', '"alow"').replace('"identity":', '"identiti":')
    yield "inbound: ["
    yield "\0" * 100


if __name__ == "__main__":
    main(run)
