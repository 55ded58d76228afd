"""A service pod with Debian's servers, and a pod that calls them; both have a sidecar, and neither knows."""

import os
import threading
from types import SimpleNamespace

from websockets.sync.server import serve

from harness import servers
from harness.apps import EchoApp
from harness.mesh import ORDERS, WEB
from harness.processes import tool, wait_until

HOST = "orders.pod.test"
# Where each is at home.
PORTS = {"http": 80, "http2": 81, "smtp": 25, "mariadb": 3306, "postgresql": 5432, "redis": 6379, "grpc": 50051}
GRPC_ECHO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "grpc_echo.py")


class OrdersPod:
    """The servers. `ports` has all of them by name."""

    def __init__(self, mesh):
        pod = self.pod = mesh.orders
        self.file = os.urandom(200_000).hex().encode()
        servers.nginx(pod, PORTS["http"], PORTS["http2"], self.file)
        servers.postgresql(pod, PORTS["postgresql"])
        servers.mariadb(pod, PORTS["mariadb"])
        servers.redis(pod, PORTS["redis"])
        _, self.queued_mail = servers.opensmtpd(pod, PORTS["smtp"])
        grpc = pod.spawn("grpc", os.sys.executable, GRPC_ECHO, "serve", str(PORTS["grpc"]))
        wait_until(lambda: "ready" in grpc.text(), "the gRPC server")
        with pod.entered():
            self.raw = EchoApp()
            self.websocket = serve(self.chat, "127.0.0.1", 0, max_size=1 << 22)
        threading.Thread(target=self.websocket.serve_forever, daemon=True).start()
        more = {"raw": self.raw.port, "websocket": self.websocket.socket.getsockname()[1]}
        self.ports = {**PORTS, **more}

    def chat(self, connection):
        for message in connection:
            connection.send(message)

    def close(self):
        self.raw.close()
        self.websocket.shutdown()


def require_tools():
    for program in ("nginx", "curl", "psql", "redis-server", "redis-cli", "mariadbd", "mariadb-install-db", "mariadb", "smtpd"):
        tool(program)


def inbound(ports, allow=(WEB,)):
    """Each port with nothing but who may call: the rest is default."""
    return [{"name": name, "port": port, "allow": [{"spiffe": list(allow)}]} for name, port in ports.items()]


def services(pod, ports):
    """Each service with nothing but where it is and who answers: the rest is default."""
    return [
        {
            "name": name,
            **({"hosts": [HOST]} if name == "http" else {}),
            "addresses": [f"{pod.v4}:{port}", f"[{pod.v6}]:{port}"],
            "identity": ORDERS,
        }
        for name, port in ports.items()
    ]


def start(mesh):
    """Servers, identities and both sidecars, in the default configuration."""
    require_tools()
    mesh.network()
    orders = OrdersPod(mesh)
    identity = mesh.identity()
    server = mesh.captured(mesh.orders, identity, "orders", inbound=inbound(orders.ports))
    client = mesh.captured(mesh.web, identity, "web", services=services(mesh.orders, orders.ports))
    return SimpleNamespace(orders=orders, identity=identity, server=server, client=client)
