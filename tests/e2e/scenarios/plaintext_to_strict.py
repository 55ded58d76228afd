"""Plaintext to a strict port: closed, the log names plaintext_refused, nothing reaches the app."""

from harness.apps import Http1App
from harness.clients import connect
from harness.mesh import inbound_port
from harness.processes import check, expect, free_port, tool, wait_until
from harness.scenario import main

FIRST_BYTES = {
    "http": b"GET / HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n",
    "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": b"\0" * 64,
}


def run(mesh):
    identity = mesh.identity()
    app = Http1App()
    for protocol in ("http", "tcp", "detect"):
        port = free_port()
        ports = [inbound_port(app.port, port, protocol)]
        server = mesh.sidecar(f"orders-{protocol}", identity.socket("orders"), inbound=ports).start()
        for name, content in FIRST_BYTES.items():
            connection = connect(port)
            try:
                connection.sendall(content)
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
            except ConnectionError:
                answer = b""
            check(b" 200 " not in answer, f"{name} on a strict {protocol} port was answered {answer!r}")
        code, out, _ = mesh.workspace.run([tool("curl"), "-sS", "--max-time", "5", f"http://127.0.0.1:{port}/"])
        check(code != 0 or "hello" not in out, f"curl got {out!r}")
        wait_until(lambda: named(server) >= len(FIRST_BYTES), f"records of {protocol} that say plaintext_refused")
    expect("connections that reached the app", app.connections, 0)


def named(server):
    return sum("plaintext_refused" in str(record) for record in server.records())


if __name__ == "__main__":
    main(run)
