"""A stand-in for the proxy's captured listeners, and what asks it where a connection was going."""

import re
import socket
import struct
import threading

from harness.netns import POD_V4, POD_V6
from harness.processes import expect

INBOUND, OUTBOUND, APP = 15006, 15001, 8080
PROXY_UID, APP_UID = 1337, 1000
SO_ORIGINAL_DST = 80
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
FAMILIES = {"v4": socket.AF_INET, "v6": socket.AF_INET6}
POD = {"v4": POD_V4, "v6": POD_V6}


def listen(address, port, transparent=False):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        make_transparent(listener)
    listener.bind((address, port))
    listener.listen(64)
    return listener


def make_transparent(sock):
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


class Answering:
    """Listeners in a namespace whose connections get one line, and no more."""

    def __init__(self, namespace, listeners, answer, uid=0):
        self.listeners = namespace.inside(lambda: [listen(*where) for where in listeners], uid)
        for listener in self.listeners:
            threading.Thread(target=self._serve, args=(namespace, listener, answer, uid), daemon=True).start()

    def _serve(self, namespace, listener, answer, uid):
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            try:
                connection.sendall(namespace.inside(lambda: answer(connection, peer), uid).encode() + b"\n")
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            connection.close()

    def close(self):
        for listener in self.listeners:
            try:
                # Wakes who waits in accept; closing alone would not.
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()


def app(pod):
    """The application, on loopback as well as on the pod's address: it says who called."""
    where = [("0.0.0.0", APP), ("::", APP)]
    return Answering(pod, where, lambda _, peer: f"app called by {peer[0]}", APP_UID)


def stand_in(pod, mode):
    """Says by which door a connection came, where it was going, and, with TPROXY, what the app saw of its caller."""
    transparent = mode == "tproxy"

    def answer(connection, peer):
        local = connection.getsockname()
        if local[1] == OUTBOUND:
            return f"outbound {original(connection)}"
        if transparent and local[1] != INBOUND:
            return f"inbound {local[0]}:{local[1]}; {ask_app(connection, peer)}"
        return f"inbound {original(connection)}"

    where = [("0.0.0.0", INBOUND, transparent), ("::", INBOUND, transparent), ("127.0.0.1", OUTBOUND), ("::1", OUTBOUND)]
    return Answering(pod, where, answer, PROXY_UID)


def ask_app(connection, peer):
    """As the caller, by its own address."""
    with socket.socket(connection.family, socket.SOCK_STREAM) as sock:
        sock.settimeout(3)
        make_transparent(sock)
        sock.bind((peer[0], 0))
        sock.connect(("127.0.0.1" if sock.family == socket.AF_INET else "::1", APP))
        return sock.makefile().readline().strip()


def original(connection):
    if connection.family == socket.AF_INET:
        raw = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, address = struct.unpack_from("!2xH4s", raw)
        return f"{socket.inet_ntop(socket.AF_INET, address)}:{port}"
    raw = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    port, address = struct.unpack_from("!2xH4x16s", raw)
    return f"{socket.inet_ntop(socket.AF_INET6, address)}:{port}"


def ask(namespace, address, port, uid=0, seconds=3):
    """The line that somebody said at `address`, or the kind of the error."""

    def work():
        with socket.create_connection((address, port), timeout=seconds) as connection:
            return connection.makefile().readline().strip() or "nothing"

    try:
        return namespace.inside(work, uid)
    except OSError as error:
        return type(error).__name__


def snapshot(pod):
    """All rules and routes of a namespace, as far as they mean anything: chains that the programs make for themselves,
    empty and accepting, mean nothing, and neither do counters."""
    parts = {"nft": meaningful_tables(pod.must("nft", "list", "ruleset"))}
    for program in ("iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save"):
        code, out, _ = pod.run(program)
        lines = [re.sub(r"\[\d+:\d+\]", "", line).strip() for line in out.splitlines()] if code == 0 else []
        parts[program] = [line for line in lines if re.match(r"-A|:(?!(PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) ACCEPT)", line)]
    for family in ("-4", "-6"):
        parts[f"rule {family}"] = pod.must("ip", family, "rule", "show")
        parts[f"route {family}"] = sorted(pod.must("ip", family, "route", "show", "table", "all").splitlines())
    return parts


def same(what, found, expected):
    """Two snapshots."""
    for part, before in expected.items():
        expect(f"{what}, {part}", found[part], before)


def meaningful_tables(ruleset):
    ruleset = re.sub(r"counter packets \d+ bytes \d+", "counter", ruleset)
    ruleset = re.sub(r"\tchain \w+ \{\n\t\ttype [^\n]*policy accept;\n\t\}\n\n?", "", ruleset)
    ruleset = re.sub(r"table \w+ \w+ \{\n\}\n?", "", ruleset)
    return [line for line in ruleset.splitlines() if line.strip() and not line.startswith("#")]
