"""With `mode: tproxy` the application sees who called, at L7 and L4, pooled connections included, and without it Postern."""

import sys

from harness.mesh import ORDERS, WEB
from harness.pods import APP_UID, POSTERN_UID, PodMesh
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main

HTTP, RAW = 8080, 9000
# Says who called. On loopback alone, where nobody but the sidecar reaches it.
APP = """
import http.server, socket, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.client_address[0].encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
class V6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
for server in (http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler), V6(("::1", 8081), Handler)):
    threading.Thread(target=server.serve_forever, daemon=True).start()
raw = socket.create_server(("127.0.0.1", 9000))
print("up", flush=True)
while True:
    connection, address = raw.accept()
    connection.sendall(address[0].encode()); connection.close()
"""


def run(mesh):
    mesh.network()
    identity = mesh.identity()
    app = mesh.orders.spawn("app", sys.executable, "-c", APP)
    wait_until(lambda: "up" in app.text(), "the application")
    allow = [{"spiffe": WEB}]
    inbound = [
        {"port": HTTP, "protocol": "http", "allow": allow},
        {"port": 8081, "app": "[::1]:8081", "protocol": "http", "allow": allow},
        {"port": RAW, "protocol": "tcp", "allow": allow},
    ]
    orders = {"name": "orders", "identity": ORDERS, "addresses": [mesh.orders.v4, mesh.orders.v6]}
    # Its connections carry foreign addresses, and its listener takes what is not addressed to it.
    prefix = mesh.orders.command(
        tool("setpriv"), "--reuid", str(POSTERN_UID), "--regid", str(POSTERN_UID), "--clear-groups",
        "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin",
    )
    server = mesh.captured(mesh.orders, identity, "orders", inbound, prefix=prefix, capture={"mode": "tproxy"})
    mesh.captured(mesh.web, identity, "web", services=[orders])

    expect("the caller of a request", http(mesh, f"http://{mesh.orders.v4}:{HTTP}/"), [mesh.web.v4] * 3)
    expect("the caller over IPv6", http(mesh, f"http://[{mesh.orders.v6}]:8081/"), [mesh.web.v6] * 3)
    expect("the caller of a stream", raw(mesh, mesh.orders.v4, RAW), mesh.web.v4)
    records = server.records_of(direction="inbound", kind="request")
    check(all(record["peer.spiffe_id"] == WEB for record in records) and len(records) == 6, f"records: {records}")

    server.config["capture"]["mode"] = "redirect"
    server.reload()
    server.redirect()
    wait_until(lambda: http(mesh, f"http://{mesh.orders.v4}:{HTTP}/") == ["127.0.0.1"] * 3, "Postern as the caller", 10, 0.5)


def http(mesh, url):
    """Three requests on one connection."""
    code, out, _ = mesh.web.run(tool("curl"), "-sS", "-m", "5", "-w", "\n", url, url, url, uid=APP_UID)
    return out.split() if code == 0 else []


def raw(mesh, address, port):
    command = f"exec 3<>/dev/tcp/{address}/{port}; cat <&3"
    return mesh.web.run("bash", "-c", command, uid=APP_UID)[1]


if __name__ == "__main__":
    main(run, PodMesh)
