"""Reload: an invalid file changes nothing, a valid one applies, other listeners are untouched. SIGTERM drains."""

import signal
import threading
import time

from harness.apps import EchoApp, Http1App
from harness.clients import Http1, connect, seconds_until_cut
from harness.mesh import BATCH, WEB, inbound_port, outbound_service
from harness.processes import accepts, check, expect, free_port, wait_until
from harness.scenario import main


class Bench:
    def __init__(self, mesh):
        self.identity = identity = mesh.identity()
        self.app, self.echo = Http1App(), EchoApp()
        self.http, self.tcp, self.local_http, self.local_tcp = (free_port() for _ in range(4))
        ports = [
            inbound_port(self.app.port, self.http, name="http"),
            inbound_port(self.echo.port, self.tcp, "tcp", name="tcp"),
        ]
        services = [
            outbound_service(self.local_http, self.http, name="http"),
            outbound_service(self.local_tcp, self.tcp, "tcp", name="tcp", hosts=["tcp.shop.svc"]),
        ]
        drain = {"drain_timeout": "10s"}
        self.server = mesh.workload(identity, "orders", inbound=ports, **drain).start()
        self.client = mesh.workload(identity, "web", outbound={"services": services}, **drain).start()

    def get(self, path="/"):
        return Http1(connect(self.local_http)).get(path).status


def run(mesh):
    bench = Bench(mesh)
    expect("before", bench.get(), 200)
    tunnel = connect(bench.local_tcp)
    keep_alive = Http1(connect(bench.local_http))
    alive(tunnel, keep_alive)
    invalid(bench, tunnel, keep_alive)
    valid(bench, tunnel, keep_alive)
    # A sidecar stays for the application as long as that keeps a connection, used or not: this one would hold it.
    keep_alive.connection.close()
    drains(bench)
    second_signal(mesh, bench.identity)


def alive(tunnel, keep_alive):
    tunnel.sendall(b"ping")
    expect("the tunnel", tunnel.recv(16), b"ping")
    expect("the keep-alive connection", keep_alive.get("/alive").status, 200)


def invalid(bench, tunnel, keep_alive):
    for content in ("inbound: [", "inbound:\n  - prot: 8080\n    allow: []\n", ""):
        for sidecar in (bench.server, bench.client):
            logged = len(sidecar.log_text())
            temporary = sidecar.config_path.with_suffix(".tmp")
            temporary.write_text(content)
            temporary.rename(sidecar.config_path)
            sidecar.process.signal(signal.SIGHUP)
            if content:
                wait_until(lambda: "postern.yaml" in sidecar.log_text()[logged:], "a line that names the bad file", 5)
            else:
                time.sleep(1)
            sidecar.alive()
        alive(tunnel, keep_alive)
        expect("a new connection after a bad file", bench.get(), 200)


def valid(bench, tunnel, keep_alive):
    ports = bench.server.config["inbound"]
    more = free_port()
    ports.append(inbound_port(bench.app.port + 1, more, name="more", app=f"127.0.0.1:{bench.app.port}"))
    bench.server.reload()
    wait_until(lambda: accepts(more), "the new listener", 10)
    bench.client.config["outbound"]["services"].append(
        outbound_service(free_port(), more, name="more", hosts=["more.shop.svc"])
    )
    bench.client.reload()
    service = bench.client.config["outbound"]["services"][-1]
    local = int(service["listen"].rsplit(":", 1)[1])
    wait_until(lambda: accepts(local), "the new service's listener", 10)
    expect("a request to the new service", Http1(connect(local)).get("/more", "more.shop.svc").status, 200)
    alive(tunnel, keep_alive)

    ports[0]["allow"] = [{"spiffe": BATCH}]
    bench.server.reload()
    wait_until(lambda: bench.get() == 403, "the new rule to refuse", 10)
    tunnel.sendall(b"ping")
    expect("the tunnel of the other port", tunnel.recv(16), b"ping")
    ports[0]["allow"] = [{"spiffe": WEB}]
    bench.server.reload(by_signal=False)
    wait_until(lambda: bench.get() == 200, "the rule to allow again, by the watch of the file alone", 10)

    ports[1]["allow"] = [{"spiffe": BATCH}]
    del ports[2]
    bench.server.reload()
    check(seconds_until_cut(tunnel) < 5, "the tunnel that the new rule refuses was not cut in time")
    wait_until(lambda: refuses(more), "the removed listener to be closed", 10)
    expect("the port that did not change", bench.get(), 200)


def refuses(port):
    try:
        return not accepts(port)
    except ConnectionRefusedError:
        return True


def drains(bench):
    for sidecar in (bench.server, bench.client):
        answers = []
        request = threading.Thread(target=lambda: answers.append(bench.get("/slow/2500")))
        seen = len(bench.app.heads)
        request.start()
        wait_until(lambda: len(bench.app.heads) > seen, "the slow request to reach the app")
        started = time.monotonic()
        code = sidecar.process.terminate(20)
        request.join(10)
        expect(f"the request in flight while {sidecar.name} drained", answers, [200])
        expect(f"exit code of {sidecar.name}", code, 0)
        check(time.monotonic() - started < 9, f"{sidecar.name} waited for its deadline with nothing to wait for")
        if sidecar is bench.server:
            sidecar.start()


def second_signal(mesh, identity):
    app = Http1App()
    port = free_port()
    ports = [inbound_port(app.port, port, tls="off", allow=[{"anonymous": True}])]
    sidecar = mesh.sidecar("second", identity.socket("orders"), inbound=ports).start()
    hanging = Http1(connect(port))
    hanging.send(b"GET /hang HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n")
    wait_until(lambda: app.hanging, "the request to hang")
    sidecar.process.signal(signal.SIGTERM)
    time.sleep(1)
    sidecar.alive()
    sidecar.process.terminate(3)


if __name__ == "__main__":
    main(run)
