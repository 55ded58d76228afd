"""HBONE with Envoy at either end: connections of an application as CONNECT streams of one mTLS connection."""

import os
import socket
import threading

from harness.apps import EchoApp, Http1App
from harness.clients import Http1, connect
from harness.envoy import start_envoy_tunnel_client, start_envoy_tunnel_server
from harness.mesh import ORDERS, WEB, inbound_port, outbound_service
from harness.processes import expect, free_port, tool, wait_until
from harness.scenario import main

CONNECTIONS = 12


def run(mesh):
    tool("envoy")
    identity = mesh.identity()
    echo, web_app = EchoApp(), Http1App()
    envoy_calls(mesh, identity, echo, web_app)
    envoy_answers(mesh, identity, echo)


def envoy_calls(mesh, identity, echo, web_app):
    tunnel, tcp, http = free_port(), free_port(), free_port()
    ports = [
        inbound_port(echo.port, None, "tcp", name="raw", port=tcp),
        inbound_port(web_app.port, None, "http", name="orders", port=http),
    ]
    server = mesh.workload(identity, "orders", inbound=ports, tunnel={"listen": f"127.0.0.1:{tunnel}"}).start()
    pems = identity.fetch("web")
    entry = start_envoy_tunnel_client(mesh, "envoy-raw", pems, tunnel, f"127.0.0.1:{tcp}")
    exchange(entry, echo)
    carriers = {record.get("tunnel.connection") for record in streams(server, "raw", CONNECTIONS)}
    expect("connections that carried them", len(carriers), 1)

    entry = start_envoy_tunnel_client(mesh, "envoy-http", pems, tunnel, f"10.9.8.7:{http}")
    expect("a request in a stream", Http1(connect(entry)).get("/inside").status, 200)
    expect("what the application was told of its caller", f"x-spiffe-id: {WEB}".encode() in web_app.heads[-1], True)

    entry = start_envoy_tunnel_client(mesh, "envoy-other", pems, tunnel, f"127.0.0.1:{echo.port}")
    before = echo.connections
    connection = connect(entry)
    connection.sendall(b"past the port")
    expect("bytes from a port that is not declared", ended(connection), b"")
    expect("connections to the application", echo.connections, before)
    wait_until(lambda: "no_route" in str(server.records()), "a record of it")


def envoy_answers(mesh, identity, echo):
    tunnel = start_envoy_tunnel_server(mesh, "envoy-orders", identity.fetch("orders"), echo.port, WEB)
    local = free_port()
    service = outbound_service(local, 5432, "tcp", via="tunnel", tunnel_port=tunnel)
    client = mesh.workload(identity, "web", outbound={"services": [service]}).start()
    exchange(local, echo)
    wait_until(lambda: len(client.records()) >= CONNECTIONS, "their records")
    expect("who answered", {record.get("peer.spiffe_id") for record in client.records()}, {ORDERS})
    expect("handshakes", client.metric("postern_handshake_duration_seconds_count", direction="outbound"), 1.0)


def exchange(port, echo):
    """Several at once, of different sizes, each with a half-close."""
    failures = []

    def one(number):
        content = os.urandom(1 + number * 40_000)
        connection = connect(port, 30)
        sender = threading.Thread(target=lambda: (connection.sendall(content), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        received = ended(connection)
        sender.join()
        if received != content + EchoApp.GOODBYE:
            failures.append(f"{number}: {len(received)} of {len(content)} bytes")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect("connections that did not come back whole", failures, [])


def streams(server, name, count):
    def found():
        return [it for it in server.records() if it["kind"] == "connection" and it.get("listener") == name]

    wait_until(lambda: len(found()) >= count, f"records of {count} streams")
    return found()


def ended(connection):
    parts = []
    try:
        while data := connection.recv(262144):
            parts.append(data)
    except ConnectionError:
        pass
    return b"".join(parts)


if __name__ == "__main__":
    main(run)
