"""Clients that nobody tamed: raw HTTP/1 and HTTP/2 over TCP or TLS, and wrk."""

import http.client
import re
import socket
import ssl
import time

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from harness.processes import Failed, check, tool


class Answer:
    def __init__(self, status, headers, body, trailers=None):
        self.status, self.headers, self.body, self.trailers = status, headers, body, trailers or {}


def connect(port, seconds=10):
    connection = socket.create_connection(("127.0.0.1", port), timeout=seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def mesh_tls(pems, alpn):
    """A client of the mesh with an SVID: the chain is verified, the name is not (SVIDs have none)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(pems.bundle)
    context.load_cert_chain(pems.certificate, pems.key)
    context.set_alpn_protocols(alpn)
    return context


def connect_tls(port, context, seconds=10):
    return context.wrap_socket(connect(port, seconds), server_hostname=None)


class Http1:
    """One HTTP/1 connection; requests are bytes, so that nothing on this side corrects them."""

    def __init__(self, connection):
        self.connection = connection

    def send(self, request):
        self.connection.sendall(request)

    def answer(self, method="GET"):
        response = http.client.HTTPResponse(self.connection, method=method)
        response.begin()
        body = response.read()
        headers = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, dict(headers), body)

    def request(self, request, method=None):
        self.send(request)
        return self.answer(method or request.split(b" ", 1)[0].decode())

    def get(self, path="/", host="orders.shop.svc"):
        return self.request(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())

    def close(self):
        self.connection.close()


class Http2:
    """One HTTP/2 connection that sends header lists as they are."""

    def __init__(self, connection):
        self.connection = connection
        self.session = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.session.initiate_connection()
        self.flush()

    def flush(self):
        data = self.session.data_to_send()
        if data:
            self.connection.sendall(data)

    def start(self, headers, body=b"", trailers=None, end=True):
        stream = self.session.get_next_available_stream_id()
        more = bool(body or trailers)
        self.session.send_headers(stream, headers, end_stream=end and not more)
        if body:
            self.session.send_data(stream, body, end_stream=end and not trailers)
        if trailers:
            self.session.send_headers(stream, trailers, end_stream=True)
        self.flush()
        return stream

    def request(self, headers, body=b"", trailers=None, seconds=10):
        return self.answer(self.start(headers, body, trailers), seconds)

    def answer(self, stream, seconds=10, until_end=True):
        """The answer of a stream; `status` None when the stream or the connection was reset."""
        answer = Answer(None, {}, b"")
        self.connection.settimeout(seconds)
        while True:
            data = self.connection.recv(65536)
            if not data:
                answer.status = None
                return answer
            for event in self.session.receive_data(data):
                if isinstance(event, ConnectionTerminated):
                    continue
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, ResponseReceived):
                    answer.headers = dict(event.headers)
                    answer.status = int(answer.headers[":status"])
                    if not until_end:
                        return answer
                elif isinstance(event, DataReceived):
                    answer.body += event.data
                    self.session.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, TrailersReceived):
                    answer.trailers = dict(event.headers)
                elif isinstance(event, StreamEnded):
                    self.flush()
                    return answer
                elif isinstance(event, StreamReset):
                    answer.status = None
                    return answer
            self.flush()

    def close(self):
        self.connection.close()


def http2_headers(method="GET", path="/", authority="orders.shop.svc", more=()):
    return [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *more]


def seconds_until_cut(connection, seconds=15):
    """Reads until the other side closes or resets; returns how long that took, or fails."""
    started = time.monotonic()
    connection.settimeout(seconds)
    try:
        while True:
            if time.monotonic() - started > seconds:
                raise Failed(f"still alive after {seconds} s")
            if not connection.recv(65536):
                break
    except socket.timeout:
        raise Failed(f"still alive after {seconds} s") from None
    except (ConnectionError, ssl.SSLError):
        pass
    return time.monotonic() - started


class Load:
    """wrk in the background; `finish` waits for its end and holds it to no failed request."""

    def __init__(self, mesh, url, seconds, connections=16):
        self.process = mesh.workspace.spawn(
            f"wrk-{len(mesh.workspace.processes)}",
            [tool("wrk"), "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "--latency", url],
        )
        self.seconds = seconds

    def finish(self):
        self.process.child.wait(self.seconds + 30)
        text = self.process.text()
        check(self.process.child.returncode == 0, f"wrk exited {self.process.child.returncode}: {text}")
        found = re.search(r"(\d+) requests in", text)
        check(found and int(found.group(1)) > 0, f"wrk made no request: {text}")
        check("Socket errors" not in text, f"wrk saw socket errors: {text}")
        check("Non-2xx" not in text, f"wrk saw refused requests: {text}")
        return int(found.group(1))
