"""Under wrk: the provider killed and restarted, 20 rotations of SVIDs, 2 staged ones of the CA. No request is lost."""

import time

from harness.apps import EchoApp
from harness.clients import Load, connect
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main


def run(mesh):
    tool("wrk"), tool("nginx")
    identity = mesh.identity()
    app_port = mesh.nginx("location / { return 200 'hello'; }")
    pair = mesh.pair(identity, app_port)
    echo = EchoApp()
    tunnel_pair = mesh.pair(identity, echo.port, "tcp", suffix="-tcp")
    tunnel = connect(tunnel_pair.port)
    roundtrip(tunnel)

    load = Load(mesh, pair.url(), 12)
    time.sleep(1)
    for _ in range(2):
        identity.kill()
        time.sleep(2.5)
        identity.start()
        time.sleep(1)
    print("provider restarted:", load.finish(), "requests")
    roundtrip(tunnel)

    load = Load(mesh, pair.url(), 16)
    for _ in range(20):
        identity.ctl("rotate-svids")
        time.sleep(0.6)
    print("20 rotations:", load.finish(), "requests")
    roundtrip(tunnel)

    load = Load(mesh, pair.url(), 24)
    for _ in range(2):
        for step in ("publish-ca", "reissue", "remove-old-ca"):
            identity.ctl(step)
            time.sleep(3)
    print("2 staged rotations of the CA:", load.finish(), "requests")
    # The tunnel was proven with an authority that is gone now: this one must not have survived.
    wait_until(lambda: closed(tunnel), "the tunnel of the removed authority to be cut", 5)
    fresh = connect(tunnel_pair.port)
    roundtrip(fresh)
    for sidecar in (pair.client, pair.server):
        check(" ERROR " not in sidecar.log_text(), f"{sidecar.name} logged errors")


def roundtrip(connection):
    connection.sendall(b"still here")
    expect("the long-lived tunnel", connection.recv(64), b"still here")


def closed(connection):
    connection.settimeout(0.2)
    try:
        connection.sendall(b"?")
        return not connection.recv(64)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


if __name__ == "__main__":
    main(run)
