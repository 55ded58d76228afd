"""HTTP/2 with prior knowledge through a pair: curl, h2load with many streams, and both versions towards the app."""

import re

from harness.apps import Http2App
from harness.clients import Http2, connect, http2_headers
from harness.mesh import WEB
from harness.processes import check, expect, tool
from harness.scenario import main


def run(mesh):
    curl, h2load = tool("curl"), tool("h2load")
    identity = mesh.identity()
    for app_http, name in (("same", "nginx-h2"), ("1", "nginx-h1")):
        block = "location / { return 200 '$server_protocol $http_x_spiffe_id'; }"
        port = mesh.nginx(block, name=name, http2=app_http == "same")
        pair = mesh.pair(identity, port, inbound={"app_http": app_http}, suffix=f"-{app_http}")
        host = ["-H", "host: orders.shop.svc"]
        code, out, err = mesh.workspace.run(
            [curl, "-sS", "--http2-prior-knowledge", "-w", " %{http_version} %{http_code}", *host, pair.url()]
        )
        version = "HTTP/2.0" if app_http == "same" else "HTTP/1.1"
        expect(f"app_http {app_http} ({code} {err})", out, f"{version} {WEB} 2 200")
        code, out, err = mesh.workspace.run(
            [h2load, "-n", "4000", "-c", "4", "-m", "50", "-H", ":authority: orders.shop.svc", pair.url()], seconds=90
        )
        found = re.search(r"requests: 4000 total, .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", out)
        check(found and found.groups() == ("4000", "0", "0", "0"), f"h2load, app_http {app_http}: {out}{err}")
        check("status codes: 4000 2xx" in out, f"h2load, app_http {app_http}: {out}")
    trailers(mesh, identity)


def trailers(mesh, identity):
    app = Http2App()
    pair = mesh.pair(identity, app.port, suffix="-trailers")
    client = Http2(connect(pair.port))
    answer = client.request(
        http2_headers("POST", "/", more=[("te", "trailers")]), body=b"abc", trailers=[("x-checksum", "7")]
    )
    expect("a request with trailers", answer.status, 200)
    expect("trailers at the app", app.trailers, [[(b"x-checksum", b"7")]])


if __name__ == "__main__":
    main(run)
