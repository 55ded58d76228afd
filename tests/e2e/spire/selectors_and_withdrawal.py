"""On real SPIRE: two uids on one machine are two identities; a deleted entry ends what it allowed."""

from harness.apps import EchoApp, Http1App
from harness.clients import Http1, connect, seconds_until_cut
from harness.mesh import BATCH, WEB, inbound_port, outbound_service
from harness.processes import expect, free_port, wait_until
from harness.scenario import main
from harness.spire import SpireMesh

GRACE = {"identity": {"permission_denied_grace": "1s"}}


def run(mesh):
    identity = mesh.identity()
    app, echo = Http1App(), EchoApp()
    http, tcp = free_port(), free_port()
    ports = [
        inbound_port(app.port, http, name="http"),
        inbound_port(echo.port, tcp, "tcp", name="tcp", allow=[{"spiffe": WEB}, {"spiffe": BATCH}]),
    ]
    mesh.workload(identity, "orders", inbound=ports).start()
    locals_of = {}
    for caller in ("web", "batch"):
        locals_of[caller] = (free_port(), free_port())
        services = [
            outbound_service(locals_of[caller][0], http, name="http"),
            outbound_service(locals_of[caller][1], tcp, "tcp", name="tcp", hosts=["tcp.shop.svc"]),
        ]
        mesh.workload(identity, caller, outbound={"services": services}, **GRACE).start()

    expect("a request of web", Http1(connect(locals_of["web"][0])).get().status, 200)
    expect("a request of batch", Http1(connect(locals_of["batch"][0])).get().status, 403)
    tunnels = {}
    for caller, (_, local) in locals_of.items():
        tunnels[caller] = connect(local, 40)
        roundtrip(caller, tunnels[caller])

    identity.delete_entry("web")
    wait_until(lambda: identity.fetch_text("web")[0] != 0, "the agent to know of the deleted entry", 30, 0.3)
    seconds_until_cut(tunnels["web"], 30)
    roundtrip("batch", tunnels["batch"])
    expect("a new request of web", Http1(connect(locals_of["web"][0])).get().status, 503)


def roundtrip(caller, tunnel):
    tunnel.sendall(caller.encode())
    expect(f"the tunnel of {caller}", tunnel.recv(64), caller.encode())


if __name__ == "__main__":
    main(run, SpireMesh)
