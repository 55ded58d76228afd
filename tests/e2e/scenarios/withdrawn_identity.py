"""An identity withdrawn for good: its live connections of every protocol are cut, those of another workload live."""

import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket
from websockets.sync.server import serve

from harness.apps import EchoApp, Http1App, Http2App
from harness.clients import Http1, Http2, connect, connect_tls, http2_headers, mesh_tls, seconds_until_cut
from harness.mesh import BATCH, WEB, inbound_port, outbound_service
from harness.processes import check, expect, free_port, wait_until
from harness.scenario import main

GRACE = {"identity": {"permission_denied_grace": "1s"}}


class Bench:
    """One server sidecar with four ports; sidecars of `web` and `batch` as callers."""

    def __init__(self, mesh):
        self.identity = mesh.identity()
        self.apps = {"http": Http1App(), "h2": Http2App(), "tcp": EchoApp()}
        self.websocket = serve(lambda peer: [peer.send(message) for message in peer], "127.0.0.1", 0)
        threading.Thread(target=self.websocket.serve_forever, daemon=True).start()
        app_ports = {name: app.port for name, app in self.apps.items()}
        app_ports["ws"] = self.websocket.socket.getsockname()[1]
        self.mesh_ports = {name: free_port() for name in app_ports}
        both = [{"spiffe": WEB}, {"spiffe": BATCH}]
        inbound = [
            inbound_port(app_ports[name], port, protocol_of(name), name=name, allow=both)
            for name, port in self.mesh_ports.items()
        ]
        self.server = mesh.sidecar("orders", self.identity.socket("orders"), inbound=inbound, **GRACE).start()
        self.locals = {"web": {}, "batch": {}}
        self.sidecars = {}
        for caller, ports in self.locals.items():
            services = []
            for name, mesh_port in self.mesh_ports.items():
                ports[name] = free_port()
                hosts = [f"{name}.shop.svc"]
                services.append(
                    outbound_service(ports[name], mesh_port, protocol_of(name), name=name, hosts=hosts)
                )
            socket = self.identity.socket(caller)
            self.sidecars[caller] = mesh.sidecar(caller, socket, outbound={"services": services}, **GRACE).start()


def protocol_of(name):
    return "tcp" if name == "tcp" else "http"


class Connections:
    """Four live connections of one caller."""

    def __init__(self, bench, caller):
        ports = bench.locals[caller]
        self.caller = caller
        self.tunnel = connect(ports["tcp"])
        self.tunnel.sendall(b"hello")
        expect("the tunnel", self.tunnel.recv(16), b"hello")
        self.download = Http1(connect(ports["http"]))
        self.download.send(b"GET /hang/1 HTTP/1.1\r\nhost: http.shop.svc\r\n\r\n")
        expect("the status line", self.download.connection.recv(15), b"HTTP/1.1 200 OK")
        self.stream = Http2(connect(ports["h2"]))
        number = self.stream.start(http2_headers(path="/hang", authority="h2.shop.svc"))
        expect("the HTTP/2 stream", self.stream.answer(number, until_end=False).status, 200)
        self.number = number
        self.chat = connect_websocket(f"ws://127.0.0.1:{ports['ws']}/").__enter__()
        self.chat.send("hello")
        expect("the WebSocket", self.chat.recv(timeout=5), "hello")

    def all_cut(self):
        seconds_until_cut(self.tunnel)
        seconds_until_cut(self.download.connection)
        # Either the stream is reset or the whole connection ends.
        expect("the HTTP/2 stream after the cut", self.stream.answer(self.number).status, None)
        try:
            self.chat.recv(timeout=10)
            check(False, "the WebSocket still speaks")
        except ConnectionClosed:
            pass

    def all_alive(self):
        self.tunnel.sendall(b"alive")
        expect(f"the tunnel of {self.caller}", self.tunnel.recv(16), b"alive")
        check(self.download.connection.recv(65536), f"the download of {self.caller} ended")
        self.chat.send("alive")
        expect(f"the WebSocket of {self.caller}", self.chat.recv(timeout=5), "alive")


def run(mesh):
    bench = Bench(mesh)
    web, batch = Connections(bench, "web"), Connections(bench, "batch")
    bench.identity.ctl("withdraw", "web")
    started = time.monotonic()
    web.all_cut()
    check(time.monotonic() - started < 8, f"the cut took {time.monotonic() - started:.1f} s with a grace of 1 s")
    batch.all_alive()
    refused_by_name(bench)
    wait_until(lambda: bench.sidecars["web"].readiness()[0] == 503, "the sidecar to say that it is not ready")
    wait_until(lambda: bench.apps["http"].hanging == 1, "the app to see the end of the download it was sending")

    bench.identity.ctl("restore", "web")
    bench.sidecars["web"].wait_ready()
    again = Connections(bench, "web")
    keep_alive = idle_peers(bench)
    bench.identity.ctl("withdraw", "orders")
    again.all_cut()
    for connection in keep_alive:
        seconds_until_cut(connection)


def refused_by_name(bench):
    answer = Http1(connect(bench.locals["web"]["http"])).get("/", host="http.shop.svc")
    expect("a new request without identity", answer.status, 503)
    check("x-postern-decision" in answer.headers, f"no decision id: {answer.headers}")


def idle_peers(bench):
    """Direct mTLS peers of the server sidecar with idle keep-alive connections, HTTP/1.1 and HTTP/2."""
    pems = bench.identity.fetch("web")
    first = Http1(connect_tls(bench.mesh_ports["http"], mesh_tls(pems, ["http/1.1"])))
    expect("a direct peer over HTTP/1.1", first.get("/").status, 200)
    second = Http2(connect_tls(bench.mesh_ports["h2"], mesh_tls(pems, ["h2"])))
    expect("a direct peer over HTTP/2", second.request(http2_headers()).status, 200)
    return [first.connection, second.connection]


if __name__ == "__main__":
    main(run)
