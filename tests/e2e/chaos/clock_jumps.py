"""The client's sidecar's clock jumps, forwards and backwards, a little and a year (THREATS F-11)."""

import glob
import time

from harness.chaos import Scene, seconds
from harness.processes import Skip, check, tool, wait_until
from harness.scenario import main

LIBRARIES = "/usr/lib/*/faketime/libfaketime.so.1"


def run(mesh):
    library = next(iter(glob.glob(LIBRARIES)), None)
    if library is None:
        raise Skip("libfaketime is not installed")
    offset = mesh.directory / "offset"
    scene = Scene(mesh, start=False)

    def jump(to):
        temporary = offset.with_suffix(".new")
        temporary.write_text(to)
        temporary.rename(offset)

    jump("+0")
    # Timers go by the monotonic clock, which never jumps; nor does it here.
    faked = [f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={offset}", "FAKETIME_NO_CACHE=1"]
    faked += ["FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]
    scene.client.prefix = [tool("env"), *faked]
    scene.server.start()
    scene.client.start()
    scene.load()
    time.sleep(1)
    # SVIDs live for an hour: these change nothing.
    for to in ("+10m", "-10m", "+0"):
        jump(to)
        time.sleep(max(seconds() / 6, 1))
    shown = scene.client.metric("postern_svid_expiry_seconds")
    jump("+10m")
    time.sleep(0.2)
    check(shown - scene.client.metric("postern_svid_expiry_seconds") > 500, "the clock is not faked: this tells nothing")
    jump("+0")
    before = scene.client.metric("postern_identity_reconnects_total")
    # These do: an SVID that has expired, or is not valid yet, makes no connection.
    for to in ("+400d", "-1y"):
        with scene.fault(recovery=3):
            jump(to)
            time.sleep(max(seconds() / 4, 2))
            jump("+0")
            started = time.monotonic()
            wait_until(lambda: scene.client.readiness()[0] == 200, "readiness after the clock has come back", 15)
            back = time.monotonic() - started
        time.sleep(3.2)
    check(scene.client.metric("postern_identity_reconnects_total") - before < 50, "the provider was stormed")
    scene.verdict(
        "clock_jumps",
        "the wall clock jumps by ten minutes, by 400 days, and a year back",
        "ten minutes: nothing. An SVID that has expired ends what was made with it, and refuses with 503 what is new, until "
        "the clock is right again",
        may=("refused", "broken", "cut"),
        entitled_cuts=True,
        remarks=f"ready again {back:.1f} s after the clock",
    )


if __name__ == "__main__":
    main(run)
