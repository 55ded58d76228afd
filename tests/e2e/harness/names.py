"""DNS by hand: a client that sends raw queries, and a nameserver that knows a few names and says what it was asked.

As a program (`python names.py ADDRESS PORT`) it is that nameserver, for a network namespace of its own.
"""

import ipaddress
import socket
import socketserver
import struct
import sys
import threading

A, SOA, PTR, TXT, AAAA = 1, 6, 12, 16, 28
NOERROR, FORMERR, SERVFAIL, NXDOMAIN = 0, 1, 2, 3
TRUNCATED = 0x0200

# What would hide declared hosts if somebody asked for it, and names of nobody's service.
ZONE = {
    ("www.example.com", A): ["192.0.2.1"],
    ("www.example.com", AAAA): ["2001:db8::1"],
    ("big.example.com", A): [f"192.0.2.{last}" for last in range(1, 101)],
    ("payments.shop.svc.cluster.local", A): ["192.0.2.66"],
    ("payments.shop.svc.default.svc.cluster.local", A): ["192.0.2.66"],
    ("orders.shop.svc.cluster.local", A): ["192.0.2.7"],
    ("web.default.svc.cluster.local", A): ["192.0.2.8"],
    # For who must not meet a cache.
    **{(f"host-{number}.example.com", A): [f"192.0.2.{number}"] for number in range(1, 100)},
}
TTL = 60


def wire_name(text):
    labels = [label.encode() for label in text.strip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def read_name(message, at):
    labels = []
    while message[at]:
        if message[at] >= 0xC0:
            rest, _ = read_name(message, (message[at] & 0x3F) << 8 | message[at + 1])
            return ".".join(labels + [rest]), at + 2
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels), at + 1


def query(name, kind, identifier=0x1234, edns=None):
    additional = b"" if edns is None else b"\0" + struct.pack(">HHIH", 41, edns, 0, 0)
    header = struct.pack(">6H", identifier, 0x0100, 1, 0, 0, int(edns is not None))
    return header + wire_name(name) + struct.pack(">HH", kind, 1) + additional


class Answer:
    def __init__(self, message):
        self.identifier, flags, _, answers, _, _ = struct.unpack(">6H", message[:12])
        self.code, self.truncated = flags & 15, bool(flags & TRUNCATED)
        _, at = read_name(message, 12)
        at += 4
        self.records = []
        for _ in range(answers):
            _, at = read_name(message, at)
            kind, _, ttl, length = struct.unpack(">HHIH", message[at : at + 10])
            data = message[at + 10 : at + 10 + length]
            if kind == PTR:
                value, _ = read_name(message, at + 10)
            else:
                value = str(ipaddress.ip_address(data)) if kind in (A, AAAA) else data
            self.records.append((kind, ttl, value))
            at += 10 + length

    @property
    def addresses(self):
        return [value for kind, _, value in self.records if kind in (A, AAAA)]


def ask_raw(port, message, seconds=6.0, host="127.0.0.1"):
    """The answer's bytes, or None."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(seconds)
        client.connect((host, port))
        client.send(message)
        try:
            return client.recv(65535)
        except TimeoutError:
            return None


def ask(port, name, kind=A, host="127.0.0.1", **options):
    return Answer(ask_raw(port, query(name, kind, **options), host=host))


def ask_tcp(port, *messages, host="127.0.0.1"):
    """All messages over one connection, sent at once."""
    with socket.create_connection((host, port), timeout=6) as connection:
        connection.sendall(b"".join(struct.pack(">H", len(message)) + message for message in messages))
        reader = connection.makefile("rb")
        return [Answer(reader.read(struct.unpack(">H", reader.read(2))[0])) for _ in messages]


class Nameserver:
    """Answers from ZONE and everything else with NXDOMAIN, over UDP (512 bytes at most) and TCP."""

    def __init__(self, address, port):
        self.asked = []
        nameserver = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self):
                message, client = self.request
                answer = nameserver.answer(message)
                if len(answer) > 512:
                    end = read_name(message, 12)[1] + 4
                    answer = struct.pack(">6H", *struct.unpack(">H", message[:2]), 0x8380, 1, 0, 0, 0) + message[12:end]
                client.sendto(answer, self.client_address)

        class Stream(socketserver.StreamRequestHandler):
            def handle(self):
                while length := self.rfile.read(2):
                    answer = nameserver.answer(self.rfile.read(struct.unpack(">H", length)[0]))
                    self.wfile.write(struct.pack(">H", len(answer)) + answer)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self.servers = [
            socketserver.ThreadingUDPServer((address, port), Datagram),
            socketserver.ThreadingTCPServer((address, port), Stream),
        ]
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def answer(self, message):
        name, at = read_name(message, 12)
        kind = struct.unpack(">H", message[at : at + 2])[0]
        self.asked.append((name.lower(), kind))
        print("asked", name.lower(), kind, flush=True)
        found = ZONE.get((name.lower(), kind), [])
        exists = any(other == name.lower() for other, _ in ZONE)
        flags = 0x8180 if exists else 0x8180 | NXDOMAIN
        soa = b"" if found else self.soa()
        header = message[:2] + struct.pack(">5H", flags, 1, len(found), int(not found), 0)
        records = b"".join(self.record(kind, address) for address in found)
        return header + message[12 : at + 4] + records + soa

    @staticmethod
    def record(kind, address):
        data = ipaddress.ip_address(address).packed
        return b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, TTL, len(data)) + data

    @staticmethod
    def soa():
        data = b"\0\0" + struct.pack(">5I", 1, 3600, 600, 86400, TTL)
        return b"\0" + struct.pack(">HHIH", SOA, 1, TTL, len(data)) + data

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


if __name__ == "__main__":
    Nameserver(sys.argv[1], int(sys.argv[2]))
    print("ready", flush=True)
    threading.Event().wait()
