"""Name capture under glibc: search domains and `ndots` lead to declared names, redirected by the packet filter.

In a network and mount namespace of its own, with its own resolv.conf and a rule that redirects port 53.
"""

import ipaddress
import os
import sys

from harness import names
from harness.mesh import ORDERS
from harness.processes import Skip, check, expect, tool, wait_until
from harness.scenario import main

NAMESERVER = "10.53.53.53"
SEARCH = "default.svc.cluster.local svc.cluster.local cluster.local"
PORT = 15053
UPSTREAM = ("127.0.0.2", 5353)
SERVICES = [
    {"name": "payments", "hosts": ["payments.shop.svc"], "protocol": "tcp", "identity": ORDERS},
    {"name": "redis", "hosts": ["redis"], "protocol": "tcp", "identity": ORDERS},
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
{ ip addr add fd99::1/64 dev outside nodad && ip -6 route add default dev outside; } || echo "no IPv6 here"
mount --bind "$1" /etc/resolv.conf
nft -f - <<'RULES'
table ip names {
  chain output {
    type nat hook output priority -100
    ip daddr 127.0.0.0/8 accept
    udp dport 53 redirect to :15053
    tcp dport 53 redirect to :15053
  }
}
RULES
"""


class Bench:
    def __init__(self, mesh):
        self.mesh = mesh
        self.resolv_conf = mesh.directory / "resolv.conf"
        self.write(ndots=5)
        holder = mesh.workspace.spawn("namespace", [tool("unshare"), "--net", "--mount", "sleep", "infinity"])
        wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "a namespace")
        self.inside = [tool("nsenter"), "-t", str(holder.pid), "-n", "-m"]
        code, _, err = self.run("sh", "-c", NETWORK, "sh", self.resolv_conf)
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

    def write(self, ndots):
        text = f"nameserver {NAMESERVER}\nsearch {SEARCH}\noptions ndots:{ndots} timeout:2\n"
        self.resolv_conf.write_text(text)

    def run(self, *command):
        return self.mesh.workspace.run([*self.inside, *command])

    def resolve(self, name, database="ahosts"):
        """The addresses that glibc finds, each once, in its order."""
        code, out, _ = self.run(tool("getent"), database, name)
        return list(dict.fromkeys(line.split()[0] for line in out.splitlines())) if code == 0 else []


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
    for ndots in (5, 1, 3):
        bench.write(ndots)
        for name in ("payments.shop.svc", "redis", "payments.shop.svc."):
            addresses = bench.resolve(name)
            check(virtual(addresses), f"{name} with ndots:{ndots} is {addresses}")
            expect(f"{name} with ndots:{ndots}", addresses, found.setdefault(name.rstrip("."), addresses))
        for name in ("orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local"):
            addresses = bench.resolve(name)
            expect(f"{name} with ndots:{ndots}", addresses, found.setdefault("orders", addresses))
            check(virtual(addresses), f"{name} with ndots:{ndots} is {addresses}")
        expect(f"web with ndots:{ndots}", bench.resolve("web"), found.setdefault("web", bench.resolve("web")))
        expect(f"example with ndots:{ndots}", bench.resolve("www.example.com", "ahostsv4"), ["192.0.2.1"])
        expect(f"nobody with ndots:{ndots}", bench.resolve("nobody.example.com"), [])
    expect("services have different addresses", len({tuple(addresses) for addresses in found.values()}), len(found))
    expect("too long for UDP", len(bench.resolve("big.example.com", "ahostsv4")), 100)
    expect("the name of an address", bench.run(tool("getent"), "hosts", found["redis"][0])[1].split()[1:], ["redis"])
    asked = bench.upstream.text()
    check("asked payments" not in asked and "asked redis" not in asked, f"declared names were asked upstream: {asked}")


if __name__ == "__main__":
    main(run)
