"""Unmodified clients and servers on both sides of two captured sidecars: all protocols, v4 and v6, and the wire has TLS only.

Everything is default: nothing but ports, addresses and identities is configured, so protocols are detected.
"""

import os
import re
import secrets
import smtplib
import socket
import statistics
import time

from websockets.sync.client import connect as websocket_connect

from harness import pod_scene
from harness.apps import EchoApp
from harness.mesh import ORDERS, WEB
from harness.pod_scene import GRPC_ECHO, HOST
from harness.pods import APP_UID, PodMesh
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main
from harness.wiretap import Wiretap

TRIES = 5
# A stall would be `timeouts.detect`, one second, on either side.
SECONDS_MAX = 0.5


def run(mesh):
    scene = pod_scene.start(mesh)
    secret = f"secret-{secrets.token_hex(16)}"
    tap = Wiretap(mesh, mesh.node, "to-orders")
    callers = [Caller(mesh, scene, address, secret) for address in (mesh.orders.v4, mesh.orders.v6)]
    for caller in callers:
        for name, call in caller.all().items():
            started = time.monotonic()
            call()
            print(f"{name} to {caller.address}: {time.monotonic() - started:.3f} s")
    for caller in callers:
        no_stall(caller)
    only_tls(scene, tap.stop(), callers, secret)
    records(scene, callers)


class Caller:
    """What the application in the web pod does, to one address of the orders pod."""

    def __init__(self, mesh, scene, address, secret):
        self.mesh, self.scene, self.pod, self.address, self.secret = mesh, scene, mesh.web, address, secret
        self.family = 6 if ":" in address else 4
        self.ports = scene.orders.ports
        self.table = f"t{self.family}"

    def all(self):
        names = ("http", "http2", "grpc", "websocket", "postgresql", "mariadb", "redis", "smtp", "raw")
        return {name: getattr(self, name) for name in names}

    def program(self, *command, stdin=None):
        """An ordinary user's program; its output."""
        return self.pod.must(*command, uid=APP_UID, stdin=stdin, seconds=30)

    def url(self, name, path):
        host = f"[{self.address}]" if self.family == 6 else self.address
        return f"http://{host}:{self.ports[name]}{path}"

    def curl(self, *arguments):
        return self.program(tool("curl"), "-sS", "--fail", "--noproxy", "*", "-m", "20", *arguments)

    def http(self):
        by_name = ("--resolve", f"{HOST}:80:{self.address}", f"http://{HOST}/file?{self.secret}")
        for what in (by_name, (self.url("http", "/file"),)):
            check(self.curl(*what).encode() == self.scene.orders.file, f"{what} came back changed")
        expect("who the server says called", self.curl(self.url("http", "/who")), WEB)

    def http2(self):
        version = ("--http2-prior-knowledge", "-w", " %{http_version}")
        expect("HTTP/2", self.curl(*version, self.url("http2", "/who")), f"{WEB} 2")
        body = self.curl(*version, "-H", f"x-secret: {self.secret}", self.url("http2", "/file")).encode()
        check(body == self.scene.orders.file + b" 2", "HTTP/2: the file came back changed")

    def grpc(self):
        host = f"[{self.address}]" if self.family == 6 else self.address
        target = f"ipv{self.family}:{host}:{self.ports['grpc']}"
        told = self.pod.must(os.sys.executable, GRPC_ECHO, "call", target, self.secret).split()
        expect("gRPC", told[0], self.secret)
        return float(told[1])

    def websocket(self):
        url = self.url("websocket", "/chat").replace("http", "ws", 1)
        with self.pod.entered(), websocket_connect(url, max_size=1 << 22, proxy=None) as client:
            big = self.secret * 20_000
            for message in (self.secret, big):
                client.send(message)
                check(client.recv(timeout=20) == message, "a WebSocket message came back changed")

    def psql(self, *statements):
        where = ("-h", self.address, "-p", str(self.ports["postgresql"]), "-U", "app", "-d", "postgres")
        run = [word for statement in statements for word in ("-c", statement)]
        return self.program(tool("psql"), "-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", *where, *run)

    def postgresql(self):
        rows = f"INSERT INTO {self.table} SELECT '{self.secret}' || n FROM generate_series(1, 20000) n"
        told = self.psql(f"CREATE TABLE {self.table} (s text)", rows, f"SELECT count(*), max(length(s)) FROM {self.table}")
        expect("PostgreSQL", told, f"20000|{len(self.secret) + 5}\n")
        rows = self.psql(f"COPY {self.table} TO STDOUT").splitlines()
        check(len(rows) == 20000 and rows[-1] == f"{self.secret}20000", f"COPY gave {len(rows)} rows")

    def sql(self, statement):
        # Towards `localhost` it would take its unix socket.
        where = ("--protocol=tcp", "-h", self.address, "-P", str(self.ports["mariadb"]), "-u", "app", "--skip-ssl")
        return self.program(tool("mariadb"), "--no-defaults", "-N", "-B", *where, "-e", statement, "app")

    def mariadb(self):
        expect("MariaDB", self.sql(f"CREATE TABLE {self.table} (s text); INSERT {self.table} VALUES ('{self.secret}');"
                                   f"SELECT s FROM {self.table}"), f"{self.secret}\n")
        expect("MariaDB, much", len(self.sql(f"SELECT repeat('{self.secret}', 20000)")), len(self.secret) * 20000 + 1)

    def redis_cli(self, *arguments, stdin=None):
        where = ("-h", self.address, "-p", str(self.ports["redis"]))
        return self.program(tool("redis-cli"), *where, *arguments, stdin=stdin)

    def redis(self):
        expect("SET", self.redis_cli("SET", self.table, self.secret), "OK\n")
        expect("GET", self.redis_cli("GET", self.table), f"{self.secret}\n")
        many = "".join(f"SET {self.table}-{number} {self.secret}\r\n" for number in range(10_000))
        check("replies: 10000" in self.redis_cli("--pipe", stdin=many.encode()), "a pipeline did not end well")

    def smtp(self):
        with self.pod.entered(), smtplib.SMTP(self.address, self.ports["smtp"], timeout=20) as client:
            text = f"Subject: {self.secret} over v{self.family}\r\n\r\n{self.secret}\r\n"
            refused = client.sendmail("app@pod.test", ["somebody@pod.test"], text)
            expect("refused recipients", refused, {})
        subject = f"Subject: {self.secret} over v{self.family}".encode()
        wait_until(lambda: any(subject in mail for mail in self.scene.orders.queued_mail()), "the mail to be queued")

    def connect(self, name):
        with self.pod.entered():
            return socket.create_connection((self.address, self.ports[name]), timeout=20)

    def raw(self):
        sent = self.secret.encode() * 10_000
        with self.connect("raw") as connection:
            connection.sendall(sent)
            # The other half stays open: what was sent comes back, and then the goodbye.
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as reader:
                received = reader.read()
        check(received == sent + EchoApp.GOODBYE, f"{len(received)} of {len(sent)} bytes came back after a half-close")


def no_stall(caller):
    """The first connection to a destination may wait for the server to speak; no further one may."""
    with_banner = {"smtp": b"220", "mariadb": b""}
    openings = {
        "redis": (b"PING\r\n", b"+PONG"),
        "http": (b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200"),
        # SSLRequest: one byte says no.
        "postgresql": (bytes.fromhex("0000000804d2162f"), b"N"),
        "raw": (b"first bytes\n", b"first bytes\n"),
        **{name: (b"", banner) for name, banner in with_banner.items()},
    }
    for name, (opening, answer) in openings.items():
        times = []
        for _ in range(TRIES):
            started = time.monotonic()
            with caller.connect(name) as connection:
                connection.sendall(opening)
                first = connection.recv(4096)
            times.append(time.monotonic() - started)
            check(first and first.startswith(answer), f"{name} answered {first!r}")
        median = statistics.median(times)
        check(median < SECONDS_MAX, f"{name} to {caller.address} stalls: {', '.join(f'{it:.3f} s' for it in times)}")
    check(caller.grpc() < SECONDS_MAX, "gRPC stalls")


def only_tls(scene, wire, callers, secret):
    expect("frames that the tap lost", wire.dropped, 0)
    expect("what is not TLS between the pods", wire.plaintext(), [])
    for what in (secret.encode(), WEB.encode(), scene.orders.file[:64], b"PostgreSQL", b"HTTP/1.1", b"220 orders"):
        check(not wire.holds(what), f"{what!r} went over the wire")
    used = {(caller.address, port) for caller in callers for port in scene.orders.ports.values()}
    check(used <= wire.ports(), f"something took another way: {used - wire.ports()} carried nothing")


def records(scene, callers):
    """One record says who called, on both sides: the workload, and the local user."""
    for port in scene.orders.ports:
        inbound = scene.server.records_of(direction="inbound", listener=port)
        check(inbound, f"no record of {port}")
        peers = {record.get("peer.spiffe_id") for record in inbound}
        expect(f"who called {port}", peers, {WEB})
        outbound = scene.client.records_of(direction="outbound", service=port)
        answered = {record["upstream.spiffe_id"] for record in outbound if "upstream.spiffe_id" in record}
        expect(f"who answered for {port}", answered, {ORDERS})
    users = {name: set() for name in ("postgresql", "smtp")}
    for name, found in users.items():
        found.update(record.get("process.user.id") for record in scene.client.records_of(service=name))
    check(APP_UID in users["postgresql"], f"psql's user is not in the records: {users}")
    expect("the user of what root called", users["smtp"], {0})
    # What `redirect install` tried for itself is for none of them.
    ours = [record for record in scene.client.records() if record.get("service") in scene.orders.ports]
    ours += [record for record in scene.server.records() if record.get("listener") in scene.orders.ports]
    expect("refusals", [record for record in ours if "refusal" in record], [])
    for sidecar in (scene.client, scene.server):
        faults = [line for line in sidecar.log_text()[sidecar.log_before:].splitlines() if re.search(r"\b(ERROR|WARN)\b", line)]
        expect(f"errors and warnings of {sidecar.name}", faults, [])


if __name__ == "__main__":
    main(run, PodMesh)
