"""Envoy as mTLS client of a Postern inbound port, HTTP/1.1 and HTTP/2, and refused when its identity is not allowed."""

from harness.apps import Http1App, fields_of
from harness.clients import Http1, connect
from harness.envoy import start_envoy_client
from harness.mesh import BATCH, WEB, inbound_port
from harness.processes import check, expect, free_port, tool, wait_until
from harness.scenario import main


def run(mesh):
    tool("envoy")
    identity = mesh.identity()
    app = Http1App()
    mesh_port = free_port()
    port = inbound_port(app.port, mesh_port, app_http="1")
    server = mesh.workload(identity, "orders", inbound=[port]).start()
    for version in (1, 2):
        entry = start_envoy_client(mesh, f"envoy-web-{version}", identity.fetch("web"), mesh_port, version)
        client = Http1(connect(entry))
        for number in range(20):
            answer = client.get(f"/{version}/{number}")
            expect(f"HTTP/{version} from Envoy, request {number} ({answer.body!r})", answer.status, 200)
        fields = fields_of(app.heads[-1])
        expect("x-spiffe-id", fields.get(b"x-spiffe-id"), [WEB.encode()])
        expect("number of x-forwarded-client-cert", len(fields[b"x-forwarded-client-cert"]), 1)
        client.close()

    seen = len(app.heads)
    entry = start_envoy_client(mesh, "envoy-batch", identity.fetch("batch"), mesh_port, 2)
    answer = Http1(connect(entry)).get("/secret")
    expect("an identity that no rule allows", answer.status, 403)
    check("not_allowed" in answer.headers.get("x-postern-refusal", ""), f"headers of the refusal: {answer.headers}")
    expect("requests that reached the app", len(app.heads), seen)
    wait_until(lambda: BATCH in str(server.records()), "a record that names the refused caller")


if __name__ == "__main__":
    main(run)
