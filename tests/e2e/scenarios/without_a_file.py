"""`postern server` and `postern client`: a useful pair without a file, on the agent at $SPIFFE_ENDPOINT_SOCKET."""

from harness.apps import EchoApp, Http1App, fields_of
from harness.clients import Http1, connect
from harness.mesh import BATCH, ORDERS, WEB, http_get
from harness.processes import check, expect, free_port, wait_until
from harness.scenario import main


def run(mesh):
    identity = mesh.identity()
    app, echo = Http1App(), EchoApp()
    http, tcp, closed = (pair(mesh, identity, *options) for options in (
        ("http", app.port, WEB, ORDERS),
        ("tcp", echo.port, "spiffe://shop.example/ns/web/**", ORDERS),
        ("http", app.port, BATCH, ORDERS),
    ))
    expect("a request", Http1(connect(http)).get("/").status, 200)
    expect("x-spiffe-id", fields_of(app.heads[-1])[b"x-spiffe-id"], [WEB.encode()])
    tunnel = connect(tcp)
    tunnel.sendall(b"hello")
    expect("a tunnel", tunnel.recv(16), b"hello")
    answer = Http1(connect(closed)).get("/")
    expect("a caller that is not allowed", answer.status, 403)
    wrong = pair(mesh, identity, "http", app.port, WEB, BATCH)
    expect("a server that is not the expected peer", Http1(connect(wrong)).get("/").status, 502)


def pair(mesh, identity, protocol, app_port, allowed, expected):
    mesh_port, local = free_port(), free_port()
    common = ["--protocol", protocol, "--workers", "1"]
    start(mesh, identity, "orders", "server", "--listen", f"127.0.0.1:{mesh_port}", "--app", f"127.0.0.1:{app_port}",
          "--allow", allowed, *common)
    start(mesh, identity, "web", "client", "--listen", f"127.0.0.1:{local}", "--to", f"127.0.0.1:{mesh_port}",
          "--peer", expected, *common)
    return local


def start(mesh, identity, workload, command, *arguments):
    readiness = free_port()
    admin = mesh.directory / f"admin-{readiness}.sock"
    environment = {"SPIFFE_ENDPOINT_SOCKET": identity.socket(workload)}
    arguments = [command, *arguments, "--readiness", f"127.0.0.1:{readiness}", "--admin", admin]
    process = mesh.workspace.spawn(f"{command}-{readiness}", [mesh.postern, *arguments], environment)
    path = "/healthz/ready"
    wait_until(lambda: http_get(readiness, path)[0] == 200, f"postern {command} to be ready")
    check(process.running() and admin.exists(), f"postern {command} has no admin socket")


if __name__ == "__main__":
    main(run)
