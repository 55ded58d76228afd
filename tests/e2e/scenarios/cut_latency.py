"""An authority removed under 1,000 live connections: all are cut, 99 % within 100 ms; those of the new one live."""

import selectors
import ssl
import time

from harness.apps import EchoApp, Http1App, Http2App
from harness.clients import Http1, Http2, connect, connect_tls, http2_headers, mesh_tls
from harness.mesh import ORDERS, inbound_port, is_debug_build, outbound_service
from harness.processes import check, expect, free_port
from harness.scenario import main

TUNNELS, KEEP_ALIVE, STREAMS = 400, 400, 200
SECONDS_MAX = 0.100


class Bench:
    def __init__(self, mesh):
        self.identity = mesh.identity()
        self.apps = {"tcp": EchoApp(), "http": Http1App(), "h2": Http2App()}
        self.ports = {name: free_port() for name in self.apps}
        inbound = [
            inbound_port(app.port, self.ports[name], "tcp" if name == "tcp" else "http", name=name)
            for name, app in self.apps.items()
        ]
        orders = mesh.workload(self.identity, "orders", inbound=inbound).start()
        self.local = free_port()
        services = [outbound_service(self.local, self.ports["tcp"], "tcp", identity=ORDERS)]
        web = mesh.workload(self.identity, "web", outbound={"services": services}).start()
        self.sidecars = [orders, web]

    def open(self, tunnels, keep_alive, streams):
        """Live connections of each kind, each after one exchange: L4 through the pair, HTTP from direct peers."""
        pems = self.identity.fetch("web")
        connections = []
        for _ in range(tunnels):
            connection = connect(self.local)
            connection.sendall(b"hello")
            expect("a tunnel", connection.recv(16), b"hello")
            connections.append(("tunnel", connection))
        context = mesh_tls(pems, ["http/1.1"])
        for _ in range(keep_alive):
            client = Http1(connect_tls(self.ports["http"], context))
            expect("a keep-alive connection", client.get().status, 200)
            connections.append(("keep-alive", client.connection))
        context = mesh_tls(pems, ["h2"])
        for _ in range(streams):
            client = Http2(connect_tls(self.ports["h2"], context))
            number = client.start(http2_headers(path="/hang"))
            expect("an HTTP/2 stream", client.answer(number, until_end=False).status, 200)
            connections.append(("stream", client.connection))
        return connections


def run(mesh):
    bench = Bench(mesh)
    old = bench.open(TUNNELS, KEEP_ALIVE, STREAMS)
    bench.identity.ctl("publish-ca")
    bench.identity.ctl("reissue")
    time.sleep(1)
    new = bench.open(10, 10, 10)
    # Before the command: to watch 1,000 sockets takes Python longer than to cut them takes the sidecar.
    watched = watch(old)
    before = time.monotonic()
    bench.identity.ctl("remove-old-ca")
    after = time.monotonic()
    cut = times_of_ends(watched, 10)
    expect("connections that were cut", len(cut), len(old))
    # The removal took place between `before` and `after`; a connection may be cut before the command has returned.
    late = sorted(max(0.0, moment - after) for moment in cut)
    p99 = late[int(len(late) * 0.99) - 1]
    p50 = late[len(late) // 2]
    print(f"command {after - before:.3f} s; seen to end after: p50 {p50:.3f} s, p99 {p99:.3f} s, last {late[-1]:.3f} s")
    # This client reads a thousand ends on the cores that the sidecars use: the promise is held to their own histogram,
    # from the publication of the new bundle to the last byte.
    counted = 0
    for sidecar in bench.sidecars:
        within, total = teardowns(sidecar.metrics())
        counted += total
        print(f"{sidecar.name}: {within} of {total} connections ended within {SECONDS_MAX} s of the event")
        check(is_debug_build() or within >= 0.99 * total, f"only {within} of {total} within {SECONDS_MAX} s")
    # Both sides of a tunnel end it, and the second may find it ended: one of the two has counted it.
    check(counted >= len(old), f"only {counted} teardowns were counted")
    check(p99 <= 10 * SECONDS_MAX, f"p99 as the client saw it is {p99:.3f} s")
    expect("connections of the new authority that were cut", len(times_of_ends(watch(new), 0.5)), 0)


def teardowns(metrics):
    """Of all causes: how many took at most SECONDS_MAX, and how many there were."""
    within = total = 0
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("postern_teardown_seconds_bucket") and f'le="{SECONDS_MAX}"' in name:
            within += int(value)
        elif name.startswith("postern_teardown_seconds_count"):
            total += int(value)
    return within, total


def watch(connections):
    selector = selectors.DefaultSelector()
    for kind, connection in connections:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, kind)
    return selector


def times_of_ends(selector, seconds):
    """When each watched connection ended, of those that end within `seconds`."""
    ends = []
    deadline = time.monotonic() + seconds
    while selector.get_map() and time.monotonic() < deadline:
        for key, _ in selector.select(0.1):
            if ended(key.fileobj):
                ends.append(time.monotonic())
                selector.unregister(key.fileobj)
    return ends


def ended(connection):
    try:
        while connection.recv(65536):
            pass
        return True
    except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


if __name__ == "__main__":
    main(run)
