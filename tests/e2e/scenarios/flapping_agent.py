"""An agent that says PermissionDenied for 10 s, three times, cuts no live connection."""

import threading
import time

from websockets.sync.client import connect as connect_websocket
from websockets.sync.server import serve

from harness.apps import EchoApp, Http1App
from harness.clients import Http1, connect
from harness.processes import expect, wait_until
from harness.scenario import main


def run(mesh):
    identity = mesh.identity()
    echo, app = EchoApp(), Http1App()
    websocket = serve(lambda connection: [connection.send(message) for message in connection], "127.0.0.1", 0)
    threading.Thread(target=websocket.serve_forever, daemon=True).start()
    tunnels = mesh.pair(identity, echo.port, "tcp", suffix="-tcp")
    chats = mesh.pair(identity, websocket.socket.getsockname()[1], suffix="-ws")
    requests = mesh.pair(identity, app.port, suffix="-http")
    sidecars = [sidecar for pair in (tunnels, chats, requests) for sidecar in (pair.client, pair.server)]

    tunnel = connect(tunnels.port, 30)
    chat = connect_websocket(f"ws://127.0.0.1:{chats.port}/").__enter__()
    download = Http1(connect(requests.port, 30))
    download.send(b"GET /hang/1 HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n")
    expect("the status line of a long answer", download.connection.recv(15), b"HTTP/1.1 200 OK")

    for turn in range(3):
        for name in ("web", "orders"):
            identity.ctl("withdraw", name)
        ends = time.monotonic() + 10
        while time.monotonic() < ends:
            alive(tunnel, chat, download)
            time.sleep(0.5)
        for name in ("web", "orders"):
            identity.ctl("restore", name)
        # Each of them, and soon: who misses this would see one long denial, and that ends live connections.
        wait_until(lambda: all(sidecar.readiness()[0] == 200 for sidecar in sidecars), "readiness", 10)
        alive(tunnel, chat, download)
        wait_until(
            lambda: Http1(connect(requests.port)).get("/again").status == 200, f"new requests after flap {turn + 1}", 15
        )
    alive(tunnel, chat, download)


def alive(tunnel, chat, download):
    tunnel.sendall(b"ping")
    expect("the tunnel", tunnel.recv(16), b"ping")
    chat.send("ping")
    expect("the WebSocket", chat.recv(timeout=5), "ping")
    expect("the download goes on", bool(download.connection.recv(65536)), True)


if __name__ == "__main__":
    main(run)
