"""Name capture: declared names have stable addresses of their own, all else is asked upstream, with raw queries."""

import ipaddress
import os
import random
import struct

from harness import names
from harness.mesh import ORDERS
from harness.names import A, AAAA, PTR, TXT, ask, ask_raw, ask_tcp, query
from harness.processes import check, expect, free_port, wait_until
from harness.scenario import main

VIRTUAL = {A: ipaddress.ip_network("240.240.0.0/12"), AAAA: ipaddress.ip_network("fd1c:ca81:406d::/64")}
SERVICES = [
    {"name": "payments", "hosts": ["payments.shop.svc"], "protocol": "tcp", "identity": ORDERS},
    {"name": "ledger", "hosts": ["ledger.shop.svc", "books"], "protocol": "tcp", "identity": ORDERS},
    {"name": "mesh", "hosts": ["*.{ns}.svc.cluster.local"], "identity": ORDERS},
]


class Bench:
    def __init__(self, mesh):
        self.upstream_port, self.port = free_port(), free_port()
        self.upstream = names.Nameserver("127.0.0.1", self.upstream_port)
        mesh.workspace.at_end(self.upstream.close)
        dns = {
            "listen": self.port,
            "upstreams": [f"127.0.0.1:{self.upstream_port}"],
            "search": ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"],
        }
        self.sidecar = mesh.workload(
            mesh.identity(),
            "web",
            outbound={"services": [dict(service) for service in SERVICES]},
            capture={"outbound": free_port(), "dns": dns},
        )
        # Its queries are asked where it listens: no rules of a packet filter are made in the machine's own namespace.
        self.sidecar.may_lack = ("capture",)
        self.sidecar.start()

    def queries(self, result):
        return self.sidecar.metric("postern_dns_queries_total", result=result)


def run(mesh):
    bench = Bench(mesh)
    before = declared(bench)
    expansions(bench)
    patterns(bench)
    forwarded(bench)
    malformed(bench)
    reload(bench, before)
    restart(bench, before)
    upstream_gone(bench)


def declared(bench):
    found = {}
    for host in ("payments.shop.svc", "ledger.shop.svc", "books"):
        answer = ask(bench.port, host)
        expect(f"addresses of {host}", len(answer.addresses), 1)
        check(ipaddress.ip_address(answer.addresses[0]) in VIRTUAL[A], f"{host} has {answer.addresses}")
        expect(f"TTL of {host}", answer.records[0][1], 30)
        for address in ask(bench.port, host, AAAA).addresses:
            check(ipaddress.ip_address(address) in VIRTUAL[AAAA], f"{host} has {address}")
        expect(f"no TXT of {host}", (ask(bench.port, host, TXT).code, ask(bench.port, host, TXT).records), (0, []))
        expect("in other letters", ask(bench.port, host.upper()).addresses, answer.addresses)
        expect("over TCP", ask_tcp(bench.port, query(host, A))[0].addresses, answer.addresses)
        reverse = ipaddress.ip_address(answer.addresses[0]).reverse_pointer
        expect("the name of the address", ask(bench.port, reverse, PTR).records[0][2], host)
        found[host] = answer.addresses
    expect("different addresses", len({address for address, in found.values()}), 3)
    expect("nobody upstream was asked", bench.upstream.asked, [])
    return found


def expansions(bench):
    for domain in ("default.svc.cluster.local", "svc.cluster.local"):
        for kind in (A, AAAA):
            name = f"payments.shop.svc.{domain}"
            expect(name, ask(bench.port, name, kind).code, names.NXDOMAIN)
    expect("nobody upstream was asked", bench.upstream.asked, [])
    expect("expansions", bench.queries("expansion"), 4)


def patterns(bench):
    """A pattern says how names look, not which there are."""
    there = ask(bench.port, "orders.shop.svc.cluster.local")
    check(ipaddress.ip_address(there.addresses[0]) in VIRTUAL[A], f"a pattern's host has {there.addresses}")
    expect("it stays", ask(bench.port, "orders.shop.svc.cluster.local").addresses, there.addresses)
    expect("made up", ask(bench.port, "example.com.svc.cluster.local").code, names.NXDOMAIN)


def forwarded(bench):
    cached = bench.queries("cached")
    asked = len(bench.upstream.asked)
    for _ in range(3):
        expect("a name of nobody's service", ask(bench.port, "www.example.com").addresses, ["192.0.2.1"])
    expect("the other family", ask(bench.port, "www.example.com", AAAA).addresses, ["2001:db8::1"])
    for _ in range(2):
        expect("no such name", ask(bench.port, "nobody.example.com").code, names.NXDOMAIN)
    expect("asked upstream", len(bench.upstream.asked) - asked, 3)
    expect("cached", bench.queries("cached") - cached, 3)

    small = ask(bench.port, "big.example.com")
    expect("too long for UDP", (small.truncated, small.records), (True, []))
    expect("with EDNS", len(ask(bench.port, "big.example.com", edns=4096).addresses), 100)
    messages = [query("big.example.com", A), query("books", A), query("www.example.com", A)]
    expect("over TCP", [len(answer.addresses) for answer in ask_tcp(bench.port, *messages)], [100, 1, 1])


def malformed(bench):
    broken = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1"
    header = ask_raw(bench.port, broken)
    expect("a question that points to itself", (header[:2], header[3] & 15), (broken[:2], names.FORMERR))
    expect("a response", ask_raw(bench.port, struct.pack(">6H", 7, 0x8000, 1, 0, 0, 0), 0.3), None)
    random.seed(7)
    for _ in range(300):
        ask_raw(bench.port, os.urandom(random.randint(0, 80)), 0.001)
    expect("and then", len(ask(bench.port, "books").addresses), 1)
    bench.sidecar.alive()
    expect("panics", bench.sidecar.metric("postern_task_panics_total"), 0)


def reload(bench, before):
    services = bench.sidecar.config["outbound"]["services"]
    services.insert(0, {"name": "added", "hosts": ["added.shop.svc"], "protocol": "tcp", "identity": ORDERS})
    bench.sidecar.reload()
    wait_until(lambda: ask(bench.port, "added.shop.svc").addresses, "the added service's address", 10)
    same_addresses(bench, before)

    old, bench.port = bench.port, free_port()
    bench.sidecar.config["capture"]["dns"]["listen"] = bench.port
    bench.sidecar.reload()
    wait_until(lambda: ask(bench.port, "books").addresses, "the other port", 10)
    wait_until(lambda: refused(old), "the old port to be closed", 10)


def refused(port):
    try:
        ask_tcp(port, query("books", A))
    except ConnectionRefusedError:
        return True
    return False


def restart(bench, before):
    bench.sidecar.process.kill()
    bench.sidecar.start()
    same_addresses(bench, before)


def same_addresses(bench, before):
    for host, addresses in before.items():
        expect(f"{host} again", ask(bench.port, host).addresses, addresses)


def upstream_gone(bench):
    expect("remembered", ask(bench.port, "www.example.com").addresses, ["192.0.2.1"])
    bench.upstream.close()
    expect("from the cache", ask(bench.port, "www.example.com").addresses, ["192.0.2.1"])
    expect("not from the cache", ask(bench.port, "other.example.com").code, names.SERVFAIL)
    expect("declared", len(ask(bench.port, "books").addresses), 1)
    check("no nameserver answers" in bench.sidecar.log_text(), "nothing in the log says that no nameserver answers")


if __name__ == "__main__":
    main(run)
