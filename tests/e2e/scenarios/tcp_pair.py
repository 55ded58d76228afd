"""L4 through a pair: echo with half-close, a server that speaks first, 50 MB both ways at once with hashes."""

import hashlib
import os
import socket
import threading
import time

from harness.apps import BannerApp, BulkApp, EchoApp
from harness.clients import connect
from harness.mesh import BATCH
from harness.processes import check, expect, wait_until
from harness.scenario import main

SIZE = 50 << 20


def run(mesh):
    identity = mesh.identity()
    echo, banner, bulk = EchoApp(), BannerApp(), BulkApp(SIZE)
    half_close(mesh.pair(identity, echo.port, "tcp", suffix="-echo"))
    speaks_first(mesh.pair(identity, banner.port, "tcp", suffix="-banner"))
    both_ways(mesh.pair(identity, bulk.port, "tcp", suffix="-bulk"), bulk)
    refused(mesh.pair(identity, echo.port, "tcp", suffix="-refused", inbound={"allow": [{"spiffe": BATCH}]}), echo)


def half_close(pair):
    for size in (1, 70_000, 1_000_000):
        content = os.urandom(size)
        connection = connect(pair.port)
        sender = threading.Thread(target=lambda: (connection.sendall(content), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        expect(f"echo of {size} bytes, then the goodbye", read_all(connection), content + EchoApp.GOODBYE)
        sender.join()
    wait_until(lambda: any(size_of(record) for record in pair.server.records()), "a record of the connection")


def size_of(record):
    return any(isinstance(value, int) and value >= 1_000_000 for value in record.values())


def speaks_first(pair):
    for _ in range(3):
        started = time.monotonic()
        connection = connect(pair.port)
        reader = connection.makefile("rb")
        expect("the banner", reader.readline(), BannerApp.BANNER)
        check(time.monotonic() - started < 0.9, "the banner waited for the detection's deadline")
        connection.sendall(b"HELO there\r\n")
        expect("the answer", reader.readline(), b"250 HELO there\r\n")
        connection.close()


def both_ways(pair, app):
    content = os.urandom(1 << 20) * (SIZE >> 20)
    connection = connect(pair.port, 60)

    def send():
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = read_all(connection)
    sender.join()
    expect("length of what came", len(received), SIZE + 64)
    expect("what came", hashlib.sha256(received[:SIZE]).hexdigest(), app.digest)
    expect("what arrived", received[SIZE:].decode(), hashlib.sha256(content).hexdigest())


def refused(pair, app):
    before = app.connections
    connection = connect(pair.port)
    try:
        connection.sendall(b"let me in")
        expect("bytes for an identity that is not allowed", read_all(connection), b"")
    except ConnectionError:
        pass
    expect("connections that reached the app", app.connections, before)
    wait_until(lambda: "not_allowed" in str(pair.server.records()), "a record with not_allowed")


def read_all(connection):
    parts = []
    while data := connection.recv(262144):
        parts.append(data)
    return b"".join(parts)


if __name__ == "__main__":
    main(run)
