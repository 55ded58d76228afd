"""The frame of a scenario: `run(mesh)` in a process of its own, an exit code the runner understands."""

import os
import signal
import sys
import traceback

from harness.mesh import Mesh
from harness.processes import Failed, Skip

SKIPPED = 77


def main(run, mesh_class=Mesh):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    mesh = mesh_class()
    code = 1
    try:
        run(mesh)
        code = 0
    except Skip as reason:
        print(f"SKIP: {reason}")
        code = SKIPPED
    except Failed as failure:
        frames = traceback.extract_tb(failure.__traceback__)
        where = next((frame for frame in reversed(frames) if "/harness/" not in frame.filename), frames[-1])
        print(f"FAILED at {os.path.basename(where.filename)}:{where.lineno} ({where.line}): {failure}")
    except Exception:  # noqa: BLE001 - whatever it is, the logs are printed and everything is stopped
        traceback.print_exc(file=sys.stdout)
    finally:
        try:
            if code not in (0, SKIPPED):
                print(mesh.workspace.tails())
            sys.stdout.flush()
        finally:
            mesh.close(keep=bool(os.environ.get("E2E_KEEP")) and code == 1)
    # Threads of apps and of gRPC may still wait for bytes that never come: the process ends all the same.
    os._exit(code)
