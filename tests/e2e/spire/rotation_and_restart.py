"""On real SPIRE, under wrk: the agent killed and restarted, its SVIDs rotated, the server's authority rotated."""

import time

from harness.apps import EchoApp
from harness.clients import Load, connect
from harness.processes import check, expect, tool
from harness.scenario import main
from harness.spire import SpireMesh

# The agent renews at half of an SVID's life.
SVID_TTL = 30


def run(mesh):
    tool("wrk")
    identity = mesh.identity(svid_ttl=SVID_TTL)
    pair = mesh.pair(identity, mesh.nginx("location / { return 200 'hello'; }"))
    tunnels = mesh.pair(identity, EchoApp().port, "tcp", suffix="-tcp")
    tunnel = connect(tunnels.port)
    roundtrip(tunnel)
    rotated_svids(mesh, pair)
    roundtrip(tunnel)
    restarted_agent(mesh, identity, pair)
    roundtrip(tunnel)
    rotated_authority(mesh, identity, pair)
    check(cut(tunnel), "a tunnel that was proven with a revoked authority lives on")
    roundtrip(connect(tunnels.port))


def rotated_svids(mesh, pair):
    load = Load(mesh, pair.url(), 2 * SVID_TTL)
    print("SVIDs rotated by the agent:", load.finish(), "requests")
    for sidecar in (pair.client, pair.server):
        generations = {record.get("identity.generation") for record in sidecar.records()}
        check(len(generations) >= 3, f"{sidecar.name} saw the identity generations {generations} only")


def restarted_agent(mesh, identity, pair):
    load = Load(mesh, pair.url(), 15)
    time.sleep(1)
    for _ in range(2):
        identity.kill()
        time.sleep(2)
        identity.start()
        time.sleep(1)
    print("agent restarted:", load.finish(), "requests")


def rotated_authority(mesh, identity, pair):
    load = Load(mesh, pair.url(), 45)
    old = identity.authorities()["active"]
    identity.authority("prepare")
    prepared = identity.authorities()["prepared"]
    time.sleep(6)
    identity.authority("activate", prepared)
    expect("the active authority", identity.authorities()["active"], prepared)
    # Tainting makes agents renew every SVID of the old authority at once; then it can go.
    identity.authority("taint", old)
    time.sleep(12)
    identity.authority("revoke", old)
    time.sleep(8)
    print("authority rotated:", load.finish(), "requests")


def roundtrip(connection):
    connection.sendall(b"still here")
    expect("the tunnel", connection.recv(64), b"still here")


def cut(connection):
    connection.settimeout(1)
    try:
        connection.sendall(b"?")
        return not connection.recv(64)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


if __name__ == "__main__":
    main(run, SpireMesh)
