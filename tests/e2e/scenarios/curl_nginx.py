"""curl → client sidecar → mTLS → server sidecar → nginx, and an app that counts the identity headers."""

import hashlib
import os

from harness.apps import Http1App, fields_of
from harness.mesh import ORDERS, WEB
from harness.processes import check, expect, tool
from harness.scenario import main

MEBIBYTE = 1 << 20


def run(mesh):
    curl = [tool("curl"), "-sS", "--max-time", "20", "-H", "host: orders.shop.svc"]
    tool("nginx")
    identity = mesh.identity()
    nginx = mesh.nginx("dav_methods PUT; location /hello { return 200 'hello $http_x_spiffe_id\\n'; }")
    upload = mesh.directory / "upload"
    upload.write_bytes(os.urandom(MEBIBYTE))
    with_nginx(mesh, mesh.pair(identity, nginx), curl, upload)
    with_recorder(mesh, identity, curl, upload)


def with_nginx(mesh, pair, curl, upload):
    code, out, err = mesh.workspace.run([*curl, pair.url("/hello")])
    expect(f"GET ({err})", (code, out), (0, f"hello {WEB}\n"))
    code, out, err = mesh.workspace.run([*curl, "-I", pair.url("/hello")])
    check(code == 0 and out.startswith("HTTP/1.1 200"), f"HEAD: {code} {out} {err}")
    check("x-postern-refusal" not in out.lower(), f"HEAD: an internal header leaked: {out}")
    code, out, err = mesh.workspace.run([*curl, "-0", "-i", pair.url("/hello")])
    check(code == 0 and " 200 " in out.splitlines()[0] and "hello" in out, f"HTTP/1.0: {code} {out} {err}")

    content = upload.read_bytes()
    for name, options in {
        "sized": ["-T", upload],
        "chunked": ["-T", upload, "-H", "transfer-encoding: chunked"],
        "expect": ["-T", upload, "-H", "expect: 100-continue", "--expect100-timeout", "10"],
    }.items():
        code, out, err = mesh.workspace.run([*curl, "-v", *options, pair.url(f"/{name}")])
        check(code == 0 and "HTTP/1.1 201" in err, f"PUT {name}: {code} {out} {err}")
        if name == "expect":
            check("HTTP/1.1 100" in err, f"no 100 Continue came: {err}")
        stored = (mesh.directory / "nginx" / "files" / name).read_bytes()
        expect(f"PUT {name}: what nginx stored", hashlib.sha256(stored).digest(), hashlib.sha256(content).digest())
        copy = mesh.directory / f"copy-{name}"
        code, _, err = mesh.workspace.run([*curl, "-o", copy, pair.url(f"/{name}")])
        check(code == 0 and copy.read_bytes() == content, f"GET {name}: other bytes came back ({err})")

    code, out, err = mesh.workspace.run([*curl, "-w", "%{num_connects}\n", pair.url("/hello"), pair.url("/hello")])
    connects = [line for line in out.splitlines() if line.isdigit()]
    expect(f"keep-alive: connects of two requests ({err})", connects, ["1", "0"])


def with_recorder(mesh, identity, curl, upload):
    """nginx shows the first of several equal headers only; this app shows them all."""
    app = Http1App()
    pair = mesh.pair(identity, app.port, suffix="-recorded")
    code, out, err = mesh.workspace.run(
        [*curl, "-H", "x-spiffe-id: spiffe://forged", "--data-binary", f"@{upload}", pair.url("/post")]
    )
    expect(f"POST of 1 MiB ({code} {err})", out, hashlib.sha256(upload.read_bytes()).hexdigest())
    fields = fields_of(app.heads[-1])
    expect("x-spiffe-id", fields.get(b"x-spiffe-id"), [WEB.encode()])
    client_certificate = fields.get(b"x-forwarded-client-cert", [])
    expect("number of x-forwarded-client-cert", len(client_certificate), 1)
    text = client_certificate[0].decode()
    check(f"URI={WEB}" in text and f"By={ORDERS}" in text and "Hash=" in text, f"x-forwarded-client-cert: {text}")
    check(b"," not in client_certificate[0], f"more than one element: {text}")


if __name__ == "__main__":
    main(run)
