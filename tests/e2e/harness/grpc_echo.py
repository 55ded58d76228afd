"""A gRPC server and client, each a process of its own: gRPC's threads do not follow one into another namespace.

    grpc_echo.py serve PORT
    grpc_echo.py call ADDRESS TEXT      prints what came back, and how long a second channel took
"""

import sys
import time
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/echo.Echo/Unary": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
            "/echo.Echo/Both": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
        }.get(details.method)


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Echo()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(address, text):
    message = text.encode()
    for attempt in range(2):
        started = time.monotonic()
        # Channels share connections unless their arguments differ.
        with grpc.insecure_channel(address, [("attempt", attempt)]) as channel:
            assert channel.unary_unary("/echo.Echo/Unary")(message, timeout=10) == message
            took = time.monotonic() - started
            both = channel.stream_stream("/echo.Echo/Both")((message for _ in range(100)), timeout=10)
            assert list(both) == [message] * 100
    print(f"{text} {took:.3f}")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        call(*sys.argv[2:])
