"""gRPC through a pair: four kinds of calls, trailers, a deadline, a cancel; a refused call gets PERMISSION_DENIED."""

import time
from concurrent import futures

import grpc

from harness.mesh import BATCH, WEB
from harness.processes import check, expect, wait_until
from harness.scenario import main

OPEN = "/echo.Echo"
CLOSED = "/vault.Vault"


class Service(grpc.GenericRpcHandler):
    """Bytes in, bytes out: no generated code is needed."""

    def __init__(self):
        self.cancelled = False
        self.callers = set()

    def service(self, details):
        self.callers.add(dict(details.invocation_metadata).get("x-spiffe-id"))
        return {
            f"{OPEN}/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            f"{OPEN}/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            f"{OPEN}/Slow": grpc.unary_unary_rpc_method_handler(self.slow),
            f"{OPEN}/Down": grpc.unary_stream_rpc_method_handler(self.down),
            f"{OPEN}/Up": grpc.stream_unary_rpc_method_handler(self.up),
            f"{OPEN}/Both": grpc.stream_stream_rpc_method_handler(self.both),
            f"{CLOSED}/Open": grpc.unary_unary_rpc_method_handler(self.unary),
        }.get(details.method)

    def unary(self, request, context):
        context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last", "2"), ("raw-bin", b"\x00\xff")))
        return request

    def fail(self, request, context):
        context.set_trailing_metadata((("why", "because"),))
        context.abort(grpc.StatusCode.DATA_LOSS, "lost: 50% ü")

    def slow(self, request, context):
        time.sleep(5)
        return request

    def down(self, request, context):
        context.add_callback(lambda: setattr(self, "cancelled", True))
        for number in range(int(request)):
            yield b"%d" % number

    def up(self, requests, context):
        return b"%d" % sum(len(message) for message in requests)

    def both(self, requests, context):
        for message in requests:
            yield message[::-1]


def run(mesh):
    service = Service()
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[service])
    app_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    inbound = {
        "allow": None,
        "routes": [
            {"name": "echo", "match": {"path": f"{OPEN}/**"}, "allow": [{"spiffe": WEB}]},
            {"name": "vault", "match": {"path": f"{CLOSED}/**"}, "allow": [{"spiffe": BATCH}]},
        ],
    }
    inbound = {key: value for key, value in inbound.items() if value is not None}
    pair = mesh.pair(mesh.identity(), app_port, inbound=inbound)
    options = [("grpc.default_authority", "orders.shop.svc"), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{pair.port}", options) as channel:
        calls(channel)
        endings(channel, service)
        refusals(channel)
    expect("the caller's identity in metadata", service.callers, {WEB})


def calls(channel):
    answer, call = channel.unary_unary(f"{OPEN}/Unary").with_call(b"hello", timeout=10)
    expect("unary", answer, b"hello")
    check(("first", "1") in [tuple(pair) for pair in call.initial_metadata()], "initial metadata is lost")
    trailers = dict(call.trailing_metadata())
    expect("trailers", (trailers.get("last"), trailers.get("raw-bin")), ("2", b"\x00\xff"))
    big = b"z" * 3_000_000
    expect("unary with 3 MB", channel.unary_unary(f"{OPEN}/Unary")(big, timeout=20), big)
    received = list(channel.unary_stream(f"{OPEN}/Down")(b"1000", timeout=20))
    expect("server streaming", received, [b"%d" % number for number in range(1000)])
    total = channel.stream_unary(f"{OPEN}/Up")((b"x" * 1000 for _ in range(500)), timeout=20)
    expect("client streaming", total, b"500000")
    turns = channel.stream_stream(f"{OPEN}/Both")((b"%03d" % number for number in range(500)), timeout=20)
    expect("both ways", list(turns), [(b"%03d" % number)[::-1] for number in range(500)])


def endings(channel, service):
    expect("an error", status_of(channel.unary_unary(f"{OPEN}/Fail")), (grpc.StatusCode.DATA_LOSS, "lost: 50% ü"))
    started = time.monotonic()
    code, _ = status_of(channel.unary_unary(f"{OPEN}/Slow"), timeout=0.5)
    expect("a deadline", code, grpc.StatusCode.DEADLINE_EXCEEDED)
    check(time.monotonic() - started < 3, "the deadline came late")
    service.cancelled = False
    call = channel.unary_stream(f"{OPEN}/Down")(b"100000000", timeout=30)
    next(call)
    call.cancel()
    wait_until(lambda: service.cancelled, "the cancel to reach the server")
    code, _ = status_of(channel.unary_unary(f"{OPEN}/Unknown"))
    expect("an unknown method", code, grpc.StatusCode.UNIMPLEMENTED)


def refusals(channel):
    code, details = status_of(channel.unary_unary(f"{CLOSED}/Open"))
    expect(f"a refused call ({details})", code, grpc.StatusCode.PERMISSION_DENIED)
    code, details = status_of(channel.stream_stream(f"{CLOSED}/Open"), request=iter([b"x"]), stream=True)
    expect(f"a refused stream ({details})", code, grpc.StatusCode.PERMISSION_DENIED)
    expect("the next call", channel.unary_unary(f"{OPEN}/Unary")(b"still", timeout=10), b"still")


def status_of(method, timeout=10, request=b"x", stream=False):
    try:
        answer = method(request, timeout=timeout)
        return (list(answer) if stream else answer), None
    except grpc.RpcError as error:
        return error.code(), error.details()


if __name__ == "__main__":
    main(run)
