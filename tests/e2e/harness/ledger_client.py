"""The ledger's client, a process of its own: numbered requests with hashed bodies, at a steady rate, until SIGTERM.

`ledger_client.py SETTINGS` (JSON). What comes of each request and each stream is one JSON line of the settings' `out`. Nothing
is tried twice here: who retries is somebody else's question. After SIGTERM what is under way is waited for, `deadline` seconds
at most, which is also what a request may take before it counts as hung.
"""

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import sys
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
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from harness.ledger_app import answer_to

LINE_EVERY = 0.05
LINES_A_STREAM = 200


class Settings:
    """`http1`, `http2`, `streams`: how many connections of each; `http`, `tcp`: (address, port) of where they go."""

    def __init__(self, text):
        values = {
            "http": None, "tcp": None, "http1": 12, "http2": 2, "concurrency": 4, "streams": 4, "think": 0.04,
            "deadline": 20, "post_only": False, "rude": False, "body": 40000, "answer": 20000, "grpc": True, "slow": 0.05,
            "churn": 0.02,
        }  # fmt: skip
        values.update(json.loads(text))
        self.__dict__.update(values)


class Ledger:
    def __init__(self, settings):
        self.settings = settings
        self.next = settings.first
        self.out = open(settings.out, "w", buffering=1 << 16)
        self.stopping = asyncio.Event()

    def number(self):
        self.next += 1
        return self.next

    def write(self, **line):
        self.out.write(json.dumps(line) + "\n")

    def closed(self, connection, why):
        """A connection to the sidecar ended between requests, and nobody had said so."""
        self.write(kind="connection", id=connection, at=time.time(), why=why)

    async def pause(self):
        try:
            await asyncio.wait_for(self.stopping.wait(), self.settings.think * 2 * random.random())
        except TimeoutError:
            pass


class Asked:
    """One request, and what its answer has to be."""

    def __init__(self, ledger, kind):
        settings = ledger.settings
        self.ledger, self.kind = ledger, kind
        self.number = ledger.number()
        self.is_post = settings.post_only or kind == "grpc" or random.random() < 0.6
        self.body = os.urandom(random.randrange(settings.body)) if self.is_post else b""
        self.digest = hashlib.sha256(self.body).hexdigest()
        self.bytes = random.randrange(settings.answer)
        wait = random.randrange(200, 800) if random.random() < settings.slow else random.randrange(4)
        self.target = f"/l/{self.number}?wait={wait}&bytes={self.bytes}" + ("&rude=1" if settings.rude else "")
        self.method = "POST" if self.is_post else "GET"
        self.began = time.time()

    def ended(self, answer):
        refused = answer.head.get("x-postern-decision")
        status = answer.status
        if answer.head.get("grpc-status", "0") != "0":
            status = 503
        self.ledger.write(
            kind=self.kind, id=self.number, method=self.method, hash=self.digest, at=round(self.began, 4),
            took=round(time.time() - self.began, 4), status=status, right=self.is_right(answer, status),
            error=answer.error, refused=refused,
        )  # fmt: skip

    def is_right(self, answer, status):
        """`None`: it is not the application's answer."""
        if status != 200:
            return None
        expected = answer_to(self.number, self.digest, self.bytes)
        if self.kind == "grpc":
            expected = b"\0" + len(expected).to_bytes(4, "big") + expected
        # One that broke off has to be the beginning of the right one.
        return expected.startswith(answer.body) if answer.error else answer.body == expected


class Answer:
    def __init__(self):
        self.status, self.head, self.body, self.error, self.done = None, {}, b"", None, asyncio.Event()


async def http1(ledger, index):
    """One keep-alive connection after the other, a request at a time."""
    settings = ledger.settings
    connection = None
    while not ledger.stopping.is_set():
        asked, answer = Asked(ledger, "http1"), Answer()
        try:
            async with asyncio.timeout(settings.deadline):
                if connection is None:
                    connection = await asyncio.open_connection(*settings.http, limit=1 << 20)
                    no_delay(connection[1])
                await exchange(*connection, asked, answer)
        except TimeoutError:
            answer.error = "hang"
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            answer.error = type(error).__name__
            answer.body = getattr(error, "partial", b"")
        asked.ended(answer)
        if answer.error or answer.head.get("connection") == "close" or random.random() < settings.churn:
            if connection:
                connection[1].close()
            connection = None
        await ledger.pause()
        if connection and connection[0].at_eof():
            ledger.closed(f"http1-{index}", "closed while idle")
            connection[1].close()
            connection = None


async def exchange(reader, writer, asked, answer):
    length = f"content-length: {len(asked.body)}\r\n" if asked.is_post else ""
    writer.write(f"{asked.method} {asked.target} HTTP/1.1\r\nhost: ledger.shop.svc\r\n{length}\r\n".encode() + asked.body)
    try:
        await writer.drain()
    except ConnectionError:
        pass  # the answer may be there all the same
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    answer.head = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    answer.status = int(head.split(" ", 2)[1])
    answer.body = await reader.readexactly(int(answer.head["content-length"]))


class Http2:
    """One HTTP/2 connection with several requests under way."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.session = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        self.answers = {}
        self.room = asyncio.Event()
        self.ended = None
        self.announced = False

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(*self.ledger.settings.http, limit=1 << 20)
        no_delay(self.writer)
        self.session.initiate_connection()
        self.session.increment_flow_control_window(1 << 24)
        self.flush()
        self.task = asyncio.create_task(self.read())

    async def read(self):
        try:
            while data := await self.reader.read(65536):
                for event in self.session.receive_data(data):
                    self.event(event)
                self.flush()
            self.end("closed")
        except (OSError, ProtocolError) as error:
            self.end(type(error).__name__)

    def event(self, event):
        answer = self.answers.get(getattr(event, "stream_id", None))
        if isinstance(event, ConnectionTerminated):
            self.announced = True
        elif isinstance(event, WindowUpdated):
            self.room.set()
        elif isinstance(event, DataReceived):
            self.session.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if answer is None:
            return
        if isinstance(event, ResponseReceived):
            answer.head = dict(event.headers)
            answer.status = int(answer.head[":status"])
        elif isinstance(event, TrailersReceived):
            answer.head.update(dict(event.headers))
        elif isinstance(event, DataReceived):
            answer.body += event.data
        elif isinstance(event, StreamEnded):
            answer.done.set()
        elif isinstance(event, StreamReset):
            answer.error = answer.error or f"reset {event.error_code}"
            answer.done.set()

    def end(self, why):
        self.ended = why
        self.room.set()
        for answer in self.answers.values():
            if not answer.done.is_set():
                answer.error = why
                answer.done.set()

    def close(self):
        self.task.cancel()
        self.writer.close()

    def flush(self):
        if not self.writer.is_closing():
            self.writer.write(self.session.data_to_send())

    async def request(self, asked, answer):
        head = [(":method", asked.method), (":scheme", "http"), (":authority", "ledger.shop.svc"), (":path", asked.target)]
        if asked.kind == "grpc":
            head += [("te", "trailers"), ("content-type", "application/grpc")]
        stream = self.session.get_next_available_stream_id()
        self.answers[stream] = answer
        try:
            self.session.send_headers(stream, head, end_stream=not asked.body)
            await self.send(stream, asked.body, answer)
            await answer.done.wait()
        finally:
            del self.answers[stream]

    async def send(self, stream, data, answer):
        while data and not answer.done.is_set():
            room = min(self.session.local_flow_control_window(stream), self.session.max_outbound_frame_size, len(data))
            if room <= 0:
                self.room.clear()
                await self.room.wait()
                continue
            self.session.send_data(stream, data[:room], end_stream=room == len(data))
            data = data[room:]
            self.flush()
        self.flush()


async def http2(ledger, index):
    """One connection after the other, shared by several callers."""
    shared = {"connection": None}
    callers = (http2_caller(ledger, shared, f"http2-{index}") for _ in range(ledger.settings.concurrency))
    await asyncio.gather(*callers)
    if shared["connection"]:
        shared["connection"].close()


async def http2_caller(ledger, shared, name):
    settings = ledger.settings
    while not ledger.stopping.is_set():
        asked, answer = Asked(ledger, "grpc" if settings.grpc and random.random() < 0.4 else "http2"), Answer()
        connection = shared["connection"]
        try:
            async with asyncio.timeout(settings.deadline):
                if connection is None:
                    connection = Http2(ledger)
                    await connection.open()
                    shared["connection"] = connection
                await connection.request(asked, answer)
        except TimeoutError:
            answer.error = "hang"
        except (OSError, ProtocolError) as error:
            answer.error = answer.error or type(error).__name__
        asked.ended(answer)
        if connection is not None and shared["connection"] is connection and (connection.ended or connection.announced):
            shared["connection"] = None
            if not connection.announced:
                ledger.closed(name, connection.ended)
        await ledger.pause()


async def stream(ledger, index):
    """L4: numbered lines that have to come back as they are. A new connection after each end."""
    settings = ledger.settings
    while not ledger.stopping.is_set():
        number, began, sent, back, why, corrupt = ledger.number(), time.time(), 0, 0, "done", False
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*settings.tcp), settings.deadline)
            while not ledger.stopping.is_set():
                line = f"L{number} {sent} {os.urandom(8).hex()}\n".encode()
                writer.write(line)
                sent += 1
                answered = await asyncio.wait_for(reader.readline(), settings.deadline)
                if not answered.endswith(b"\n"):
                    corrupt, why = not line.startswith(answered), "closed"
                    break
                back += 1
                if answered != line:
                    corrupt, why = True, "wrong line"
                    break
                await asyncio.sleep(LINE_EVERY)
                if sent >= LINES_A_STREAM and random.random() < settings.churn:
                    break
            writer.close()
        except TimeoutError:
            why = "hang"
        except OSError as error:
            why = type(error).__name__
        ledger.write(
            kind="stream", id=number, at=round(began, 4), took=round(time.time() - began, 4), sent=sent, back=back, why=why,
            corrupt=corrupt,
        )  # fmt: skip
        if why != "done":
            await asyncio.sleep(0.1)


def no_delay(writer):
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def main(settings):
    ledger = Ledger(settings)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ledger.stopping.set)
    tasks = [http1(ledger, index) for index in range(settings.http1 if settings.http else 0)]
    tasks += [http2(ledger, index) for index in range(settings.http2 if settings.http else 0)]
    tasks += [stream(ledger, index) for index in range(settings.streams if settings.tcp else 0)]
    print("ready", flush=True)
    await asyncio.gather(*tasks)
    ledger.out.close()


if __name__ == "__main__":
    asyncio.run(main(Settings(sys.argv[1])))
