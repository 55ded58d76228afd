"""Apps behind a sidecar. They record what reaches them byte by byte, because that is what the scenarios ask about."""

import hashlib
import os
import socket
import threading
import time

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived


class Server:
    """A listener on a free port with one daemon thread a connection."""

    def __init__(self):
        self.listener = self.listen()
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def listen(self):
        return socket.create_server(("127.0.0.1", 0), backlog=512)

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
            threading.Thread(target=self._guard, args=(connection,), daemon=True).start()

    def _guard(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            try:
                self.handle(connection)
            except OSError:
                pass

    def close(self):
        self.listener.close()


class Http1App(Server):
    """HTTP/1.1: `heads` and `trailers` hold the raw bytes. `/hang/…` answers a chunk every 50 ms until it is cut;
    `/slow/MS` answers after so many milliseconds; anything else answers with the body's SHA-256."""

    def __init__(self):
        self.heads = []
        self.trailers = []
        self.everything = bytearray()
        self.hanging = 0
        super().__init__()

    def handle(self, connection):
        reader = connection.makefile("rb", buffering=65536)
        while True:
            head = self._head(reader)
            if not head:
                return
            body = self._body(connection, reader, head)
            path = head.split(b" ", 2)[1].decode("latin-1")
            if path.startswith("/hang"):
                return self._hang(connection)
            if path.startswith("/slow/"):
                time.sleep(int(path.rsplit("/", 1)[1]) / 1000)
            answer = hashlib.sha256(body).hexdigest().encode()
            if head.startswith(b"HEAD "):
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n")
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
            if head.split(b"\r\n", 1)[0].endswith(b"HTTP/1.0"):
                return

    def _head(self, reader):
        head = bytearray()
        while True:
            line = reader.readline(1 << 20)
            if not line:
                return b""
            head += line
            if line == b"\r\n" and len(head) > 2:
                break
        with self.lock:
            self.heads.append(bytes(head))
            self.everything += head
        return bytes(head)

    def _body(self, connection, reader, head):
        fields = fields_of(head)
        if any(value.lower() == b"100-continue" for value in fields.get(b"expect", [])):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"transfer-encoding" not in fields:
            length = int(fields.get(b"content-length", [b"0"])[0])
            return reader.read(length)
        body = bytearray()
        while True:
            size = int(reader.readline().split(b";")[0], 16)
            if size == 0:
                break
            body += reader.read(size)
            reader.readline()
        while (line := reader.readline()) not in (b"\r\n", b""):
            with self.lock:
                self.trailers.append(line)
                self.everything += line
        return bytes(body)

    def _hang(self, connection):
        with self.lock:
            self.hanging += 1
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                connection.sendall(b"4\r\nbeat\r\n")
                time.sleep(0.05)
        finally:
            with self.lock:
                self.hanging -= 1


def fields_of(head):
    """Header fields by lower-case name; a name's values in order."""
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        if b":" in line:
            name, value = line.split(b":", 1)
            fields.setdefault(name.strip().lower(), []).append(value.strip())
    return fields


class Http2App(Server):
    """HTTP/2 with prior knowledge: `requests` and `trailers` hold lists of (name, value). `/hang…` never ends."""

    def __init__(self):
        self.requests = []
        self.trailers = []
        super().__init__()

    def handle(self, connection):
        session = H2Connection(H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False))
        session.initiate_connection()
        connection.sendall(session.data_to_send())
        hanging = set()
        while data := connection.recv(65536):
            for event in session.receive_data(data):
                self._event(session, event, hanging)
            connection.sendall(session.data_to_send())

    def _event(self, session, event, hanging):
        if isinstance(event, RequestReceived):
            with self.lock:
                self.requests.append(list(event.headers))
            if dict(event.headers)[b":path"].startswith(b"/hang"):
                hanging.add(event.stream_id)
                session.send_headers(event.stream_id, [(":status", "200")])
                session.send_data(event.stream_id, b"beat")
        elif isinstance(event, TrailersReceived):
            with self.lock:
                self.trailers.append(list(event.headers))
        elif isinstance(event, DataReceived):
            session.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded) and event.stream_id not in hanging:
            session.send_headers(event.stream_id, [(":status", "200")])
            session.send_data(event.stream_id, b"ok", end_stream=True)
        elif isinstance(event, (StreamReset, ConnectionTerminated)):
            hanging.discard(getattr(event, "stream_id", None))


class EchoApp(Server):
    """L4: sends back what it gets; after the peer's half-close it says goodbye and closes."""

    GOODBYE = b"<end>"

    def handle(self, connection):
        while data := connection.recv(262144):
            connection.sendall(data)
        connection.sendall(self.GOODBYE)
        connection.shutdown(socket.SHUT_WR)


class BannerApp(Server):
    """L4, the server speaks first; then it answers each line, as SMTP and MySQL do."""

    BANNER = b"220 ready\r\n"

    def handle(self, connection):
        connection.sendall(self.BANNER)
        for line in connection.makefile("rb"):
            connection.sendall(b"250 " + line)


class BulkApp(Server):
    """L4: sends `size` bytes while it reads all of the peer's, then the SHA-256 of what it read."""

    def __init__(self, size):
        self.content = os.urandom(1 << 20) * (size >> 20)
        self.digest = hashlib.sha256(self.content).hexdigest()
        super().__init__()

    def handle(self, connection):
        sender = threading.Thread(target=connection.sendall, args=(self.content,), daemon=True)
        sender.start()
        seen = hashlib.sha256()
        while data := connection.recv(262144):
            seen.update(data)
        sender.join(60)
        connection.sendall(seen.hexdigest().encode())
        connection.shutdown(socket.SHUT_WR)
