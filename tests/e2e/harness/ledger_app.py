"""The ledger's application, a process of its own so that it can be killed: HTTP/1, HTTP/2 and numbered lines on one port.

`ledger_app.py PORT LOG`. Each event is one line of LOG, written at once: `S id` when a request's head has been read, `B id
sha256` when its body has been, `E id` when its answer has been written. Answers are `id sha256 pattern`, where the pattern
follows from the id, so that whoever reads it knows whether a byte is wrong.

A request's query says how it is answered: `wait=MS`, `bytes=N`. With `rude=1` the connection is closed at a point that the id
chooses: after the head, after the body, within the answer, or right after it.
"""

import asyncio
import hashlib
import os
import sys
import time
from urllib.parse import parse_qs

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LINE_START = b"L"
GRPC = b"application/grpc"


def pattern(number, size):
    """`size` bytes that follow from a request's id."""
    seed = hashlib.sha256(str(number).encode()).hexdigest().encode()
    return (seed * (size // len(seed) + 1))[:size]


def answer_to(number, digest, size):
    return f"{number} {digest} ".encode() + pattern(number, size)


class Log:
    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, event, number, more=""):
        os.write(self.file, f"{event} {number} {more} {time.time():.4f}\n".encode())


class Wanted:
    """What a target asks for: `/l/ID?wait=MS&bytes=N&rude=1`."""

    def __init__(self, target):
        path, _, query = target.partition("?")
        values = {name: value[0] for name, value in parse_qs(query).items()}
        self.number = int(path.rsplit("/", 1)[1])
        self.wait = int(values.get("wait", 0)) / 1000
        self.bytes = int(values.get("bytes", 0))
        self.rude = "rude" in values

    def point(self):
        """Where a rude answer ends: 0 after the head, 1 after the body, 2 within the answer, 3 after it, else nowhere."""
        return self.number * 2654435761 % 13 if self.rude else None


async def serve(log, reader, writer):
    try:
        first = await reader.readexactly(1)
        if first == LINE_START:
            await lines(reader, writer)
        elif first == PREFACE[:1]:
            # POST begins alike.
            rest = await reader.readexactly(2)
            if first + rest == PREFACE[:3]:
                return await Http2(log, reader, writer).run(first + rest)
            await http1(log, reader, writer, first + rest)
        else:
            await http1(log, reader, writer, first)
    except (OSError, asyncio.IncompleteReadError, ProtocolError):
        pass
    finally:
        writer.close()


async def lines(reader, writer):
    """Sends back each line."""
    rest = LINE_START
    while line := rest + await reader.readline():
        rest = b""
        writer.write(line)
        await writer.drain()


async def http1(log, reader, writer, first):
    while True:
        head = first + await reader.readuntil(b"\r\n\r\n")
        first = b""
        request, *fields = head.decode("latin-1").split("\r\n")
        fields = dict(field.lower().split(": ", 1) for field in fields if ": " in field)
        wanted = Wanted(request.split(" ")[1])
        log("S", wanted.number)
        point = wanted.point()
        if point == 0:
            return
        digest = hashlib.sha256(await body_of(reader, fields)).hexdigest()
        log("B", wanted.number, digest)
        if point == 1:
            return
        if wanted.wait:
            await asyncio.sleep(wanted.wait)
        answer = answer_to(wanted.number, digest, wanted.bytes)
        whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer
        writer.write(whole[: len(whole) // 2] if point == 2 else whole)
        await writer.drain()
        if point == 2:
            return
        log("E", wanted.number)
        if point == 3:
            return


async def body_of(reader, fields):
    if fields.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(fields.get("content-length", 0)))
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return bytes(body)


class Http2:
    """One connection. Calls of gRPC get their status in trailers."""

    def __init__(self, log, reader, writer):
        self.log, self.reader, self.writer = log, reader, writer
        self.session = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self.bodies = {}
        self.heads = {}
        self.room = asyncio.Event()

    async def run(self, data):
        self.session.initiate_connection()
        self.flush()
        tasks = set()
        while data:
            for event in self.session.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.begin(event)
                elif isinstance(event, DataReceived):
                    self.bodies[event.stream_id].update(event.data)
                    self.session.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded) and event.stream_id in self.heads:
                    task = asyncio.create_task(self.answer(event.stream_id))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                elif isinstance(event, StreamReset):
                    self.heads.pop(event.stream_id, None)
                elif isinstance(event, WindowUpdated):
                    self.room.set()
            self.flush()
            data = await self.reader.read(65536)

    def begin(self, event):
        head = dict(event.headers)
        wanted = Wanted(head[":path"])
        self.log("S", wanted.number)
        self.heads[event.stream_id] = (wanted, head.get("content-type", "").encode() == GRPC)
        self.bodies[event.stream_id] = hashlib.sha256()

    async def answer(self, stream):
        wanted, is_grpc = self.heads[stream]
        digest = self.bodies.pop(stream).hexdigest()
        self.log("B", wanted.number, digest)
        if wanted.wait:
            await asyncio.sleep(wanted.wait)
        try:
            answer = answer_to(wanted.number, digest, wanted.bytes)
            if is_grpc:
                answer = b"\0" + len(answer).to_bytes(4, "big") + answer
            head = [(":status", "200")] + ([("content-type", GRPC.decode())] if is_grpc else [])
            self.session.send_headers(stream, head)
            await self.send(stream, answer, not is_grpc)
            if is_grpc:
                self.session.send_headers(stream, [("grpc-status", "0")], end_stream=True)
            self.flush()
            self.log("E", wanted.number)
        except (ProtocolError, KeyError, OSError):
            pass  # reset meanwhile
        finally:
            self.heads.pop(stream, None)

    async def send(self, stream, data, end):
        while data:
            room = min(self.session.local_flow_control_window(stream), self.session.max_outbound_frame_size, len(data))
            if room <= 0:
                self.room.clear()
                self.flush()
                await self.room.wait()
                continue
            self.session.send_data(stream, data[:room], end_stream=end and room == len(data))
            data = data[room:]
        self.flush()

    def flush(self):
        self.writer.write(self.session.data_to_send())


async def main(port, path):
    log = Log(path)
    server = await asyncio.start_server(lambda *ends: serve(log, *ends), "0.0.0.0", port, backlog=512, limit=1 << 20)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
