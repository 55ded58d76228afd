"""Rows of the catalogue about destinations (NW, DS-11, DS-12) on captured connections: what an application may reach, by
whatever name and spelling. Of what is refused nothing arrives, there is one record with the reason, and the next is served.
"""

import contextlib
import os
import secrets
import socket
import ssl
import time

from harness.apps import EchoApp, Http1App, Server
from harness.mesh import ORDERS
from harness.pods import (
    APP_UID, CAPTURE_INBOUND, CAPTURE_OUTBOUND, METRICS, POSTERN_UID, READINESS, PodMesh,
)
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main

# Of the node, where no sidecar is.
ELSEWHERE = "10.77.1.1"
# A port at which a service has every address.
EVERYWHERE = 7780
STRANGE = 7777
# Where a stall would be `timeouts.detect`.
SECONDS_MAX = 0.5
MARKER = f"marker-{secrets.token_hex(8)}".encode()


class Sink(Server):
    """On every address of the node: keeps everything, and answers HTTP."""

    def __init__(self, port):
        self.bytes = bytearray()
        self.wanted = port
        super().__init__()

    def listen(self):
        return socket.create_server(("::", self.wanted), family=socket.AF_INET6, dualstack_ipv6=True)

    def handle(self, connection):
        data = connection.recv(65536)
        self.bytes += data
        if data.startswith(b"GET "):
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        else:
            connection.sendall(b"what is that?\r\n")


class Banner(Server):
    def handle(self, connection):
        connection.sendall(b"220 ready\r\n")
        while connection.recv(65536):
            pass


def run(mesh):
    mesh.network()
    scene = Scene(mesh)
    for row in (
        scene.nw_01_own_ports_in_every_spelling,
        scene.nw_03_metadata_services,
        scene.nw_04_addresses_with_a_zone,
        scene.nw_05_no_original_destination,
        scene.nw_06_a_name_and_another_destination,
        scene.nw_08_operators_listeners,
        scene.ds_11_a_server_that_speaks_first,
        scene.ds_12_half_closed,
        scene.nw_12_a_family_without_rules,
        scene.nw_12_what_another_uid_means,
        scene.nw_01_a_sidecar_whose_user_is_not_exempt,
    ):
        row()
        if row != scene.nw_01_a_sidecar_whose_user_is_not_exempt:
            scene.healthy(row.__name__)
        print(f"{row.__name__}: held")


class Scene:
    def __init__(self, mesh):
        self.mesh, self.web, self.orders = mesh, mesh.web, mesh.orders
        identity = mesh.identity()
        with mesh.orders.entered():
            self.app, self.raw, self.banner = Http1App(), EchoApp(), Banner()
        ports = {"orders": self.app.port, "raw": self.raw.port, "banner": self.banner.port}
        allow = [{"spiffe": "spiffe://shop.example/ns/web/**"}]
        inbound = [{"name": name, "port": port, "allow": allow} for name, port in ports.items()]
        self.server = mesh.captured(mesh.orders, identity, "orders", inbound)
        with mesh.node.entered():
            self.strange, self.everywhere = Sink(STRANGE), Sink(EVERYWHERE)
        services = [
            {
                "name": name,
                "hosts": [f"{name}.pod.test"],
                "addresses": [f"{self.orders.v4}:{port}", f"[{self.orders.v6}]:{port}"],
                "identity": ORDERS,
            }
            for name, port in ports.items()
        ]
        services += [
            {"name": "other", "hosts": ["other.pod.test"], "identity": "spiffe://shop.example/ns/shop/sa/other"},
            # Of these nobody proves who he is.
            {"name": "plain", "hosts": ["plain.pod.test"], "tls": "off", "connect_timeout": "500ms"},
            {
                "name": "passed", "hosts": ["passed.pod.test"], "tls": "off", "protocol": "tls",
                "connect_timeout": "500ms",
            },
            {
                "name": "everywhere", "tls": "off",
                "addresses": [f"0.0.0.0/0:{port}" for port in (EVERYWHERE, METRICS, READINESS, CAPTURE_INBOUND)]
                + [f"[::/0]:{port}" for port in (EVERYWHERE, METRICS)],
            },
        ]
        self.client = mesh.captured(mesh.web, identity, "web", services=services)

    # What an application does.

    @contextlib.contextmanager
    def connected(self, address, port, seconds=5):
        """Of the application's user; nothing where nobody takes it."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.web.entered():
            connection = socket.socket(family)
        with connection:
            connection.settimeout(seconds)
            target = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4]
            with contextlib.suppress(OSError):
                connection.connect(target)
                yield connection
                return
        yield None

    def told(self, address, port, sent):
        """All that comes back."""
        content = b""
        with self.connected(address, port) as connection:
            if connection is None:
                return None
            with contextlib.suppress(OSError):
                connection.sendall(sent)
                while data := connection.recv(65536):
                    content += data
        return content

    def get(self, address, port, host="", path="/", header=b""):
        host = host or (f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        close = b"connection: close\r\n"
        request = b"GET %s HTTP/1.1\r\nhost: %s\r\nx-marker: %s\r\n%s%s\r\n" % (
            path.encode(), host.encode(), MARKER, close, header)
        return self.told(address, port, request)

    # What is asked of each row.

    def refusals(self):
        return [record for record in self.client.records() if record.get("refusal")]

    @contextlib.contextmanager
    def one_refusal(self, what, *reasons):
        before = len(self.refusals())
        yield
        wait_until(lambda: len(self.refusals()) > before, f"a record of {what}", 5, 0.02)
        new = self.refusals()[before:]
        told = [(record["refusal"], record.get("refusal.detail")) for record in new]
        check(len(new) == 1 and new[0]["refusal"] in reasons, f"{what}: {reasons} expected once, got {told}")

    def healthy(self, after):
        got = self.get(self.orders.v4, self.app.port, "orders.pod.test")
        check(got and got.startswith(b"HTTP/1.1 200 "), f"after {after} a good request got {got!r}")
        check(MARKER not in self.strange.bytes, f"{after}: the marker reached a stranger")

    def descriptors(self):
        # `spawn` ran nsenter and setpriv, which became Postern.
        return len(os.listdir(f"/proc/{self.client.process.pid}/fd"))

    # The rows.

    def nw_01_own_ports_in_every_spelling(self):
        before = self.descriptors()
        spellings = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", self.web.v4, self.web.v6,
                     f"::ffff:{self.web.v4}"]
        for port in (CAPTURE_OUTBOUND, CAPTURE_INBOUND):
            for address in spellings:
                # Not every address has a listener: then it is nobody who refuses.
                known = len(self.refusals())
                got = self.get(address, port)
                check(not got, f"{address} at {port} answered {got!r}")
                if got is not None:
                    wait_until(lambda: len(self.refusals()) > known, f"a record of {address}:{port}", 5, 0.02)
                new = [record["refusal"] for record in self.refusals()[known:]]
                check(len(new) <= 1 and set(new) <= {"loop", "no_route", "unknown_service"}, f"{address}:{port}: {new}")
        # A service that has these addresses, too, is no way to us.
        for address in (self.web.v4, self.web.v6, f"::ffff:{self.web.v4}"):
            with self.one_refusal(f"{address}:{METRICS}", "loop"):
                expect(f"{address}:{METRICS}", self.get(address, METRICS), b"")
        check(self.descriptors() <= before + 3, f"descriptors: {before} before, {self.descriptors()} after")

    def nw_03_metadata_services(self):
        for address in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2::254",
                        "::ffff:169.254.169.254"):
            with self.one_refusal(f"{address}:80", "unknown_service"):
                check(b" 403 " in (self.get(address, 80) or b""), f"{address}:80 was not refused")
            with self.one_refusal(f"{address}, where a service has every address", "unknown_service"):
                check(b" 403 " in (self.get(address, EVERYWHERE) or b""), f"{address}:{EVERYWHERE} was not refused")
        for host in ("2852039166", "0xa9fea9fe", "169.254.43518", "[fd00:ec2::254]", "[::ffff:a9fe:a9fe]"):
            with self.one_refusal(f"the host {host}", "unknown_service", "bad_host"):
                got = self.get(ELSEWHERE, STRANGE, host)
                check(got.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), f"{host}: {got!r}")
        # The same service, and an address that is nobody's secret.
        got = self.get(ELSEWHERE, EVERYWHERE)
        check(got.startswith(b"HTTP/1.1 200 ") and MARKER in self.everywhere.bytes, f"{ELSEWHERE}: {got!r}")

    def nw_04_addresses_with_a_zone(self):
        for host in ("[fe80::1%25eth0]", "[fe80::1%eth0]", "fe80::1%eth0"):
            with self.one_refusal(host, "bad_host"):
                got = self.get(self.orders.v4, self.app.port, host)
                check(got.startswith(b"HTTP/1.1 400 "), f"{host}: {got!r}")
        own = self.web.must("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link").split()
        if "inet6" not in own:
            return
        link_local = own[own.index("inet6") + 1].split("/")[0]
        with self.web.entered():
            address = f"{link_local}%eth0"
            got = self.get(address, CAPTURE_OUTBOUND)
        check(not got, f"{address} answered {got!r}")

    def nw_05_no_original_destination(self):
        """From outside, straight to the port for what is captured."""
        for address in (self.orders.v4, self.orders.v6):
            refusals = lambda: [record["refusal"] for record in self.server.records() if record.get("refusal")]
            before, bytes_before = len(refusals()), len(self.app.everything)
            with self.mesh.node.entered():
                connection = socket.create_connection((address, CAPTURE_INBOUND), timeout=5)
            with connection:
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                    expect("what it says", connection.recv(100), b"")
            wait_until(lambda: len(refusals()) > before, "its record", 5, 0.02)
            check(refusals()[before:] in (["loop"], ["no_route"]), f"records: {refusals()[before:]}")
            expect("bytes at the application", len(self.app.everything), bytes_before)

    def nw_06_a_name_and_another_destination(self):
        port = self.app.port
        # Whoever answers there is not who the name promises. He sees a handshake, and nothing of the request.
        with self.one_refusal("a stranger's address", "upstream_protocol", "upstream_closed"):
            got = self.get(ELSEWHERE, STRANGE, "orders.pod.test")
            check(got.startswith(b"HTTP/1.1 502 "), f"{got!r}")
        check(MARKER not in self.strange.bytes, "the request reached a stranger")
        with self.one_refusal("another identity", "wrong_upstream_identity"):
            got = self.get(self.orders.v4, port, "other.pod.test")
            check(got.startswith(b"HTTP/1.1 502 "), f"{got!r}")
        # Where nobody proves who he is, the name is no way to any address.
        connections = self.strange.connections
        with self.one_refusal("a plain service's name", "upstream_unresolved"):
            got = self.get(ELSEWHERE, STRANGE, "plain.pod.test")
            check(got.startswith(b"HTTP/1.1 503 "), f"{got!r}")
        with self.one_refusal("a passed service's server name", "upstream_unresolved"):
            self.hello(ELSEWHERE, STRANGE, "passed.pod.test")
        with self.one_refusal("a server name of a service that is not passed", "tls_refused"):
            self.hello(self.orders.v4, port, "orders.pod.test")
        expect("connections at the stranger", self.strange.connections, connections)
        # A port in the host is as little followed as an address.
        got = self.get(self.orders.v4, port, f"orders.pod.test:{self.raw.port}")
        check(got.startswith(b"HTTP/1.1 200 ") and MARKER in self.app.everything, f"{got!r}")

    def hello(self, address, port, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.connected(address, port) as connection:
            try:
                context.wrap_socket(connection, server_hostname=name).close()
            except OSError:
                return
        check(False, f"somebody answered the handshake for {name}")

    def nw_08_operators_listeners(self):
        for host in ("localhost:15000", "127.0.0.1:15000", f"{self.web.v4}:15000"):
            with self.one_refusal(host, "unknown_service"):
                got = self.get(ELSEWHERE, STRANGE, host, "/config")
                check(got.startswith(b"HTTP/1.1 403 "), f"{host}: {got!r}")
        # With an SVID, by the data path of the other side.
        for path in ("/config", "//config", "/%63onfig", "/metrics"):
            got = self.get(self.orders.v4, self.app.port, "orders.pod.test", path)
            check(b"postern_" not in got and b"workload_api" not in got, f"{path}: {got!r}")

    def ds_11_a_server_that_speaks_first(self):
        times = []
        for _ in range(3):
            started = time.monotonic()
            with self.connected(self.orders.v4, self.banner.port) as connection:
                expect("the banner", connection.recv(100), b"220 ready\r\n")
            times.append(time.monotonic() - started)
        check(min(times[1:]) < SECONDS_MAX, f"seconds until the banner: {times}")

    def ds_12_half_closed(self):
        for address in (self.orders.v4, self.orders.v6):
            with self.connected(address, self.raw.port) as connection:
                connection.sendall(MARKER)
                connection.shutdown(socket.SHUT_WR)
                with connection.makefile("rb") as reader:
                    expect(f"what {address} says after a half-close", reader.read(), MARKER + EchoApp.GOODBYE)

    def nw_12_a_family_without_rules(self):
        install = (self.mesh.postern, "redirect", "install", "--config", self.server.config_path)
        self.orders.must(*install, "--family", "v4")
        wait_until(lambda: self.server.readiness()[0] == 503, "the sidecar not to be ready without IPv6's rules", 45)
        check(self.orders.v6 in self.server.readiness()[1], f"the reason: {self.server.readiness()[1]}")
        self.orders.must(*install)
        wait_until(lambda: self.server.readiness()[0] == 200, "the sidecar to be ready again", 10)

    def nw_12_what_another_uid_means(self):
        """The documented limit: whoever is Postern's user is not captured. Nobody else is let past."""
        url = f"http://{ELSEWHERE}:{STRANGE}/"
        curl = (tool("curl"), "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", "--noproxy", "*", url)
        for uid, status in ((APP_UID, "403"), (0, "403"), (POSTERN_UID, "200")):
            expect(f"the status of {uid}", self.web.run(*curl, uid=uid)[1], status)

    def nw_01_a_sidecar_whose_user_is_not_exempt(self):
        """Its own connections come back to it: once, and not round and round. Nobody is healthy then, so it is the last."""
        self.client.process.terminate(10)
        self.client.records_path.unlink()
        self.client.prefix = self.web.command(uid=POSTERN_UID + 1)
        self.client.config["admin"]["socket"] += ".other"
        self.client.start(ready=False)
        wait_until(self.answers, "the other user's sidecar to listen")
        connections = self.everywhere.connections
        with self.one_refusal("a stream that comes back", "loop"):
            expect("a stream that comes back", self.told(ELSEWHERE, EVERYWHERE, b"\x01 no HTTP \x02"), b"")
            time.sleep(0.3)
        known = len(self.refusals())
        got = self.get(ELSEWHERE, EVERYWHERE)
        check(got.startswith(b"HTTP/1.1 502 "), f"{got!r}")
        # Ours, and the request that waited for it.
        wait_until(lambda: len(self.refusals()) >= known + 2, "their records", 5, 0.02)
        time.sleep(0.3)
        expect("refusals", sorted(record["refusal"] for record in self.refusals()[known:]), ["loop", "upstream_closed"])
        expect("connections that left", self.everywhere.connections, connections)

    def answers(self):
        with contextlib.suppress(OSError):
            return self.client.alive() and self.client.readiness()[0] > 0
        return False


if __name__ == "__main__":
    main(run, PodMesh)
