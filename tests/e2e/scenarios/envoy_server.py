"""Envoy as mTLS server behind a Postern outbound sidecar, HTTP/1.1 and HTTP/2; the wrong identity is refused."""

import hashlib

from harness.apps import Http1App
from harness.clients import Http1, Http2, connect, http2_headers
from harness.envoy import start_envoy_server
from harness.mesh import ORDERS, WEB, outbound_service
from harness.processes import check, expect, free_port, tool
from harness.scenario import main


def run(mesh):
    tool("envoy")
    identity = mesh.identity()
    app = Http1App()
    right = start_envoy_server(mesh, "envoy-orders", identity.fetch("orders"), app.port, WEB)
    wrong = start_envoy_server(mesh, "envoy-batch", identity.fetch("batch"), app.port, WEB)
    local_right, local_wrong = free_port(), free_port()
    services = [
        outbound_service(local_right, right),
        outbound_service(local_wrong, wrong, name="impostor", hosts=["impostor.shop.svc"]),
    ]
    mesh.workload(identity, "web", outbound={"services": services}).start()

    body = b"x" * 300_000
    digest = hashlib.sha256(body).hexdigest().encode()
    client = Http1(connect(local_right))
    for number in range(10):
        expect(f"HTTP/1.1 to Envoy, request {number}", client.get(f"/{number}").status, 200)
    request = b"POST /upload HTTP/1.1\r\nhost: orders.shop.svc\r\ncontent-length: %d\r\n\r\n" % len(body)
    expect("an upload over HTTP/1.1", client.request(request + body).body, digest)

    client = Http2(connect(local_right))
    for number in range(10):
        answer = client.request(http2_headers(path=f"/{number}"))
        expect(f"HTTP/2 to Envoy, request {number} ({answer.body!r})", answer.status, 200)
    answer = client.request(http2_headers("POST", "/upload"), body=b"y" * 16000)
    expect("an upload over HTTP/2", answer.body, hashlib.sha256(b"y" * 16000).hexdigest().encode())
    check(b"x-envoy-protocol: HTTP/2" in app.heads[-1], f"the mesh hop was not HTTP/2: {app.heads[-1]!r}")

    seen = len(app.heads)
    answer = Http1(connect(local_wrong)).get("/", host="impostor.shop.svc")
    expect(f"an Envoy that is not {ORDERS}", answer.status, 502)
    check("x-postern-decision" in answer.headers, f"no decision id for the app: {answer.headers}")
    check("x-postern-refusal" not in answer.headers, f"the code is for sidecars only: {answer.headers}")
    expect("requests that reached the app", len(app.heads), seen)


if __name__ == "__main__":
    main(run)
