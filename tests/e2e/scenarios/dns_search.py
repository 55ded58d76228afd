"""Name capture under glibc and musl: search domains and `ndots` lead to declared names, and these to their services.

musl is tried where musl-gcc is installed. Then two TCP services are connected to, which nothing but the name's address
tells apart. In a network and mount namespace of its own, with its own resolv.conf and rules that redirect.
"""

import ipaddress
import os
import shutil
import sys

from harness import names
from harness.mesh import ORDERS
from harness.processes import Skip, check, expect, tool, wait_until
from harness.scenario import main

NAMESERVERS = {"IPv4": "10.53.53.53", "IPv6": "fd99::53"}
SEARCH = "default.svc.cluster.local svc.cluster.local cluster.local"
SEARCHED = ("orders.shop", "orders.shop.svc")
OUTSIDE = ["192.0.2.1", "2001:db8::1"]
PORT = 15053
UPSTREAM = ("127.0.0.2", 5353)
PLAIN = {"protocol": "tcp", "tls": "off"}
SERVICES = [
    {"name": "payments", "hosts": ["payments.shop.svc"], **PLAIN, "endpoints": ["127.0.0.3:7001"]},
    {"name": "redis", "hosts": ["redis"], **PLAIN, "endpoints": ["127.0.0.3:7002"]},
    {"name": "mesh", "hosts": ["*.{ns}.svc.cluster.local"], "identity": ORDERS},
]
NETWORK = """
set -e
ip link set lo up
ip link add outside type veth peer name beyond
ip link set beyond up
ip addr add 10.53.53.1/24 dev outside
ip link set outside up
ip route add default dev outside
{ ip addr add fd99::1/64 dev outside nodad && ip -6 route add default dev outside; } || touch "$2"
mount --bind "$1" /etc/resolv.conf
nft -f - <<'RULES'
table ip names {
  chain output {
    type nat hook output priority -100
    ip daddr 127.0.0.0/8 accept
    udp dport 53 redirect to :15053
    tcp dport 53 redirect to :15053
    ip daddr 240.240.0.0/12 meta l4proto tcp redirect to :15001
  }
}
table ip6 names {
  chain output {
    type nat hook output priority -100
    ip6 daddr ::1 accept
    udp dport 53 redirect to :15053
    tcp dport 53 redirect to :15053
    ip6 daddr fd1c:ca81:406d::/64 meta l4proto tcp redirect to :15001
  }
}
RULES
"""
# Each says who it is, and nothing else is sent: a stream without any name in it.
SERVERS = """
import socket, threading
def serve(port, name):
    listener = socket.create_server(("127.0.0.3", port))
    while True:
        connection, _ = listener.accept()
        connection.sendall(name)
        connection.close()
for port, name in ((7001, b"payments"), (7002, b"redis")):
    threading.Thread(target=serve, args=(port, name)).start()
"""
CLIENT = """
import socket, sys
families = {"4": socket.AF_INET, "6": socket.AF_INET6}
for family in (families[digit] for digit in sys.argv[2]):
    for *_, address in socket.getaddrinfo(sys.argv[1], 5432, family, socket.SOCK_STREAM):
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(10)
        connection.connect(address)
        print(connection.makefile().read())
"""
RESOLVE = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **arguments) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    char text[64];
    if (count < 2 || getaddrinfo(arguments[1], 0, &hints, &found)) return 2;
    for (; found; found = found->ai_next) {
        void *address = found->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
                                                    : (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
        puts(inet_ntop(found->ai_family, address, text, sizeof text));
    }
}
"""


class Bench:
    def __init__(self, mesh):
        self.mesh = mesh
        self.resolv_conf = mesh.directory / "resolv.conf"
        self.no_ipv6 = mesh.directory / "no-ipv6"
        self.write(5, NAMESERVERS["IPv4"])
        holder = mesh.workspace.spawn("namespace", [tool("unshare"), "--net", "--mount", "sleep", "infinity"])
        wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "a namespace")
        self.inside = [tool("nsenter"), "-t", str(holder.pid), "-n", "-m"]
        code, _, err = self.run("sh", "-c", NETWORK, "sh", self.resolv_conf, self.no_ipv6)
        if code:
            raise Skip(f"no network of its own with a redirect can be made here: {err.strip()}")
        command = [*self.inside, sys.executable, names.__file__, *map(str, UPSTREAM)]
        upstream = mesh.workspace.spawn("nameserver", command)
        wait_until(lambda: "ready" in upstream.text(), "the nameserver")
        self.upstream = upstream
        dns = {"listen": PORT, "upstreams": ["%s:%d" % UPSTREAM]}
        identity = mesh.identity()
        self.sidecar = mesh.sidecar(
            "web",
            identity.socket("web"),
            prefix=self.inside,
            outbound={"services": SERVICES},
            capture={"outbound": 15001, "dns": dns},
        ).start(ready=False)
        wait_until(lambda: self.sidecar.alive() and "answering name queries" in self.sidecar.log_text(), "the sidecar")

    def write(self, ndots, nameserver):
        text = f"nameserver {nameserver}\nsearch {SEARCH}\noptions ndots:{ndots} timeout:2\n"
        self.resolv_conf.write_text(text)

    def run(self, *command):
        return self.mesh.workspace.run([*self.inside, *command])

    def resolve(self, name, *command):
        """The addresses that a C library finds, each once."""
        code, out, _ = self.run(*(command or (tool("getent"), "ahosts")), name)
        return sorted({line.split()[0] for line in out.splitlines()}) if code == 0 else []

    def musl(self):
        """A program that resolves by musl; None where there is no compiler for it."""
        compiler = shutil.which("musl-gcc")
        if not compiler:
            print("NOTE: musl-gcc is not installed; glibc alone is tried")
            return None
        source, program = self.mesh.directory / "resolve.c", self.mesh.directory / "resolve"
        source.write_text(RESOLVE)
        code, _, err = self.mesh.workspace.run([compiler, "-static", "-o", program, source])
        check(code == 0, f"musl-gcc: {err}")
        return program


def virtual(addresses):
    networks = [ipaddress.ip_network("240.240.0.0/12"), ipaddress.ip_network("fd1c:ca81:406d::/64")]
    found = [ipaddress.ip_address(address) for address in addresses]
    return found and all(any(address in network for network in networks) for address in found)


def run(mesh):
    if os.getuid() != 0:
        raise Skip("needs root for a network namespace of its own")
    for name in ("unshare", "nsenter", "nft", "ip", "getent"):
        tool(name)
    bench = Bench(mesh)
    found = {}
    musl = bench.musl()
    resolvers = {"glibc": (tool("getent"), "ahosts")} | ({"musl": (musl,)} if musl else {})
    for family, nameserver in NAMESERVERS.items():
        if family == "IPv6" and bench.no_ipv6.exists():
            print("NOTE: there is no IPv6 here; queries over IPv4 alone are tried")
            continue
        for library, resolver in resolvers.items():
            for ndots in (5, 1, 3):
                bench.write(ndots, nameserver)
                # musl does not search for a name that has that many dots, and glibc does when it is not found as it is.
                dots_max = ndots - 1 if library == "musl" else 9
                declared(bench, found, resolver, dots_max, f"with ndots:{ndots} over {family} by {library}")
    streams(bench)
    expect("services have different addresses", len({tuple(addresses) for addresses in found.values()}), len(found))
    expect("too long for UDP", len(bench.resolve("big.example.com", tool("getent"), "ahostsv4")), 100)
    names_back = {bench.run(tool("getent"), "hosts", address)[1].split()[1] for address in found["redis"]}
    expect("the names of the addresses", names_back, {"redis"})
    asked = bench.upstream.text()
    check("asked payments" not in asked and "asked redis" not in asked, f"declared names were asked upstream: {asked}")


def streams(bench):
    bench.mesh.workspace.spawn("servers", [*bench.inside, sys.executable, "-c", SERVERS])
    bench.write(5, NAMESERVERS["IPv4"])
    families = "4" if bench.no_ipv6.exists() else "46"
    for name, service in (("payments.shop.svc", "payments"), ("redis", "redis")):
        # Nobody answers over a family before the servers are up.
        said = []
        wait_until(lambda: said.append(said_by(bench, name, families)) or len(said[-1]) == len(families), service, 10)
        expect(f"who answers at {name}", said[-1], [service] * len(families))


def said_by(bench, name, families):
    return bench.run(sys.executable, "-c", CLIENT, name, families)[1].split()


def declared(bench, found, resolver, dots_max, how):
    for host, written in {
        "payments": ("payments.shop.svc", "payments.shop.svc."),
        "redis": ("redis",),
        "orders": ("orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local"),
        "web": ("web",),
    }.items():
        for name in written:
            if name.count(".") > dots_max and name in SEARCHED:
                continue
            addresses = bench.resolve(name, *resolver)
            check(virtual(addresses), f"{name} {how} is {addresses}")
            expect(f"{name} {how}", addresses, found.setdefault(host, addresses))
    expect(f"a name of nobody's service {how}", bench.resolve("www.example.com", *resolver), OUTSIDE)
    expect(f"no name {how}", bench.resolve("nobody.example.com", *resolver), [])


if __name__ == "__main__":
    main(run)
