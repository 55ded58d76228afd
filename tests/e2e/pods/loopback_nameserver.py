"""Name capture where the application's nameserver is on loopback, as systemd-resolved, dnsmasq and Docker have it.

The nameserver of this pod forwards to one in the node. Clients know nothing: the C library, and raw queries.
"""

import ipaddress
import itertools
import socket
import sys

from harness.apps import EchoApp
from harness.capture import same, snapshot
from harness.mesh import ORDERS, WEB
from harness.names import A, ZONE, Nameserver, ask, ask_tcp, query
from harness.pods import APP_UID, PodMesh
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main

RESOLVER_UID = 61453
DNS, PORT = 15053, 9000
# The node, where the resolver's own nameserver is.
GATEWAY = "10.77.1.1"
BACKENDS = ("nft", "iptables-nft", "iptables-legacy")
VIRTUAL = {4: ipaddress.ip_network("240.240.0.0/12"), 6: ipaddress.ip_network("fd1c:ca81:406d::/64")}
# Binds as root, and is somebody else afterwards, as dnsmasq does; each query goes out by a socket of its own.
FORWARDER = """
import os, socket, struct, sys, threading
upstream, uid, *places = sys.argv[1:]
def ask(message):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((upstream, 53))
        client.send(message)
        print("forwarded", flush=True)
        return client.recv(65535)
def answer(server, message, peer):
    try: server.sendto(ask(message), peer)
    except OSError as error: print("no answer:", error, flush=True)
def datagrams(server):
    while True:
        message, peer = server.recvfrom(65535)
        threading.Thread(target=answer, args=(server, message, peer), daemon=True).start()
def stream(connection):
    reader = connection.makefile("rb")
    while length := reader.read(2):
        found = ask(reader.read(struct.unpack(">H", length)[0]))
        connection.sendall(struct.pack(">H", len(found)) + found)
def streams(server):
    while True:
        threading.Thread(target=stream, args=(server.accept()[0],), daemon=True).start()
for place in places:
    address, port = place.rsplit("@", 1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind, serve in ((socket.SOCK_DGRAM, datagrams), (socket.SOCK_STREAM, streams)):
        server = socket.socket(family, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, int(port)))
        if kind == socket.SOCK_STREAM: server.listen(16)
        threading.Thread(target=serve, args=(server,), daemon=True).start()
if int(uid): os.setuid(int(uid))
print("up", flush=True)
threading.Event().wait()
"""


class Bench:
    def __init__(self, mesh):
        mesh.network()
        self.mesh, self.pod = mesh, mesh.web
        self.fresh = (f"host-{number}.example.com" for number in itertools.count(1))
        with mesh.node.entered():
            self.upstream = Nameserver(GATEWAY, 53)
        mesh.workspace.at_end(self.upstream.close)
        self.resolv_conf = mesh.directory / "resolv.conf"
        self.asks("127.0.0.53")
        nsswitch = mesh.directory / "nsswitch.conf"
        nsswitch.write_text("hosts: dns\n")
        self.pod.files = {"/etc/resolv.conf": self.resolv_conf, "/etc/nsswitch.conf": nsswitch}
        self.forwarder = self.forward("resolver", RESOLVER_UID, "127.0.0.53@53", "::1@53")

        identity = mesh.identity()
        with mesh.orders.entered():
            echo = EchoApp()
        mesh.workspace.at_end(echo.close)
        inbound = [{"port": PORT, "app": f"127.0.0.1:{echo.port}", "protocol": "tcp", "allow": [{"spiffe": WEB}]}]
        mesh.captured(mesh.orders, identity, "orders", inbound)
        service = {"name": "orders", "hosts": ["orders.shop.svc"], "protocol": "tcp", "identity": ORDERS}
        service["endpoints"] = [f"{mesh.orders.v4}:{PORT}"]
        self.sidecar = mesh.captured(self.pod, identity, "web", services=[service], capture={"dns": {"listen": DNS}})
        self.postern("redirect", "remove")

    def asks(self, *nameservers):
        self.resolv_conf.write_text("".join(f"nameserver {address}\n" for address in nameservers))
        self.resolv_conf.chmod(0o644)

    def forward(self, name, uid, *places):
        process = self.pod.spawn(name, sys.executable, "-c", FORWARDER, GATEWAY, str(uid), *places)
        wait_until(lambda: "up" in process.text(), f"the nameserver {name}")
        return process

    def postern(self, *words):
        return self.pod.must(self.mesh.postern, *words)

    def redirect(self, action, *flags):
        code, out, err = self.pod.run(self.mesh.postern, "redirect", action, "--config", self.sidecar.config_path, *flags)
        return code, out + err

    def install(self, backend, *flags):
        code, out = self.redirect("install", "--backend", backend, *flags)
        expect(f"installation by {backend} ({out})", code, 0)
        return out

    def checked(self, what, *flags):
        code, out = self.redirect("check", *flags)
        expect(f"{what}: check ({out})", code, 0)
        return out

    def removed(self, what, before):
        self.postern("redirect", "remove")
        same(f"{what}: after removal", snapshot(self.pod), before)

    def configure(self, **keys):
        """More keys of `capture.dns`, for `postern redirect`: the running sidecar knows nothing of them."""
        self.sidecar.config["capture"]["dns"] = {"listen": DNS, **keys}
        self.sidecar.write()

    def addresses(self, host):
        return ZONE[(host, A)]

    def getent(self, name, uid=APP_UID):
        code, out, _ = self.pod.run(tool("getent"), "ahosts", name, uid=uid)
        return sorted({line.split()[0] for line in out.splitlines()}) if code == 0 else []

    def forwarded(self, process=None):
        return (process or self.forwarder).text().count("forwarded")

    def query(self, host, nameserver, uid=APP_UID, over=ask):
        """The addresses that a raw query gets from the nameserver, and from nobody else."""
        questions = {ask: lambda: ask(53, host, host=nameserver), ask_tcp: lambda: ask_tcp(53, query(host, A), host=nameserver)[0]}
        return self.pod.inside(questions[over], uid).addresses

    def asks_by(self, resolver):
        before = self.forwarded(resolver)
        self.pod.inside(lambda: ask(DNS, next(self.fresh)))
        return self.forwarded(resolver) > before

    def is_captured(self, what, nameserver, uid=APP_UID):
        for over in (ask, ask_tcp):
            found = self.query("orders.shop.svc", nameserver, uid, over)
            check(found and all(map(is_virtual, found)), f"{what}, {over.__name__}: {nameserver} says {found}")


def is_virtual(address):
    ip = ipaddress.ip_address(address)
    return ip in VIRTUAL[ip.version]


def run(mesh):
    bench = Bench(mesh)
    untouched(bench)
    for backend in BACKENDS:
        captured(bench, backend)
    prints(bench)
    closed(bench)
    as_in_docker(bench)
    faults(bench)
    a_circle_ends(bench)


def untouched(bench):
    """What the scenario is about: without capture, the resolver answers, and knows nothing of services."""
    expect("a service", bench.getent("orders.shop.svc"), [])
    expect("another name", bench.getent(next(bench.fresh)), ["192.0.2.1"])


def captured(bench, backend):
    tool(backend)
    before = snapshot(bench.pod)
    bench.install(backend)
    once = snapshot(bench.pod)
    bench.install(backend)
    same(f"{backend}: installed twice", snapshot(bench.pod), once)
    check("queries to 127.0.0.53 are captured" in bench.checked(backend), f"{backend}: nothing says what is captured")
    for uid in (APP_UID, 0):
        found = bench.getent("orders.shop.svc", uid)
        check(found and all(map(is_virtual, found)), f"{backend}: the service is at {found} for uid {uid}")
        bench.is_captured(f"{backend}, uid {uid}", "127.0.0.53", uid)
    for address in found:
        reaches_the_service(bench, address)
    through_the_resolver(bench, backend)
    bench.is_captured(f"{backend}: a nameserver elsewhere", GATEWAY)
    expect("of the resolver's user", bench.query("orders.shop.svc", GATEWAY, RESOLVER_UID), [])
    expect("a nameserver on loopback that nobody named", bench.query("orders.shop.svc", "::1"), [])
    bench.removed(backend, before)

    bench.asks("::1")
    bench.install(backend)
    bench.checked(backend)
    bench.is_captured(backend, "::1")
    check(all(map(is_virtual, bench.getent("orders.shop.svc"))), f"{backend}: the C library went past ::1")
    through_the_resolver(bench, f"{backend}, ::1", "::1")
    bench.removed(f"{backend}, ::1", before)
    bench.asks("127.0.0.53")


def reaches_the_service(bench, address):
    def call():
        with socket.create_connection((address, PORT), 5) as connection:
            connection.sendall(b"hello")
            return connection.recv(9)

    expect(f"what the service says at {address}", bench.pod.inside(call, APP_UID), b"hello")


def through_the_resolver(bench, what, nameserver="127.0.0.53"):
    """Each question goes to the resolver, and from there to its upstream, once."""
    forwarded, asked = bench.forwarded(), len(bench.upstream.asked)
    host = next(bench.fresh)
    expect(f"{what}: {host}", bench.query(host, nameserver), bench.addresses(host))
    expect(f"{what}: questions to the resolver", bench.forwarded() - forwarded, 1)
    expect(f"{what}: questions to its upstream", bench.upstream.asked[asked:], [(host, A)])
    host = next(bench.fresh)
    expect(f"{what}: {host} of the C library", bench.getent(host), bench.addresses(host))
    check(bench.forwarded() - forwarded <= 3, f"{what}: {bench.forwarded() - forwarded} questions to the resolver")


def prints(bench):
    code, out = bench.redirect("print")
    expect("print", code, 0)
    check(f"those of uid {RESOLVER_UID} to other hosts are left alone" in out, out)


def closed(bench):
    """The resolver's own queries leave; everybody else's do not."""
    for backend in BACKENDS:
        bench.install(backend, "--closed-egress")
        bench.checked(backend, "--closed-egress")
        through_the_resolver(bench, f"{backend}, closed egress")
        for over in (ask, ask_tcp):
            host = next(bench.fresh)
            expect("the resolver's user", bench.query(host, GATEWAY, RESOLVER_UID, over), bench.addresses(host))
        bench.postern("redirect", "remove")


def as_in_docker(bench):
    """Its nameserver is root's, at another port to which rules of Docker's own lead, and asks from within the container."""
    docker = bench.forward("docker", 0, "127.0.0.11@40053")
    bench.asks("127.0.0.11")
    bench.sidecar.reload()
    for flavour in ("iptables-nft", "iptables-legacy"):
        rules = [
            ("OUTPUT", "-d", "127.0.0.11/32", "-p", protocol, "--dport", "53", "-j", "DNAT", "--to-destination", "127.0.0.11:40053")
            for protocol in ("udp", "tcp")
        ] + [
            ("POSTROUTING", "-s", "127.0.0.11/32", "-p", protocol, "--sport", "40053", "-j", "SNAT", "--to-source", ":53")
            for protocol in ("udp", "tcp")
        ]
        for rule in rules:
            bench.pod.must(flavour, "-t", "nat", "-A", *rule)
        before = snapshot(bench.pod)
        # Where no rules are, Postern is asked by its port.
        wait_until(lambda: bench.asks_by(docker), "Postern to ask the other nameserver", every=0.2)
        expect("without capture", len(bench.getent(next(bench.fresh))), 1)
        for backend in ("nft", flavour):
            what = f"Docker by {flavour}, captured by {backend}"
            bench.install(backend)
            bench.checked(backend)
            for uid in (APP_UID, 0):
                bench.is_captured(what, "127.0.0.11", uid)
                asked, forwarded = len(bench.upstream.asked), bench.forwarded(docker)
                host = next(bench.fresh)
                expect(f"{what}: {host}", bench.query(host, "127.0.0.11", uid), bench.addresses(host))
                expect(f"{what}: questions", (bench.forwarded(docker) - forwarded, len(bench.upstream.asked) - asked), (1, 1))
            check(all(map(is_virtual, bench.getent("orders.shop.svc", 0))), f"{what}: root's C library went past it")
            bench.removed(what, before)
        for rule in rules:
            bench.pod.must(flavour, "-t", "nat", "-D", *rule)
    bench.asks("127.0.0.53")
    bench.sidecar.reload()
    wait_until(lambda: bench.asks_by(bench.forwarder), "Postern to ask the first nameserver again", every=0.2)


def faults(bench):
    """Each named by `check`, with its fix."""
    bench.install("nft")
    bench.asks("::1")
    fault(bench, "the nameserver ::1 is not captured by the rules that are installed", "`postern redirect install`")
    bench.configure(loopback_nameservers="127.0.0.53")
    fault(bench, "the nameserver ::1 of /etc/resolv.conf is not captured", "leave that key out")
    bench.asks("127.0.0.53")
    bench.checked("nft")
    bench.configure(resolver_users=[])
    fault(bench, f"runs as uid {RESOLVER_UID}, whose own queries are captured", "`capture.dns.resolver_users`")
    bench.configure(loopback_nameservers=[])
    fault(bench, "the nameserver 127.0.0.53 of /etc/resolv.conf is not captured", "leave that key out")
    bench.configure(loopback_nameservers="127.0.0.77")
    fault(bench, "nobody answers at the nameserver 127.0.0.77", "start it before")
    bench.configure()


def fault(bench, words, fix):
    _, out = bench.redirect("check")
    check(words in out and fix in out, f"{words!r} and {fix!r} are not in\n{out}")


def a_circle_ends(bench):
    """The resolver's user is not left alone: what it asks comes back to Postern, which asks it once and no more."""
    bench.configure(resolver_users=[])
    bench.redirect("install")
    forwarded, host = bench.forwarded(), next(bench.fresh)
    expect("an answer in a circle", bench.query(host, "127.0.0.53"), [])
    check(bench.forwarded() - forwarded <= 8, f"{bench.forwarded() - forwarded} questions went in a circle")
    bench.postern("redirect", "remove")


if __name__ == "__main__":
    main(run, PodMesh)
