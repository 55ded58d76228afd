"""WebSocket through a pair: 1,000 messages, 1 MiB in one, pings, close codes from either side, a refused upgrade."""

import os
import threading

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from harness.mesh import BATCH, WEB
from harness.processes import check, expect, wait_until
from harness.scenario import main


class App:
    def __init__(self):
        self.closed = []
        self.callers = set()
        self.server = serve(self.handle, "127.0.0.1", 0, max_size=1 << 22)
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, connection):
        self.callers.add(connection.request.headers.get("x-spiffe-id"))
        try:
            for message in connection:
                if message == "leave":
                    connection.close(4002, "as asked")
                    return
                connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.closed.append((connection.close_code, connection.close_reason))


def run(mesh):
    app = App()
    inbound = {
        "routes": [
            {"name": "chat", "match": {"path": "/chat/**"}, "allow": [{"spiffe": WEB}]},
            {"name": "staff", "match": {"path": "/staff/**"}, "allow": [{"spiffe": BATCH}]},
        ]
    }
    pair = mesh.pair(mesh.identity(), app.port, inbound=inbound)
    url = f"ws://127.0.0.1:{pair.port}"
    with connect(f"{url}/chat/1", max_size=1 << 22) as client:
        for number in range(1000):
            client.send(f"message {number}")
            expect("an echo", client.recv(timeout=10), f"message {number}")
        big = os.urandom(1 << 20)
        client.send(big)
        check(client.recv(timeout=20) == big, "1 MiB came back changed")
        check(client.ping().wait(10), "no pong came")
        client.close(4001, "done here")
    wait_until(lambda: app.closed, "the app to see the close")
    expect("the client's close at the app", app.closed[-1], (4001, "done here"))
    with connect(f"{url}/chat/2") as client:
        client.send("leave")
        try:
            client.recv(timeout=10)
            check(False, "the app's close did not arrive")
        except ConnectionClosed:
            pass
        expect("the app's close at the client", (client.close_code, client.close_reason), (4002, "as asked"))
    try:
        connect(f"{url}/staff/1").close()
        check(False, "an upgrade that no rule allows was accepted")
    except InvalidStatus as refused:
        expect("a refused upgrade", refused.response.status_code, 403)
    expect("callers that the app saw", app.callers, {WEB})


if __name__ == "__main__":
    main(run)
