"""Closed egress: the proxy is killed, and nothing of the application leaves the pod, by any packet filter; DNS, the proxy's own
connections, named exceptions and answers to who calls an uncaptured port do."""

import socket
import threading
import time

from harness.capture import APP_UID, POD, PROXY_UID, Answering, ask, listen, stand_in
from harness.netns import ELSEWHERE_V4, ELSEWHERE_V6, OUTSIDE_V4, OUTSIDE_V6, Cable
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main

ELSEWHERE = {"v4": ELSEWHERE_V4, "v6": ELSEWHERE_V6}
OUTSIDE = {"v4": OUTSIDE_V4, "v6": OUTSIDE_V6}
EXCLUDED, UNCAPTURED = 5432, 2222


def run(mesh):
    for name in ("nft", "iptables-nft", "iptables-legacy"):
        tool(name)
    cable = Cable(mesh.workspace)
    where = [(address, port) for address in ("0.0.0.0", "::") for port in (53, 80, EXCLUDED)]
    Answering(cable.outside, where, lambda *_: "elsewhere")
    Answering(cable.pod, [("0.0.0.0", UNCAPTURED), ("::", UNCAPTURED)], lambda *_: "a login", APP_UID)
    datagrams, holding = Datagrams(cable.outside), Holding(cable.outside)
    for mode in ("redirect", "tproxy"):
        for backend in ("nft", "iptables-nft", "iptables-legacy"):
            case(mesh, cable, datagrams, holding, backend, mode)


def case(mesh, cable, datagrams, holding, backend, mode):
    what = f"{backend}, {mode}"
    flags = ["--exempt-user", PROXY_UID, "--exclude-outbound-port", EXCLUDED, "--exclude-inbound-port", UNCAPTURED]
    flags += ["--mode", mode, "--closed-egress"]
    # What was open before is closed as well.
    old = cable.pod.inside(lambda: socket.create_connection((ELSEWHERE_V4, 81)), APP_UID)
    old.sendall(b"before")
    wait_until(lambda: b"before" in holding.received, "bytes of before the rules")
    holding.received.clear()
    postern = [mesh.postern, "redirect"]
    cable.pod.must(*postern, "install", "--backend", backend, *map(str, flags))
    proxy = stand_in(cable.pod, mode)
    for family in ("v4", "v6"):
        expect(f"{what}: {family} while the proxy lives", ask(cable.pod, ELSEWHERE[family], 80, APP_UID), f"outbound {ELSEWHERE[family]}:80")
    proxy.close()
    for family in ("v4", "v6"):
        dead(cable, datagrams, f"{what}, {family}", family)
    refused_or_nothing(old, holding)
    old.close()
    cable.pod.must(*postern, "remove")
    expect(f"{what}: after removal", ask(cable.pod, ELSEWHERE_V4, 80, APP_UID), "elsewhere")


def dead(cable, datagrams, what, family):
    pod, to = cable.pod, ELSEWHERE[family]
    for port in (80, 443, 9):
        found = ask(pod, to, port, APP_UID)
        check(found in ("ConnectionRefusedError", "OSError", "PermissionError"), f"{what}: TCP to {port}: {found}")
    for port in (53, EXCLUDED):
        expect(f"{what}: TCP to {port}", ask(pod, to, port, APP_UID), "elsewhere")
    expect(f"{what}: TCP of the proxy's user", ask(pod, to, 80, PROXY_UID), "elsewhere")
    expect(f"{what}: a call to an uncaptured port", ask(cable.outside, POD[family], UNCAPTURED), "a login")
    captured = ask(cable.outside, POD[family], 8080, seconds=0.3)
    check(captured in ("ConnectionRefusedError", "TimeoutError", "timeout"), f"{what}: a call to a captured port: {captured}")
    datagrams.received.clear()
    for port, uid in [(9, APP_UID), (443, APP_UID), (53, APP_UID), (443, PROXY_UID)]:
        send(pod, to, port, uid)
    # Each port has its receiver: what was sent last may be received first.
    allowed = sorted([(53, APP_UID), (443, PROXY_UID)])
    wait_until(lambda: len(datagrams.received) >= len(allowed), "datagrams to port 53 and of the proxy's user", seconds=5)
    expect(f"{what}: datagrams that got out", sorted(datagrams.received), allowed)


class Datagrams:
    """What arrives elsewhere: (port, the sender's user as it says itself)."""

    def __init__(self, namespace):
        self.received = []
        for address in ("0.0.0.0", "::"):
            for port in (9, 53, 443):
                sock = namespace.inside(lambda: bound(address, port))
                threading.Thread(target=self._receive, args=(sock, port), daemon=True).start()

    def _receive(self, sock, port):
        while True:
            self.received.append((port, int(sock.recv(64))))


def bound(address, port):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    return sock


def send(pod, to, port, uid):
    def work():
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(str(uid).encode(), (to, port))
            except OSError:
                pass

    pod.inside(work, uid)


class Holding:
    """Accepts at elsewhere's port 81, keeps the connections, and what came by them."""

    def __init__(self, namespace):
        self.received = bytearray()
        self.listener = namespace.inside(lambda: listen("0.0.0.0", 81))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection):
        while data := connection.recv(4096):
            self.received += data


def refused_or_nothing(connection, holding):
    try:
        connection.sendall(b"after")
    except OSError:
        return
    time.sleep(0.3)
    check(b"after" not in holding.received, "a connection of before the rules still sends")


if __name__ == "__main__":
    main(run)
